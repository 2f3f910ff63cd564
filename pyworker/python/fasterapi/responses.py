"""Response classes, where code written for FastAPI looks for them."""

from fasterapi._response import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

__all__ = ["HTMLResponse", "JSONResponse", "PlainTextResponse", "RedirectResponse", "Response"]
