"""The markers that say where a handler's parameter comes from: `Query`, `Path`, `Header`, `Cookie`, `Body`, `Depends`."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices
from typing_extensions import TypedDict, Unpack


class Missing(enum.Enum):
    """No default; also: the request says nothing about this parameter."""

    MISSING = "missing"


MISSING = Missing.MISSING


class Where(str, enum.Enum):
    """Where a parameter's value is read. The values are the first word of an error's `loc`."""

    PATH = "path"
    QUERY = "query"
    HEADER = "header"
    COOKIE = "cookie"
    BODY = "body"


@dataclass(frozen=True)
class Param:
    """A marker: where to read, under which name, with which constraints on top of the annotation's."""

    where: Where
    default: Any
    default_factory: Callable[[], Any] | None
    alias: str | None
    constraints: Mapping[str, Any]
    embed: bool = False
    convert_underscores: bool = True


@dataclass(frozen=True)
class Dependency:
    """The marker that `Depends` makes."""

    dependency: Callable[..., Any] | None
    use_cache: bool = True


class Constraints(TypedDict, total=False):
    """Keywords that every parameter marker takes beside those that its signature names."""

    gt: float | None
    ge: float | None
    lt: float | None
    le: float | None
    min_length: int | None
    max_length: int | None
    pattern: str | None
    regex: str | None
    discriminator: str | None
    strict: bool | None
    multiple_of: float | None
    allow_inf_nan: bool | None
    max_digits: int | None
    decimal_places: int | None
    validation_alias: str | None
    # For documentation pages; nothing reads them yet.
    title: str | None
    description: str | None
    examples: Any
    example: Any
    openapi_examples: Any
    deprecated: bool | str | None
    include_in_schema: bool
    json_schema_extra: Any
    media_type: str
    alias_priority: int | None
    serialization_alias: str | None


_DOCUMENTATION = frozenset(
    (
        "title",
        "description",
        "examples",
        "example",
        "openapi_examples",
        "deprecated",
        "include_in_schema",
        "json_schema_extra",
        "media_type",
        "alias_priority",
        "serialization_alias",
    )
)
_KNOWN = frozenset(Constraints.__annotations__)


def _param(
    where: Where,
    default: Any,
    default_factory: Callable[[], Any] | None,
    alias: str | None,
    keywords: Mapping[str, Any],
    *,
    embed: bool = False,
    convert_underscores: bool = True,
) -> Param:
    name = where.value.capitalize()
    if unknown := keywords.keys() - _KNOWN:
        raise TypeError(f"{name}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    constraints = {key: value for key, value in keywords.items() if key not in _DOCUMENTATION and value is not None}
    if (pattern := constraints.pop("regex", None)) is not None:
        constraints.setdefault("pattern", pattern)
    validation_alias = constraints.pop("validation_alias", None)
    if isinstance(validation_alias, AliasChoices) or not isinstance(validation_alias, str | None):
        raise TypeError(f"{name}(validation_alias=…) takes one name, not {validation_alias!r}")
    if default is ...:
        default = MISSING
    if default is not MISSING and default_factory is not None:
        raise TypeError(f"{name}() takes default or default_factory, not both")
    return Param(where, default, default_factory, validation_alias or alias, constraints, embed, convert_underscores)


# These return Any so that `limit: int = Query(10)` satisfies a type checker.


def Path(default: Any = MISSING, *, alias: str | None = None, **keywords: Unpack[Constraints]) -> Any:
    """From the path. Always required."""
    if default is not MISSING and default is not ...:
        raise TypeError("a path parameter cannot have a default value")
    return _param(Where.PATH, default, None, alias, keywords)


def Query(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    alias: str | None = None,
    **keywords: Unpack[Constraints],
) -> Any:
    """From the query string; every value of the name when the annotation is a sequence."""
    return _param(Where.QUERY, default, default_factory, alias, keywords)


def Header(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    alias: str | None = None,
    convert_underscores: bool = True,
    **keywords: Unpack[Constraints],
) -> Any:
    """From a header field whose name is the parameter's with hyphens for underscores."""
    return _param(Where.HEADER, default, default_factory, alias, keywords, convert_underscores=convert_underscores)


def Cookie(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    alias: str | None = None,
    **keywords: Unpack[Constraints],
) -> Any:
    """From a cookie."""
    return _param(Where.COOKIE, default, default_factory, alias, keywords)


def Body(
    default: Any = MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    alias: str | None = None,
    embed: bool = False,
    **keywords: Unpack[Constraints],
) -> Any:
    """From the JSON body: all of it, or one key where there are several such parameters or `embed` asks for it."""
    return _param(Where.BODY, default, default_factory, alias, keywords, embed=embed)


def Depends(dependency: Callable[..., Any] | None = None, *, use_cache: bool = True) -> Any:
    """From another function, whose own parameters are read from the request in the same way."""
    return Dependency(dependency, use_cache)
