"""FastAPI-shaped handlers behind a native edge.

>>> from fasterapi import FastAPI
>>> app = FastAPI()
>>> @app.get("/user/{user_id}")
... async def user(user_id: int):
...     return {"user_id": user_id}

Served by `fasterapi run module:app`.
"""

from fasterapi import status
from fasterapi._app import FastAPI
from fasterapi._background import BackgroundTask, BackgroundTasks
from fasterapi._errors import ClientDisconnected, HTTPException, RequestValidationError, ResponseValidationError
from fasterapi._files import FileResponse
from fasterapi._mappings import Headers, MutableHeaders, QueryParams
from fasterapi._params import Body, Cookie, Depends, Header, Path, Query
from fasterapi._request import URL, Address, Request, State
from fasterapi._response import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from fasterapi._routing import APIRouter, Route
from fasterapi._sse import EventSourceResponse, ServerSentEvent
from fasterapi._streaming import StreamingResponse

App = FastAPI

__all__ = [
    "URL",
    "APIRouter",
    "Address",
    "App",
    "BackgroundTask",
    "BackgroundTasks",
    "Body",
    "ClientDisconnected",
    "Cookie",
    "Depends",
    "EventSourceResponse",
    "FastAPI",
    "FileResponse",
    "HTMLResponse",
    "HTTPException",
    "Header",
    "Headers",
    "JSONResponse",
    "MutableHeaders",
    "Path",
    "PlainTextResponse",
    "Query",
    "QueryParams",
    "RedirectResponse",
    "Request",
    "RequestValidationError",
    "Response",
    "ResponseValidationError",
    "Route",
    "ServerSentEvent",
    "State",
    "StreamingResponse",
    "status",
]
