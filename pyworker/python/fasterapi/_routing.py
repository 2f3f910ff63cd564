"""Routes, and the objects that collect them: `APIRouter`, and through it `FastAPI`."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, get_origin

import pydantic
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict, TypeVar, Unpack

from fasterapi._errors import ResponseValidationError
from fasterapi._params import Dependency
from fasterapi._plan import Plan, describe, resolve_annotation
from fasterapi._response import JSONResponse, Response
from fasterapi._websocket import WebSocket

F = TypeVar("F", bound=Callable[..., Any])

_PLACEHOLDER = re.compile(r"{([a-zA-Z_][a-zA-Z0-9_]*)(?::(str|int|float|uuid|path))?}")
_UNSET: Any = object()


class RouteOptions(TypedDict, total=False):
    """What the decorators take beside the path. What only documentation pages would show is taken and kept nowhere."""

    status_code: int | None
    name: str | None
    response_class: type[Response]
    dependencies: Sequence[Any] | None
    response_model: Any
    response_model_include: Any
    response_model_exclude: Any
    response_model_by_alias: bool
    response_model_exclude_unset: bool
    response_model_exclude_defaults: bool
    response_model_exclude_none: bool
    # For documentation pages; nothing reads them yet.
    tags: Sequence[str | Enum] | None
    summary: str | None
    description: str | None
    response_description: str
    responses: Mapping[int | str, Any] | None
    deprecated: bool | None
    operation_id: str | None
    include_in_schema: bool
    openapi_extra: Mapping[str, Any] | None
    callbacks: Any
    generate_unique_id_function: Any


def path_names(path: str) -> tuple[str, ...]:
    """The names of a path template's parameters, in order. Raises ValueError where it is not one."""
    if path and not path.startswith("/"):
        raise ValueError(f"path {path!r} does not start with '/'")
    names = tuple(match[1] for match in _PLACEHOLDER.finditer(path))
    if len(set(names)) < len(names):
        raise ValueError(f"path {path!r} names a parameter twice")
    if any(brace in _PLACEHOLDER.sub("", path) for brace in "{}"):
        raise ValueError(f"path {path!r}: a parameter is written {{name}} or {{name:str|int|float|uuid|path}}")
    return names


class ResponseModel:
    """Lets out only what the model names."""

    def __init__(self, annotation: Any, options: RouteOptions, owner: str) -> None:
        self.annotation = annotation
        try:
            self._adapter = TypeAdapter[Any](annotation)
        except pydantic.PydanticUserError as error:
            raise TypeError(f"{owner}: response model {annotation!r} is refused by pydantic: {error}") from error
        self._how: dict[str, Any] = {
            "include": options.get("response_model_include"),
            "exclude": options.get("response_model_exclude"),
            "by_alias": options.get("response_model_by_alias", True),
            "exclude_unset": options.get("response_model_exclude_unset", False),
            "exclude_defaults": options.get("response_model_exclude_defaults", False),
            "exclude_none": options.get("response_model_exclude_none", False),
        }

    def project(self, value: Any) -> Any:
        try:
            value = self._adapter.validate_python(value, from_attributes=True)
        except ValidationError as error:
            errors = [{**entry, "loc": ("response", *entry["loc"])} for entry in error.errors(include_url=False)]
            raise ResponseValidationError(errors, body=value) from error
        return self._adapter.dump_python(value, mode="json", **self._how)


_BUILTIN = (dict, list, str, int, float, bool, type(None), object)


def _says_more_than_builtins(annotation: Any) -> bool:
    """Whether a result's annotation can change a result. Built-in types only repeat what the handler returns anyway."""
    if annotation is Any or annotation is None or annotation in _BUILTIN:
        return False
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return not issubclass(annotation, Response)
    arms = getattr(annotation, "__args__", ())
    if any(isinstance(arm, type) and get_origin(arm) is None and issubclass(arm, Response) for arm in arms):
        return False
    origin = get_origin(annotation)
    known = origin in _BUILTIN or origin is types.UnionType or origin is Literal or str(origin) == "typing.Union"
    return not known or (origin is not Literal and any(map(_says_more_than_builtins, arms)))


@dataclass(frozen=True)
class Route:
    """One path template with the methods and the handler that answer it."""

    path: str
    methods: tuple[str, ...]
    endpoint: Callable[..., Any]
    options: RouteOptions
    dependencies: tuple[Dependency, ...] = ()
    path_names: tuple[str, ...] = field(init=False)
    plan: Plan = field(init=False)
    response_model: ResponseModel | None = field(init=False)

    def __post_init__(self) -> None:
        owner = describe(self.endpoint)
        if inspect.isgeneratorfunction(self.endpoint) or inspect.isasyncgenfunction(self.endpoint):
            raise TypeError(f"{owner}: a handler that yields would stream its answer, which is not supported yet")
        names = path_names(self.path)
        annotation = self.options.get("response_model", _UNSET)
        if annotation is _UNSET:
            annotation = inspect.signature(self.endpoint).return_annotation
            try:
                annotation = None if annotation is inspect.Signature.empty else resolve_annotation(annotation, self.endpoint)
            except TypeError as error:
                # Passing over it could let out what the model, if there were one, would hold back.
                raise TypeError(f"{error}; with response_model=None the result's annotation is not looked at") from error
            if not _says_more_than_builtins(annotation):
                annotation = None
        model = None if annotation is None else ResponseModel(annotation, self.options, owner)
        object.__setattr__(self, "path_names", names)
        object.__setattr__(self, "plan", Plan(self.endpoint, names, leading=self.dependencies))
        object.__setattr__(self, "response_model", model)

    @property
    def name(self) -> str:
        return self.options.get("name") or str(getattr(self.endpoint, "__name__", type(self.endpoint).__name__))

    @property
    def status_code(self) -> int | None:
        named = self.options.get("status_code")
        return None if named is None else int(named)  # An http.HTTPStatus becomes a plain number.

    @property
    def response_class(self) -> type[Response]:
        return self.options.get("response_class", JSONResponse)


@dataclass(frozen=True)
class WebSocketRoute:
    """One path template with the handler of its WebSockets."""

    path: str
    endpoint: Callable[..., Any]
    named: str | None = None
    dependencies: tuple[Dependency, ...] = ()
    path_names: tuple[str, ...] = field(init=False)
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        names = path_names(self.path)
        plan = Plan(self.endpoint, names, leading=self.dependencies, connection=WebSocket)
        if not plan.is_async:
            raise TypeError(f"{describe(self.endpoint)}: a WebSocket's handler is an `async def`")
        object.__setattr__(self, "path_names", names)
        object.__setattr__(self, "plan", plan)

    @property
    def name(self) -> str:
        return self.named or str(getattr(self.endpoint, "__name__", type(self.endpoint).__name__))


def _dependencies(markers: Iterable[Any] | None, where: str) -> tuple[Dependency, ...]:
    found = tuple(markers or ())
    for marker in found:
        if not isinstance(marker, Dependency):
            raise TypeError(f"{where}: dependencies takes fasterapi.Depends(…), not {marker!r}")
    return found


class APIRouter:
    """A set of routes that an application, or another router, takes in under a prefix."""

    def __init__(
        self,
        *,
        prefix: str = "",
        tags: Sequence[str | Enum] | None = None,
        dependencies: Sequence[Any] | None = None,
        default_response_class: type[Response] = JSONResponse,
        responses: Mapping[int | str, Any] | None = None,
        deprecated: bool | None = None,
        include_in_schema: bool = True,
        on_startup: Sequence[Callable[[], Any]] | None = None,
        on_shutdown: Sequence[Callable[[], Any]] | None = None,
    ) -> None:
        _check_prefix(prefix)
        self.prefix = prefix
        self.tags = list(tags or ())
        self.routes: list[Route | WebSocketRoute] = []
        self.on_startup = list(on_startup or ())
        self.on_shutdown = list(on_shutdown or ())
        self._default_response_class = default_response_class
        self._shared_dependencies = _dependencies(dependencies, type(self).__name__)

    def add_api_route(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Iterable[str] | None = None,
        **options: Unpack[RouteOptions],
    ) -> None:
        if unknown := options.keys() - RouteOptions.__annotations__.keys():
            raise TypeError(f"route {path!r} got an unexpected keyword argument {sorted(unknown)[0]!r}")
        if isinstance(methods, str):
            raise TypeError(f"route {path!r}: methods takes a list of names, not {methods!r}")
        if self._default_response_class is not JSONResponse:
            options.setdefault("response_class", self._default_response_class)
        own = _dependencies(options.pop("dependencies", None), f"route {path!r}")
        upper = tuple(dict.fromkeys(method.upper() for method in (methods or ("GET",))))
        self._admit(Route(self.prefix + path, upper, endpoint, options, self._shared_dependencies + own))

    def add_api_websocket_route(
        self, path: str, endpoint: Callable[..., Any], name: str | None = None, *, dependencies: Sequence[Any] | None = None
    ) -> None:
        own = _dependencies(dependencies, f"route {path!r}")
        self._admit(WebSocketRoute(self.prefix + path, endpoint, name, self._shared_dependencies + own))

    def _admit(self, route: Route | WebSocketRoute) -> None:
        self.routes.append(route)

    def include_router(
        self,
        router: "APIRouter",
        *,
        prefix: str = "",
        tags: Sequence[str | Enum] | None = None,
        dependencies: Sequence[Any] | None = None,
        responses: Mapping[int | str, Any] | None = None,
        deprecated: bool | None = None,
        include_in_schema: bool = True,
    ) -> None:
        """Takes over the routes that `router` has now; those that it is given later stay its own."""
        if router is self:
            raise ValueError("a router cannot include itself")
        _check_prefix(prefix)
        outer = self._shared_dependencies + _dependencies(dependencies, f"router {prefix!r}")
        for route in router.routes:
            path = self.prefix + prefix + route.path
            self._admit(replace(route, path=path, dependencies=outer + route.dependencies))
        self.on_startup += router.on_startup
        self.on_shutdown += router.on_shutdown

    def api_route(self, path: str, *, methods: Iterable[str] | None = None, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        def register(endpoint: F) -> F:
            self.add_api_route(path, endpoint, methods=methods, **options)
            return endpoint

        return register

    def get(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("GET",), **options)

    def post(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("POST",), **options)

    def put(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("PUT",), **options)

    def patch(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("PATCH",), **options)

    def delete(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("DELETE",), **options)

    def head(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("HEAD",), **options)

    def options(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("OPTIONS",), **options)

    def trace(self, path: str, **options: Unpack[RouteOptions]) -> Callable[[F], F]:
        return self.api_route(path, methods=("TRACE",), **options)

    def websocket(self, path: str, name: str | None = None, *, dependencies: Sequence[Any] | None = None) -> Callable[[F], F]:
        def register(endpoint: F) -> F:
            self.add_api_websocket_route(path, endpoint, name, dependencies=dependencies)
            return endpoint

        return register

    def add_event_handler(self, event_type: Literal["startup", "shutdown"], func: Callable[[], Any]) -> None:
        if event_type not in ("startup", "shutdown"):
            raise ValueError(f"an event is 'startup' or 'shutdown', not {event_type!r}")
        (self.on_startup if event_type == "startup" else self.on_shutdown).append(func)

    def on_event(self, event_type: Literal["startup", "shutdown"]) -> Callable[[F], F]:
        def register(func: F) -> F:
            self.add_event_handler(event_type, func)
            return func

        return register


def _check_prefix(prefix: str) -> None:
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(f"prefix {prefix!r} must start with '/' and not end with it")
