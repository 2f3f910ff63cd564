"""The application object."""

import inspect
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from fasterapi import _json, _registry
from fasterapi._errors import HTTPException, RequestValidationError
from fasterapi._request import Request, State
from fasterapi._response import JSONResponse, PlainTextResponse, Response, has_body
from fasterapi._routing import APIRouter, F, Route
from fasterapi._threads import ThreadPool

if TYPE_CHECKING:
    from fasterapi._native import Answer

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

log = logging.getLogger("fasterapi")


class FastAPI(APIRouter):
    """An application: routes, what runs at startup and shutdown, and what answers for exceptions.

    `openapi_url`, `docs_url`, `redoc_url` and the keywords that describe the application are accepted so that existing code
    keeps working, but no schema and no documentation page is served yet.

    `thread_pool_size` bounds the `def` handlers that run at the same time in one worker.
    """

    def __init__(
        self,
        *,
        debug: bool = False,
        title: str = "FastAPI",
        summary: str | None = None,
        description: str = "",
        version: str = "0.1.0",
        openapi_url: str | None = "/openapi.json",
        openapi_tags: Sequence[Mapping[str, Any]] | None = None,
        servers: Sequence[Mapping[str, Any]] | None = None,
        dependencies: Sequence[Any] | None = None,
        default_response_class: type[Response] = JSONResponse,
        redirect_slashes: bool = True,
        docs_url: str | None = "/docs",
        redoc_url: str | None = "/redoc",
        swagger_ui_oauth2_redirect_url: str | None = "/docs/oauth2-redirect",
        swagger_ui_init_oauth: Mapping[str, Any] | None = None,
        swagger_ui_parameters: Mapping[str, Any] | None = None,
        exception_handlers: Mapping[int | type[Exception], Callable[..., Any]] | None = None,
        on_startup: Sequence[Callable[[], Any]] | None = None,
        on_shutdown: Sequence[Callable[[], Any]] | None = None,
        lifespan: Lifespan | None = None,
        terms_of_service: str | None = None,
        contact: Mapping[str, Any] | None = None,
        license_info: Mapping[str, Any] | None = None,
        root_path: str = "",
        responses: Mapping[int | str, Any] | None = None,
        deprecated: bool | None = None,
        include_in_schema: bool = True,
        thread_pool_size: int = 40,
    ) -> None:
        super().__init__(
            dependencies=dependencies,
            default_response_class=default_response_class,
            on_startup=on_startup,
            on_shutdown=on_shutdown,
        )
        self.debug = debug
        self.title = title
        self.description = description
        self.version = version
        self.root_path = root_path
        self.redirect_slashes = redirect_slashes
        self.lifespan = lifespan
        self.lifespan_state: dict[str, Any] = {}
        self.state = State()
        self.exception_handlers: dict[int | type[Exception], Callable[..., Any]] = dict(exception_handlers or {})
        self.thread_pool_size = thread_pool_size
        self._threads: ThreadPool | None = None
        _registry.record(self)

    def _admit(self, route: Route) -> None:
        if not route.path:
            raise ValueError(f"the route of {route.name} has no path: give it one, or its router a prefix")
        super()._admit(route)

    @property
    def threads(self) -> ThreadPool:
        if self._threads is None:
            self._threads = ThreadPool(self.thread_pool_size)
        return self._threads

    def add_exception_handler(self, key: int | type[Exception], handler: Callable[..., Any]) -> None:
        self.exception_handlers[key] = handler

    def exception_handler(self, key: int | type[Exception]) -> Callable[[F], F]:
        """Registers `handler(request, error)` for a status code or a class of exceptions."""

        def register(handler: F) -> F:
            self.add_exception_handler(key, handler)
            return handler

        return register

    def fail(self, error: BaseException) -> "Answer":
        """The answer to what a handler raised when the application has no say of its own."""
        if isinstance(error, HTTPException):
            if not has_body(error.status_code):
                return Response(None, error.status_code, error.headers).answer()
            return JSONResponse({"detail": error.detail}, error.status_code, error.headers).answer()
        if isinstance(error, RequestValidationError):
            response = Response(None, 422, media_type="application/json")
            response.body = _json.dumps({"detail": error.errors()}, _default_for_input)
            return response.answer()
        log.error("a handler failed", exc_info=error)
        if self.debug:
            return PlainTextResponse("".join(traceback.format_exception(error)), 500).answer()
        return JSONResponse({"detail": "Internal Server Error"}, 500).answer()

    async def answer_error(self, error: Exception, request: Request) -> "Answer | Response":
        """The same, but the application's own exception handlers come first. A response is one that has to be sent."""
        unhandled = not isinstance(error, HTTPException | RequestValidationError)
        handler = self._find_handler(error)
        if handler is None or (unhandled and self.debug and handler in self._catch_alls()):
            return self.fail(error)
        if unhandled and handler in self._catch_alls():
            log.error("a handler failed", exc_info=error)
        try:
            if inspect.iscoroutinefunction(handler):
                response = await handler(request, error)
            else:
                response = await self.threads.run(handler, request, error)
            if not isinstance(response, Response):
                raise TypeError(f"exception handler {handler!r} returned {type(response).__name__}, not a Response")
            return response.outcome()
        except Exception as second:
            return self.fail(second)

    def _catch_alls(self) -> tuple[Any, ...]:
        return self.exception_handlers.get(500), self.exception_handlers.get(Exception)

    def _find_handler(self, error: Exception) -> Callable[..., Any] | None:
        handlers = self.exception_handlers
        if not handlers:
            return None
        if isinstance(error, HTTPException) and error.status_code in handlers:
            return handlers[error.status_code]
        for base in type(error).__mro__:
            if base is Exception and isinstance(error, HTTPException | RequestValidationError):
                return None  # What answers for everything unforeseen does not take these two from their defaults.
            if base in handlers:
                return handlers[base]
        return handlers.get(500)


def _default_for_input(value: Any) -> Any:
    """As `default`; but a body that is not text must not turn a 422 into a 500."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else _json.default(value)
