"""The smallest application: `make run`, then `curl http://127.0.0.1:8000/user/42`."""

from fasterapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/user/{user_id}")
async def get_user(user_id: int) -> dict[str, int | str]:
    return {"user_id": user_id, "name": f"User {user_id}"}
