"""A module whose annotations are text; one of them exists for type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel

from fasterapi import FastAPI, Path

if TYPE_CHECKING:
    from collections import OrderedDict

app = FastAPI()


class Thing(BaseModel):
    name: str


@app.get("/thing/{thing_id}", response_model=None)
async def read(thing_id: Annotated[int, Path(ge=1)], q: str | None = None) -> OrderedDict[str, int]:
    return {"id": thing_id, "q": q}  # type: ignore[return-value]


@app.post("/thing")
async def write(thing: Thing) -> Thing:
    return thing
