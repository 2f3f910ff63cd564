"""What a worker asks of an application, whatever its interface is; and the answers of this package's own kind."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from fasterapi._endpoint import compile_route, deliver
from fasterapi._lifespan import running
from fasterapi._loop import attend
from fasterapi._routing import WebSocketRoute

if TYPE_CHECKING:
    from fasterapi._app import FastAPI
    from fasterapi._native import Answer, AsgiEndpoint, Endpoint, Exchange, Lanes, WsgiEndpoint
    from fasterapi._response import Response
    from fasterapi._routing import Route


class Application(Protocol):
    """Made when the application was imported: a mistake in its declaration is raised there."""

    def life(self) -> AbstractAsyncContextManager[None]:
        """What runs before the first request and after the last one."""

    def endpoints(self) -> "Sequence[Endpoint | AsgiEndpoint | WsgiEndpoint]":
        """Asked for once, within its life. A route's id is its endpoint's place."""

    def manifest(self) -> dict[str, Any]:
        """What the edge routes by."""

    def attend(self, loop: asyncio.AbstractEventLoop, lanes: "Lanes") -> Callable[[], None]:
        """Sees to it that what arrives is taken from now on; returns what ends that."""

    def fail(self, error: BaseException, exchange: "Exchange") -> "Answer":
        """Reports what went wrong; the answer to it, where one can still be given."""

    def deliver(self, response: "Response", exchange: "Exchange") -> "Coroutine[Any, Any, None]":
        """Answers with what has to be sent by itself."""

    def close(self) -> None:
        """Lets its threads go."""


def _methods(route: "Route | WebSocketRoute") -> list[str]:
    """What the edge calls a route's methods; no client can send the one that stands for a WebSocket."""
    return ["@WEBSOCKET"] if isinstance(route, WebSocketRoute) else list(route.methods)


class FastAPIApplication:
    """Of this package."""

    def __init__(self, app: "FastAPI", *, debug: bool = False) -> None:
        from fasterapi._native import Endpoint

        app.debug = app.debug or debug
        self.app = app
        specs = [compile_route(route, app) for route in app.routes]
        self._endpoints = [
            Endpoint(
                spec.slow,
                param_names=spec.param_names,
                fast=spec.fast,
                fast_args=spec.fast_args,
                status=spec.status,
                body=spec.body,
            )
            for spec in specs
        ]

    def life(self) -> AbstractAsyncContextManager[None]:
        return running(self.app)

    def endpoints(self) -> "Sequence[Endpoint]":
        return self._endpoints

    def manifest(self) -> dict[str, Any]:
        routes = [{"id": place, "methods": _methods(route), "path": route.path} for place, route in enumerate(self.app.routes)]
        return {"routes": routes, "redirect_slashes": self.app.redirect_slashes}

    def attend(self, loop: asyncio.AbstractEventLoop, lanes: "Lanes") -> Callable[[], None]:
        return attend(loop, lanes)

    def fail(self, error: BaseException, exchange: "Exchange") -> "Answer":
        return self.app.fail(error)

    def deliver(self, response: "Response", exchange: "Exchange") -> "Coroutine[Any, Any, None]":
        return deliver(response, None, exchange, self.app)

    def close(self) -> None:
        self.app.threads.close()
