"""Answers with what it was asked, and writes down each POST that it executes where no crash can lose it."""

import asyncio
import os
import time

from fasterapi import FastAPI, Request

app = FastAPI()
_executed = os.open(os.environ["EXECUTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.get("/quick/{tag}")
async def quick(tag: str) -> dict[str, str]:
    return {"tag": tag}


@app.get("/waiting/{tag}")
async def waiting(tag: str) -> dict[str, str]:
    await asyncio.sleep(0.02)
    return {"tag": tag}


@app.get("/thread/{tag}")
def thread(tag: str) -> dict[str, str]:
    time.sleep(0.005)
    return {"tag": tag}


@app.post("/post/{tag}")
async def post(tag: str, request: Request) -> dict[str, str | int]:
    os.write(_executed, f"{tag}\n".encode())
    body = await request.body()
    await asyncio.sleep(0.002)
    return {"tag": tag, "length": len(body)}
