"""Serving from within a script."""

from fasterapi.http.server import Server, ServerError

__all__ = ["Server", "ServerError"]
