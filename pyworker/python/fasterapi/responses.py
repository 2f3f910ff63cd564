"""Response classes, where code written for FastAPI looks for them."""

from fasterapi._files import FileResponse
from fasterapi._response import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from fasterapi._sse import EventSourceResponse, ServerSentEvent
from fasterapi._streaming import StreamingResponse

__all__ = [
    "EventSourceResponse",
    "FileResponse",
    "HTMLResponse",
    "JSONResponse",
    "PlainTextResponse",
    "RedirectResponse",
    "Response",
    "ServerSentEvent",
    "StreamingResponse",
]
