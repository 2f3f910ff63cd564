"""A few handlers that can be imported by name, for trying out a server."""

import asyncio
from typing import Any

__all__ = ["compute", "get_user", "get_user_async", "root"]


def root() -> dict[str, Any]:
    return {"message": "Hello from FasterAPI"}


def compute(n: int = 1000) -> dict[str, Any]:
    """Work for the processor, so that several workers make a difference."""
    return {"n": n, "sum_of_squares": sum(i * i for i in range(n))}


def get_user(user_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "name": f"User {user_id}"}


async def get_user_async(user_id: int) -> dict[str, Any]:
    await asyncio.sleep(0)  # Where a database would be asked.
    return {"user_id": user_id, "name": f"User {user_id}"}
