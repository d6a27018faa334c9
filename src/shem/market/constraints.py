"""The constraint language: text in, expression out; parsed once and kept.

docs/protocol/market.md §7.4. Pure. The grammar's quirks are kept on purpose (text after the first
filter is ignored, values keep their spaces, `(s=*x)` is an error): a stricter reader would refuse
what legacy nodes accept. How an expression is decided on properties stands in `resolve`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shem.kernel.errors import UsageError

LENGTH_MAX: Final = 256 * 1024
"""Characters of one constraints text."""
DEPTH_MAX: Final = 100
"""Nesting of filters."""
PARSED_KEPT: Final = 2048
"""Parsed expressions kept in memory."""

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_ATTRIBUTE: Final = re.compile(r"[^=<>~]*(?=[=<>~])")
_OPERATOR: Final = re.compile(r"=|<=|<|>=|>")
_VALUE: Final = re.compile(r"[^)]*(?=\))")
_REFERENCE: Final = re.compile(r"([^\[$]*)(\[[^\]]*\])?(?:\$([dvt]))?")


class ConstraintError(UsageError):
    """The text is no constraint expression."""


@dataclass(frozen=True, slots=True)
class Always:
    """`()`"""


@dataclass(frozen=True, slots=True)
class Reference:
    """A property, perhaps an aspect of it, perhaps read as another type."""

    name: str
    aspect: str | None
    cast: str | None


@dataclass(frozen=True, slots=True)
class Present:
    """`(p=*)`"""

    prop: Reference


@dataclass(frozen=True, slots=True)
class Compare:
    """`(p OP value)`, the value as raw text."""

    prop: Reference
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Not:
    """`(!…)`"""

    inner: "Expression"


@dataclass(frozen=True, slots=True)
class All:
    """`(&…)`; true when empty."""

    inner: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`(|…)`; false when empty."""

    inner: tuple["Expression", ...]


Expression = Always | Present | Compare | Not | All | AnyOf


@lru_cache(maxsize=PARSED_KEPT)
def parse_constraints(text: str) -> Expression:
    """Return the expression of the first filter in `text`, or raise ConstraintError."""
    if len(text) > LENGTH_MAX:
        raise ConstraintError(f"constraints are longer than {LENGTH_MAX} characters")
    return _Reader(text).filter(0, 0)[0]


class _Reader:
    """Recursive descent, first alternative wins; positions go in and come out."""

    def __init__(self, text: str) -> None:
        self._text = text

    def filter(self, start: int, depth: int) -> tuple[Expression, int]:
        if depth > DEPTH_MAX:
            raise ConstraintError(f"constraints are nested deeper than {DEPTH_MAX} filters")
        if self._text.startswith("()", start):
            return Always(), start + 2
        at = self._expect("(", self._skip(start))
        content, at = self._content(self._skip(at), depth)
        at = self._expect(")", self._skip(at))
        return content, self._skip(at)

    def _content(self, start: int, depth: int) -> tuple[Expression, int]:
        first = self._text[start : start + 1]
        if first == "&":
            inner, at = self._filters(start + 1, depth)
            return All(inner), at
        if first == "|":
            inner, at = self._filters(start + 1, depth)
            return AnyOf(inner), at
        if first == "!":
            try:
                negated, at = self.filter(start + 1, depth + 1)
                return Not(negated), at
            except ConstraintError:
                if depth >= DEPTH_MAX:
                    raise
        return self._comparison(start)

    def _filters(self, start: int, depth: int) -> tuple[tuple[Expression, ...], int]:
        found: list[Expression] = []
        at = start
        while self._text.startswith("(", self._skip(at)):
            try:
                inner, at = self.filter(at, depth + 1)
            except ConstraintError:
                break
            found.append(inner)
        return tuple(found), at

    def _comparison(self, start: int) -> tuple[Expression, int]:
        attribute = _ATTRIBUTE.match(self._text, start)
        if attribute is None:
            raise ConstraintError("Incomplete expression: an attribute needs an operator")
        at = attribute.end()
        if self._text.startswith("=*", at):
            return Present(_reference(attribute.group())), at + 2
        operator = _OPERATOR.match(self._text, at)
        if operator is None:
            raise ConstraintError(f"Parsing error: no operator at {at}")
        value = _VALUE.match(self._text, operator.end())
        if value is None:
            raise ConstraintError("Incomplete expression: a value needs a closing bracket")
        prop = _reference(attribute.group())
        return Compare(prop, operator.group(), value.group()), value.end()

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _expect(self, token: str, at: int) -> int:
        if not self._text.startswith(token, at):
            raise ConstraintError(f"Parsing error: {token!r} expected at {at}")
        return at + len(token)


def _reference(text: str) -> Reference:
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ConstraintError(f"Error parsing property reference {text}")
    name, aspect, cast = match.groups()
    return Reference(name, aspect, cast)
