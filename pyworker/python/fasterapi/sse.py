"""Server-sent events, where code written for FastAPI looks for them."""

from fasterapi._sse import EventSourceResponse, ServerSentEvent

__all__ = ["EventSourceResponse", "ServerSentEvent"]
