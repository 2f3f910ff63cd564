"""A small application to look around in.

fasterapi run hello:app --app-dir examples

curl localhost:8000/
curl localhost:8000/user/7
curl 'localhost:8000/items?limit=2&tag=red'
curl localhost:8000/items -H 'content-type: application/json' -d '{"name": "lamp", "price": 19.5}'
curl localhost:8000/primes/100
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fasterapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Runs in each worker: the first half before it takes requests, the second when it has answered its last one."""
    app.state.items = {"lamp": Item(name="lamp", price=19.5, tags=["red"])}
    yield
    app.state.items.clear()


app = FastAPI(title="Hello", lifespan=lifespan)


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)
    tags: list[str] = []


# Nothing but path parameters of simple types, and JSON back: the native side calls such a handler directly.


@app.get("/")
async def root() -> dict[str, str]:
    return {"message": "Hello from FasterAPI"}


@app.get("/user/{user_id}")
async def user(user_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "name": f"User {user_id}"}


# Query parameters come from the signature, and what does not fit it is answered with 422 and the reasons.


@app.get("/items")
async def items(
    limit: Annotated[int, Query(ge=1, le=100)] = 10, tag: Annotated[list[str] | None, Query()] = None
) -> list[Item]:
    wanted = set(tag or ())
    found = [item for item in app.state.items.values() if wanted <= set(item.tags)]
    return found[:limit]


@app.post("/items", status_code=201)
async def add_item(item: Item) -> Item:
    # Each worker is a process with a memory of its own: a real application keeps this in a database.
    if item.name in app.state.items:
        raise HTTPException(409, f"there is a {item.name} already")
    app.state.items[item.name] = item
    return item


# A plain function runs in a thread, so that it may take its time without holding up the worker's event loop.


@app.get("/primes/{below}")
def primes(below: int) -> dict[str, Any]:
    found = [n for n in range(2, min(below, 100_000)) if all(n % d for d in range(2, int(n**0.5) + 1))]
    return {"below": below, "count": len(found)}
