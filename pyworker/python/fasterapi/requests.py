"""The request class, where code written for FastAPI looks for it."""

from fasterapi._request import Request

__all__ = ["Request"]
