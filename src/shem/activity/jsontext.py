"""JSON text with positions, so that a refused script says where, in the words SDKs have seen.

A thin walk over the standard decoder: it gives the end of each value, which is what the reference's
errors point at. Pure.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

_SPACE: Final = " \t\n\r"
_LITERALS: Final = {"n": "null", "t": "true", "f": "false"}


class ScriptError(ValueError):
    """`Error("…", line: L, column: C)`."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: `start`/`end` are offsets of its value."""

    key: str
    value: Any
    start: int
    end: int

    @property
    def error_at(self) -> int:
        """Where a wrong type is reported: containers at their start, others at their end."""
        return self.start if isinstance(self.value, (dict, list)) else self.end


def kind_of(value: object) -> str:
    """Name a value as the reference's errors do."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, str):
        return f'string "{value}"'
    return "map" if isinstance(value, dict) else "sequence"


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class JsonText:
    """One document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder(parse_constant=_no_constant)

    def at(self, offset: int) -> str:
        return self._text[offset : offset + 1]

    def error(self, message: str, end: int) -> ScriptError:
        """Make the error of a text of which `end` characters were read."""
        before = self._text[:end]
        line_start = before.rfind("\n") + 1
        column = len(before[line_start:].encode("utf-8", "surrogatepass")) + max(
            0, end - len(self._text)
        )
        escaped = message.replace("\\", "\\\\").replace('"', '\\"')
        return ScriptError(
            f'Error("{escaped}", line: {before.count(chr(10)) + 1}, column: {column})'
        )

    def skip(self, offset: int) -> int:
        while offset < len(self._text) and self._text[offset] in _SPACE:
            offset += 1
        return offset

    def string(self, start: int) -> tuple[str, int]:
        value, end = self.value(start)
        if not isinstance(value, str):
            raise self.error("key must be a string", start + 1)
        return value, end

    def value(self, start: int) -> tuple[Any, int]:
        """Decode the value at `start`; return it with the offset behind it."""
        try:
            return self._decoder.raw_decode(self._text, start)
        except json.JSONDecodeError as error:
            raise self._syntax(error.pos) from error
        except (ValueError, RecursionError) as error:
            raise self.error("recursion limit or number out of range", start) from error

    def _syntax(self, offset: int) -> ScriptError:
        if offset >= len(self._text):
            return self.error("EOF while parsing a value", len(self._text))
        if (literal := _LITERALS.get(self.at(offset))) is not None:
            got = self._text[offset : offset + len(literal)]
            same = next((i for i, c in enumerate(got) if c != literal[i]), len(got) - 1)
            return self.error("expected ident", offset + same + 1)
        return self.error("expected value", offset + 1)

    def array(self) -> Iterator[int]:
        """Yield the offset of each element of the document, which must be one array."""
        start = self.skip(0)
        if self.at(start) != "[":
            value, end = self.value(start)
            at = start if isinstance(value, (dict, list)) else end
            raise self.error(f"invalid type: {kind_of(value)}, expected a sequence", at)
        self.value(start)
        offset = self.skip(start + 1)
        while self.at(offset) != "]":
            yield offset
            offset = self.skip(self.value(offset)[1])
            offset = self.skip(offset + 1) if self.at(offset) == "," else offset
        if (rest := self.skip(offset + 1)) < len(self._text):
            raise self.error("trailing characters", rest + 1)

    def object(
        self, start: int, only_first: Callable[[str, int], None] | None = None
    ) -> list[Member]:
        """Return the members of the object at `start`; `only_first` sees the first key early."""
        members: list[Member] = []
        offset = self.skip(start + 1)
        while self.at(offset) != "}":
            key, key_end = self.string(offset)
            if only_first is not None and not members:
                only_first(key, key_end)
            value_start = self.skip(self.skip(key_end) + 1)
            value, end = self.value(value_start)
            members.append(Member(key, value, value_start, end))
            offset = self.skip(end)
            offset = self.skip(offset + 1) if self.at(offset) == "," else offset
        return members
