"""Mappings in which a name may occur more than once: header fields and query strings."""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote_plus

RawHeaders = list[tuple[bytes, bytes]]


class Headers(Mapping[str, str]):
    """Read-only header fields, looked up without regard to case; a lookup gives the first field of its name."""

    __slots__ = ("raw",)

    def __init__(self, raw: RawHeaders) -> None:
        self.raw = raw

    def __getitem__(self, name: str) -> str:
        wanted = name.lower().encode("latin-1", "replace")
        for key, value in self.raw:
            if key == wanted:
                return value.decode("latin-1")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.decode("latin-1") for key, _ in self.raw))

    def __len__(self) -> int:
        return len({key for key, _ in self.raw})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.multi_items()!r})"

    def getlist(self, name: str) -> list[str]:
        """Every value of this name, in order of arrival."""
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for key, value in self.raw if key == wanted]

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        """Every field in order of arrival, repeated names included, as Starlette has it."""
        return [(key.decode("latin-1"), value.decode("latin-1")) for key, value in self.raw]

    def multi_items(self) -> list[tuple[str, str]]:
        return self.items()


class MutableHeaders(Headers):
    """A response's header fields. Setting replaces every field of the name; `append` adds one."""

    __slots__ = ()

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        super().__init__([])
        for name, value in () if headers is None else headers.items():
            self.append(name, value)

    def __setitem__(self, name: str, value: str) -> None:
        if name in self:
            del self[name]
        self.append(name, value)

    def __delitem__(self, name: str) -> None:
        unwanted = name.lower().encode("latin-1", "replace")
        kept = [field for field in self.raw if field[0] != unwanted]
        if len(kept) == len(self.raw):
            raise KeyError(name)
        self.raw[:] = kept

    def append(self, name: str, value: str) -> None:
        key, field = name.lower().encode("latin-1"), value.encode("latin-1")
        # RFC 9110 §5.5: CR, LF and NUL in a value would let it end the field, or the whole head, early.
        if not key or any(octet <= 0x20 or octet in b":\x7f" for octet in key):
            raise ValueError(f"not a header name: {name!r}")
        if any(octet in b"\r\n\0" for octet in field):
            raise ValueError(f"header {name!r} has a line break or NUL in its value")
        self.raw.append((key, field))

    def setdefault(self, name: str, value: str) -> str:
        if name not in self:
            self.append(name, value)
        return self[name]

    def update(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self[name] = value


class QueryParams(Mapping[str, str]):
    """A decoded query string; a lookup gives the last value of its name."""

    __slots__ = ("_items", "_last")

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._items = list(items)
        self._last = dict(self._items)

    @classmethod
    def parse(cls, query_string: bytes) -> "QueryParams":
        pairs = [pair.partition("=") for pair in query_string.decode("latin-1").split("&") if pair]
        if b"%" in query_string or b"+" in query_string:
            return cls((unquote_plus(name), unquote_plus(value)) for name, _, value in pairs)
        return cls((name, value) for name, _, value in pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._items!r})"

    def getlist(self, name: str) -> list[str]:
        """Every value of this name, in order of arrival."""
        return [value for key, value in self._items if key == name]

    def multi_items(self) -> list[tuple[str, str]]:
        return list(self._items)
