"""Ours: the same handlers as fastapi_app, natively."""

from fasterapi import FastAPI

app = FastAPI()


@app.get("/hello")
async def hello() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/user/{user_id}")
async def get_user(user_id: int) -> dict[str, int | str]:
    return {"user_id": user_id, "name": f"User {user_id}"}
