"""JSON in both directions.

Out: orjson, helped by `default` for what it does not know, the way FastAPI's encoder sees such values. NaN and the
infinities, which JSON cannot say, become null. What orjson refuses outright (keys that are not strings, integers beyond
64 bits, deep nesting) takes a slower second way with the same result.

In: pydantic's parser, because it keeps integers exact where orjson makes floats of the long ones.
"""

import dataclasses
import datetime
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from re import Pattern
from types import GeneratorType
from typing import Any
from uuid import UUID

import orjson
from pydantic import AnyUrl, BaseModel, NameEmail, SecretBytes, SecretStr
from pydantic_core import MultiHostUrl, Url, from_json

OPTION = orjson.OPT_PASSTHROUGH_DATACLASS
"""Dataclasses come to `default`: orjson's own way leaves out fields whose names start with an underscore."""


def _decimal(value: Decimal) -> int | float:
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)


def _decode(value: bytes) -> str:
    return value.decode()


_ENCODERS: dict[type, Callable[[Any], Any]] = {
    AnyUrl: str,
    bytes: _decode,
    datetime.date: datetime.date.isoformat,
    datetime.datetime: datetime.datetime.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: datetime.timedelta.total_seconds,
    Decimal: _decimal,
    deque: list,
    Enum: lambda member: member.value,
    float: float,
    frozenset: list,
    GeneratorType: list,
    IPv4Address: str,
    IPv4Interface: str,
    IPv4Network: str,
    IPv6Address: str,
    IPv6Interface: str,
    IPv6Network: str,
    Mapping: dict,
    MultiHostUrl: str,
    NameEmail: str,
    Pattern: lambda pattern: pattern.pattern,
    PurePath: str,
    SecretBytes: str,
    SecretStr: str,
    set: list,
    tuple: list,
    Url: str,
    UUID: str,
}


def default(value: Any) -> Any:
    """One step from a value that orjson does not know towards one that it does."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for base in type(value).__mro__:
        if (encoder := _ENCODERS.get(base)) is not None:
            return encoder(value)
    try:
        return dict(value)
    except (TypeError, ValueError):
        pass
    try:
        return vars(value)
    except TypeError:
        raise TypeError(f"{type(value).__qualname__} is not JSON serializable") from None


def plain(value: Any, fallback: Callable[[Any], Any] = default) -> Any:
    """The same value built from dict, list, str, int, float, bool and None alone."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value, fallback)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(key, fallback): plain(item, fallback) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, fallback) for item in value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    return plain(fallback(value), fallback)


def dumps(value: Any, fallback: Callable[[Any], Any] = default) -> bytes:
    try:
        return orjson.dumps(value, fallback, OPTION)
    except orjson.JSONEncodeError:
        text = json.dumps(plain(value, fallback), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        # A lone surrogate has no UTF-8 form, but the escape that takes its place here is also JSON's own for it.
        return text.encode("utf-8", "backslashreplace")


def loads(text: bytes) -> Any:
    """Raises json.JSONDecodeError for what is not JSON, another ValueError for what is not text."""
    try:
        return from_json(text)
    except ValueError:
        # The standard library has the last word: it takes more (UTF-16, lone surrogates), and its messages are the known ones.
        return json.loads(text)
