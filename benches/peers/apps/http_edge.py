"""Ours for the comparison of HTTP's versions: an answer of a worker's, one of the edge's own (`OPTIONS /hello`), and 1 GB in either direction."""

from collections.abc import AsyncIterator

from fasterapi import FastAPI, Request, StreamingResponse

app = FastAPI()
PIECE = bytes(64 * 1024)


@app.get("/hello")
async def hello() -> dict[str, str]:
    return {"message": "Hello, World!"}


@app.get("/download/{size}")
async def download(size: int) -> StreamingResponse:
    async def content() -> AsyncIterator[bytes]:
        for at in range(0, size, len(PIECE)):
            yield PIECE[: size - at]

    return StreamingResponse(content(), media_type="application/octet-stream")


@app.post("/upload")
async def upload(request: Request) -> int:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return size
