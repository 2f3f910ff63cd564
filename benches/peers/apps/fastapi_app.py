"""FastAPI: a framework's routing, validation and response model, on whichever server runs it."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/hello")
async def hello() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/user/{user_id}")
async def get_user(user_id: int) -> dict[str, int | str]:
    return {"user_id": user_id, "name": f"User {user_id}"}
