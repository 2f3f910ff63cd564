"""How a function's parameters are read from a request: compiled once when a route is added, followed for each request.

A `Plan` belongs to one function and holds one `Field` per parameter; dependencies are plans within the plan. The order of
the checks, and so of the errors, is: dependencies, path, query, header, cookie, body.
"""

import collections
import copy
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
import typing_extensions
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from fasterapi._background import BackgroundTasks
from fasterapi._params import MISSING, Dependency, Param, Where
from fasterapi._request import Request
from fasterapi._response import Response
from fasterapi._threads import ThreadPool, is_async

_EMPTY = inspect.Parameter.empty
_ANNOTATED: Any = Annotated  # Subscripted with a tuple made at run time.
_SOURCES = {
    Where.PATH: "path_params",
    Where.QUERY: "query_params",
    Where.HEADER: "headers",
    Where.COOKIE: "cookies",
    Where.BODY: "",
}
_IMMUTABLE = (str, int, float, bool, bytes, type(None))
_SEQUENCES = (list, tuple, set, frozenset, collections.deque)
# Two classes before Python 3.14: the `type` statement makes the first.
_ALIAS_TYPES: Any = (getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType), typing_extensions.TypeAliasType)


def _is_class(annotation: Any, bases: type | tuple[type, ...]) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, bases)


def _arms(annotation: Any) -> Iterator[Any]:
    """The members of a union, however nested and annotated; any other annotation alone."""
    while isinstance(annotation, _ALIAS_TYPES):
        annotation = annotation.__value__
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _arms(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for arm in get_args(annotation):
            yield from _arms(arm)
    else:
        yield annotation


def _is_sequence(arm: Any) -> bool:
    origin = get_origin(arm) or arm
    return origin is collections.abc.Sequence or _is_class(origin, _SEQUENCES)


def _is_scalar(arm: Any) -> bool:
    origin = get_origin(arm) or arm
    return not (_is_sequence(arm) or _is_class(origin, (BaseModel, collections.abc.Mapping)) or dataclasses.is_dataclass(origin))


def _is_scalar_sequence(arm: Any) -> bool:
    return _is_sequence(arm) and all(item is ... or all(map(_is_scalar, _arms(item))) for item in get_args(arm))


def describe(call: Any) -> str:
    """A function's name as an error message gives it."""
    return f"{getattr(call, '__module__', '?')}.{getattr(call, '__qualname__', repr(call))}"


def _globals_of(call: Any) -> Mapping[str, Any]:
    while isinstance(call, partial):
        call = call.func
    call = inspect.unwrap(call)
    if isinstance(call, type):
        call = vars(call).get("__init__", call)
    elif not hasattr(call, "__globals__"):
        call = getattr(type(call), "__call__", call)  # noqa: B004
    found: Mapping[str, Any] = getattr(inspect.unwrap(call), "__globals__", {})
    return found


def resolve_annotation(annotation: Any, call: Any) -> Any:
    """The annotation itself where `from __future__ import annotations` made it text."""
    if not isinstance(annotation, str):
        return annotation
    # get_type_hints() on the function fails as a whole when any one name, say of the result, exists for type checkers only.
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=dict(_globals_of(call)), include_extras=True)["it"]
    except Exception as error:
        raise TypeError(f"{describe(call)}: the annotation {annotation!r} cannot be resolved: {error}") from error


class Field:
    """One parameter that is read and validated."""

    __slots__ = ("alias", "bare", "default", "default_factory", "embed", "loc", "name", "repeats", "source", "validate", "where")

    def __init__(self, name: str, annotation: Any, param: Param, extras: Sequence[Any], owner: str) -> None:
        self.name = name
        self.where = param.where
        self.alias = param.alias or name
        if param.where is Where.HEADER and param.alias is None and param.convert_underscores:
            self.alias = name.replace("_", "-")
        self.loc: tuple[str, ...] = (self.where.value, self.alias)
        self.default = param.default
        self.default_factory = param.default_factory
        self.embed = param.embed
        arms = [arm for arm in _arms(annotation) if arm is not type(None)]
        self.source = _SOURCES[param.where]
        self.repeats = param.where in (Where.QUERY, Where.HEADER) and any(map(_is_sequence, arms))
        self.bare: Any = annotation if not param.constraints and not extras and param.alias is None else None
        if param.where is not Where.BODY and not all(
            _is_scalar(arm) or (param.where is not Where.PATH and _is_scalar_sequence(arm)) for arm in arms
        ):
            raise TypeError(
                f"{owner}: parameter {name!r} cannot be read from the {param.where.value}: "
                f"{annotation} is neither a scalar nor a sequence of scalars"
            )
        try:
            parts = (annotation, *extras, pydantic.Field(**param.constraints))
            adapter = TypeAdapter[Any](_ANNOTATED[parts])
        except (pydantic.PydanticUserError, pydantic.errors.PydanticUndefinedAnnotation, TypeError) as error:
            raise TypeError(f"{owner}: parameter {name!r} has an annotation that pydantic refuses: {error}") from error
        self.validate = partial(adapter.validate_python, from_attributes=True)
        if self.default is not MISSING and not _is_plausible_default(self.default, adapter):
            kind = type(self.default)
            raise TypeError(
                f"{owner}: the default of parameter {name!r}, an object of type {kind.__module__}.{kind.__qualname__}, "
                "is neither a value of that parameter nor a marker of fasterapi (Query, Path, Header, Cookie, Body, Depends)"
            )

    def take(self, value: Any, loc: tuple[str, ...], errors: list[Any]) -> Any:
        """The parameter's value for what the request says; adds to `errors` if it may not say that."""
        if value is MISSING:
            if self.default_factory is not None:
                return self.default_factory()
            if self.default is MISSING:
                errors.append({"type": "missing", "loc": loc, "msg": "Field required", "input": None})
                return None
            return self.default if isinstance(self.default, _IMMUTABLE) else copy.deepcopy(self.default)
        try:
            return self.validate(value)
        except ValidationError as error:
            for entry in error.errors(include_url=False):
                errors.append({**entry, "loc": (*loc, *entry["loc"])})
            return None


def _is_plausible_default(value: Any, adapter: TypeAdapter[Any]) -> bool:
    # FastAPI does not validate defaults, and `limit: int = None` is common; what is caught here is a foreign marker.
    if isinstance(value, (*_IMMUTABLE, *_SEQUENCES, dict, BaseModel)):
        return True
    if isinstance(value, FieldInfo):
        return False
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@dataclasses.dataclass
class Reading:
    """The state of following a plan for one request."""

    request: Request
    threads: ThreadPool
    body: Any = MISSING
    errors: list[Any] = dataclasses.field(default_factory=list)
    response: Response | None = None
    background: BackgroundTasks | None = None
    stack: AsyncExitStack | None = None
    solved: dict[Callable[..., Any], Any] = dataclasses.field(default_factory=dict)


class Plan:
    """What one function wants from a request."""

    def __init__(
        self,
        call: Callable[..., Any],
        path_names: Collection[str],
        *,
        leading: Sequence[Dependency] = (),
        seen: tuple[Any, ...] = (),
    ) -> None:
        """`leading`: dependencies that run first and whose values no parameter takes."""
        if call in seen:
            raise TypeError(f"{describe(call)} depends on itself")
        self.call = call
        self.is_async = is_async(call)
        self.fields: list[Field] = []
        self.own_body_fields: list[Field] = []
        self.request_names: list[str] = []
        self.response_names: list[str] = []
        self.background_names: list[str] = []
        self.dependencies: list[tuple[str | None, Plan, bool]] = []
        for marker in leading:
            if marker.dependency is None:
                raise TypeError(f"{describe(call)}: Depends() without a function needs a parameter with a class as annotation")
            self.dependencies.append((None, Plan(marker.dependency, path_names, seen=(*seen, call)), marker.use_cache))
        self.parameters = tuple(inspect.signature(call).parameters.values())
        for parameter in self.parameters:
            self._add(parameter, path_names, (*seen, call))
        order = list(Where)
        self.fields.sort(key=lambda field: order.index(field.where))
        # The whole body is one parameter, or else an object of several: counted with the dependencies' own.
        body_fields = {field.name: field for field in self.body_fields()}
        self.reads_body = bool(body_fields)
        self._embed(len(body_fields) > 1 or any(field.embed for field in body_fields.values()))

    def _embed(self, embedded: bool) -> None:
        self.embedded = embedded
        for _, plan, _ in self.dependencies:
            plan._embed(embedded)

    def body_fields(self) -> Iterator[Field]:
        for _, plan, _ in self.dependencies:
            yield from plan.body_fields()
        yield from self.own_body_fields

    def uses_response(self) -> bool:
        return bool(self.response_names) or any(plan.uses_response() for _, plan, _ in self.dependencies)

    def uses_request(self) -> bool:
        return bool(self.request_names) or any(plan.uses_request() for _, plan, _ in self.dependencies)

    def _add(self, parameter: inspect.Parameter, path_names: Collection[str], seen: tuple[Any, ...]) -> None:
        owner, name = describe(self.call), parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{owner}: *{name} cannot be read from a request; a decorator may lack functools.wraps")
        annotation = resolve_annotation(parameter.annotation, self.call)
        if isinstance(annotation, _ALIAS_TYPES):
            annotation = annotation.__value__
        marker: Any = None
        extras: list[Any] = []
        default = parameter.default
        if get_origin(annotation) is Annotated:
            annotation, *metadata = get_args(annotation)
            for item in metadata:
                _refuse_foreign(item, owner, name)
            markers = [item for item in metadata if isinstance(item, Param | Dependency)]
            extras = [item for item in metadata if not isinstance(item, Param | Dependency)]
            marker = markers[-1] if markers else None
            if isinstance(marker, Param) and (marker.default is not MISSING):
                raise TypeError(f"{owner}: give parameter {name!r} its default with `=`, not inside Annotated")
        _refuse_foreign(default, owner, name)
        if isinstance(default, Param | Dependency):
            if marker is not None:
                raise TypeError(f"{owner}: parameter {name!r} has one marker in Annotated and another as its default")
            marker = default
        elif isinstance(marker, Param) and default is not _EMPTY:
            marker = dataclasses.replace(marker, default=default, default_factory=None)
        if isinstance(marker, Dependency):
            call = marker.dependency or annotation
            if not callable(call):
                raise TypeError(f"{owner}: parameter {name!r} depends on {call!r}, which cannot be called")
            self.dependencies.append((name, Plan(call, path_names, seen=seen), marker.use_cache))
        elif _is_class(annotation, Request):
            self.request_names.append(name)
        elif _is_class(annotation, Response):
            self.response_names.append(name)
        elif _is_class(annotation, BackgroundTasks):
            self.background_names.append(name)
        else:
            annotation = Any if annotation is _EMPTY else annotation
            if marker is None:
                marker = self._infer(annotation, MISSING if default is _EMPTY else default, name in path_names)
            if name in path_names and marker.where is not Where.PATH:
                raise TypeError(f"{owner}: {name!r} is part of the path and cannot be read from the {marker.where.value}")
            field = Field(name, annotation, marker, extras, owner)
            (self.own_body_fields if field.where is Where.BODY else self.fields).append(field)

    @staticmethod
    def _infer(annotation: Any, default: Any, in_path: bool) -> Param:
        if in_path:
            return Param(Where.PATH, MISSING, None, None, {})
        where = Where.QUERY if all(map(_is_scalar, _arms(annotation))) else Where.BODY
        return Param(where, default, None, None, {})

    def read(self, reading: Reading) -> dict[str, Any]:
        """The arguments of the call, except for those that are dependencies'. No await in here."""
        values: dict[str, Any] = {}
        request, errors = reading.request, reading.errors
        for field in self.fields:
            source = getattr(request, field.source)
            value = (source.getlist(field.alias) or MISSING) if field.repeats else source.get(field.alias, MISSING)
            values[field.name] = field.take(value, field.loc, errors)
        if self.own_body_fields:
            self._read_body(reading.body, values, errors)
        for name in self.request_names:
            values[name] = request
        for name in self.response_names:
            values[name] = reading.response
        for name in self.background_names:
            if reading.background is None:
                reading.background = BackgroundTasks()
            values[name] = reading.background
        return values

    def _read_body(self, body: Any, values: dict[str, Any], errors: list[Any]) -> None:
        if not self.embedded:
            (field,) = self.own_body_fields
            values[field.name] = field.take(body, ("body",), errors)
            return
        for field in self.own_body_fields:
            if body is MISSING or isinstance(body, bytes):
                values[field.name] = field.take(MISSING, field.loc, errors)
            elif isinstance(body, dict):
                values[field.name] = field.take(body.get(field.alias, MISSING), field.loc, errors)
            else:
                # Named parameters need an object: even those with a default cannot be read from a list.
                errors.append({"type": "missing", "loc": field.loc, "msg": "Field required", "input": None})

    async def solve(self, reading: Reading) -> dict[str, Any]:
        """The arguments of the call. Where `reading.errors` has grown, they are incomplete."""
        solved: dict[str, Any] = {}
        for name, plan, use_cache in self.dependencies:
            before = len(reading.errors)
            arguments = await plan.solve(reading)
            if len(reading.errors) > before:
                continue
            if use_cache and plan.call in reading.solved:
                value = reading.solved[plan.call]
            else:
                value = await plan.invoke(arguments, reading)
                reading.solved.setdefault(plan.call, value)
            if name is not None:
                solved[name] = value
        return solved | self.read(reading)

    async def invoke(self, arguments: dict[str, Any], reading: Reading) -> Any:
        """Calls as a dependency: what comes after a `yield` runs when the request's stack is left."""
        call, stack = self.call, reading.stack
        if stack is not None and inspect.isasyncgenfunction(call):
            return await stack.enter_async_context(asynccontextmanager(call)(**arguments))
        if stack is not None and inspect.isgeneratorfunction(call):
            return await stack.enter_async_context(reading.threads.entered(contextmanager(call)(**arguments)))
        if self.is_async:
            return await call(**arguments)
        return await reading.threads.run(call, **arguments)


def _refuse_foreign(item: Any, owner: str, name: str) -> None:
    """FastAPI's own markers would pass for pydantic's FieldInfo, and be ignored."""
    kind = type(item)
    if kind.__module__.partition(".")[0] in ("fastapi", "starlette"):
        raise TypeError(
            f"{owner}: parameter {name!r} is marked with {kind.__module__}.{kind.__qualname__}; "
            f"import {kind.__qualname__} from fasterapi instead"
        )
