"""What a handler may raise to answer with something else than a result, and what the framework raises itself."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any


class HTTPException(Exception):
    """Answers with this status and `{"detail": detail}`."""

    def __init__(self, status_code: int, detail: Any = None, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = status_code
        self.detail = HTTPStatus(status_code).phrase if detail is None else detail
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status_code}: {self.detail}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(status_code={self.status_code!r}, detail={self.detail!r})"


class RequestValidationError(Exception):
    """The request does not fit the handler's parameters; answered 422 with one entry per mistake."""

    def __init__(self, errors: Sequence[Any], *, body: Any = None) -> None:
        super().__init__(errors)
        self._errors = errors
        self.body = body

    def errors(self) -> Sequence[Any]:
        return self._errors


class ResponseValidationError(Exception):
    """The handler's result does not fit its response model; answered 500, since the mistake is the server's."""

    def __init__(self, errors: Sequence[Any], *, body: Any = None) -> None:
        super().__init__(f"{len(errors)} validation error(s): {errors}")
        self._errors = errors
        self.body = body

    def errors(self) -> Sequence[Any]:
        return self._errors


class ClientDisconnected(OSError):
    """The client went away: nothing more of its request comes, and nobody waits for the answer."""

    def __init__(self) -> None:
        super().__init__("the client went away")
