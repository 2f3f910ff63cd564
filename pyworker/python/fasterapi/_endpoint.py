"""One route, compiled to what the native side calls."""

import asyncio
import types
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from inspect import Parameter, iscoroutine, iscoroutinefunction
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Literal

from fasterapi import _json
from fasterapi._app import FastAPI
from fasterapi._background import BackgroundTask
from fasterapi._errors import HTTPException, RequestValidationError
from fasterapi._params import MISSING, Where
from fasterapi._plan import Reading
from fasterapi._request import Request
from fasterapi._response import JSONResponse, Response, encode_plain, has_body
from fasterapi._routing import Route

if TYPE_CHECKING:
    from fasterapi._native import Answer, Exchange

FastKind = Literal["str", "int", "float", "bool"]
_FAST_KINDS: dict[Any, FastKind] = {str: "str", int: "int", float: "float", bool: "bool", Any: "str"}


@dataclass(frozen=True)
class EndpointSpec:
    """The arguments of `_native.Endpoint`."""

    slow: "Callable[[Exchange], Coroutine[Any, Any, Answer | None]]"
    param_names: tuple[str, ...]
    fast: Callable[..., Any] | None
    fast_args: tuple[tuple[int, FastKind], ...]
    status: int
    body: Literal["whole", "stream"]


def compile_route(route: Route, app: FastAPI) -> EndpointSpec:
    fast_args = _fast_args(route, app)
    return EndpointSpec(
        slow=_compile_slow(route, app),
        param_names=route.path_names,
        fast=None if fast_args is None else route.endpoint,
        fast_args=fast_args or (),
        status=route.status_code or 200,
        # What reads the body itself needs all of it; a handler with a Request may want it piece by piece.
        body="stream" if route.plan.uses_request() and not route.plan.reads_body else "whole",
    )


def _fast_args(route: Route, app: FastAPI) -> tuple[tuple[int, FastKind], ...] | None:
    """What the handler's positional arguments are, if they are path parameters and nothing has to happen around the call."""
    plan, endpoint = route.plan, route.endpoint
    if not (
        isinstance(endpoint, types.FunctionType)
        and iscoroutinefunction(endpoint)
        and route.response_class is JSONResponse
        and route.response_model is None
        and has_body(route.status_code or 200)
        and not app.exception_handlers
        and not plan.dependencies
        and len(plan.fields) == len(plan.parameters)
    ):
        return None
    fields = {field.name: field for field in plan.fields}
    arguments: list[tuple[int, FastKind]] = []
    for parameter in plan.parameters:
        field = fields[parameter.name]
        kind = _FAST_KINDS.get(field.bare) if field.where is Where.PATH and field.name in route.path_names else None
        if kind is None or parameter.kind is Parameter.KEYWORD_ONLY:
            return None
        arguments.append((route.path_names.index(field.name), kind))
    return tuple(arguments)


@lru_cache(maxsize=64)
def _is_json(content_type: bytes) -> bool:
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def _read_body(exchange: "Exchange") -> Any:
    """The JSON value of the body; the bytes where it does not claim to be JSON; MISSING where there is none."""
    body = exchange.body
    if not body:
        return MISSING
    if not _is_json(exchange.header(b"content-type") or b"text/plain"):
        return body
    try:
        return _json.loads(body)
    except JSONDecodeError as error:
        entry = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise RequestValidationError([entry], body=error.doc) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "There was an error parsing the body") from error


async def deliver(outcome: "Answer | Response", background: BackgroundTask | None, exchange: "Exchange", app: FastAPI) -> None:
    """Answers, and then runs what was left for the background."""
    if isinstance(outcome, Response):
        await outcome.send(exchange, app.threads)
        background = outcome.background or background
    else:
        status, fields, body = outcome
        exchange.start(status, fields)
        await exchange.write(body, end=True)
    if background is not None:
        await asyncio.sleep(0)  # The response leaves with the loop's next turn: before this, whatever it does to the loop.
        await background(app.threads)


def _compile_slow(route: Route, app: FastAPI) -> "Callable[[Exchange], Coroutine[Any, Any, Answer | None]]":
    plan, endpoint = route.plan, route.endpoint
    needs_stack, injects_response = bool(plan.dependencies), plan.uses_response()
    finish = _compile_finish(route)

    async def call(arguments: dict[str, Any], reading: Reading, exchange: "Exchange") -> "Answer | None":
        if reading.errors:
            body = None if reading.body is MISSING else reading.body
            raise RequestValidationError(reading.errors, body=body)
        if plan.is_async:
            result = await endpoint(**arguments)
        else:
            result = await app.threads.run(endpoint, **arguments)
            if iscoroutine(result):
                result = await result
        outcome = finish(result, reading.response)
        if isinstance(outcome, Response) or reading.background is not None:
            await deliver(outcome, reading.background, exchange, app)
            return None
        return outcome

    async def call_with_dependencies(reading: Reading, exchange: "Exchange") -> "Answer | None":
        answer, ended = None, False
        async with AsyncExitStack() as stack:
            reading.stack = stack
            answer = await call(await plan.solve(reading), reading, exchange)
            ended = True
        if not ended:
            raise RuntimeError("a dependency with yield swallowed an exception; it must raise it again or another one")
        return answer

    async def slow(exchange: "Exchange") -> "Answer | None":
        request = Request(exchange, app, exchange.body if plan.reads_body else None)
        try:
            reading = Reading(request, app.threads)
            if plan.reads_body:
                reading.body = _read_body(exchange)
            if injects_response:
                reading.response = Response(status_code=route.status_code or 200)
            if needs_stack:
                return await call_with_dependencies(reading, exchange)
            return await call(plan.read(reading), reading, exchange)
        except Exception as error:
            # Too late for another answer: the native side reports it, and ends what was begun.
            if exchange.started:
                raise
            outcome = await app.answer_error(error, request)
        if isinstance(outcome, Response):
            await deliver(outcome, None, exchange, app)
            return None
        return outcome

    return slow


def _compile_finish(route: Route) -> "Callable[[Any, Response | None], Answer | Response]":
    model, response_class, status = route.response_model, route.response_class, route.status_code

    def finish(result: Any, injected: Response | None) -> "Answer | Response":
        if isinstance(result, Response):
            return result.outcome()
        if model is not None:
            result = model.project(result)
        actual = status if injected is None else injected.status_code
        if response_class is JSONResponse:
            answer = encode_plain(result, actual or 200)
        else:
            # A class may have a status of its own (a redirect): one is passed only where somebody named it.
            named: dict[str, Any] = {} if actual is None or (status is None and actual == 200) else {"status_code": actual}
            if response_class.is_live:
                response = response_class(result, **named)
                if injected is not None:
                    response.headers.raw.extend(injected.answer()[1])
                return response
            answer = response_class(_json.plain(result), **named).answer()
        if injected is not None:
            answer[1].extend(injected.answer()[1])
        return answer

    return finish
