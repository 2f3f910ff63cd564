"""Exceptions, where code written for FastAPI looks for them."""

from fasterapi._errors import HTTPException, RequestValidationError, ResponseValidationError, WebSocketException

__all__ = ["HTTPException", "RequestValidationError", "ResponseValidationError", "WebSocketException"]
