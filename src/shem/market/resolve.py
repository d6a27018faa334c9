"""Constraints decided on properties: True, False or Undefined, and the match of a pair.

docs/protocol/market.md §7.3 to §7.5. Pure. The type of the *property* decides how a constraint's
raw text is compared; a value of no known type makes its property absent.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from sys import intern
from typing import Any, Final

from shem.kernel.errors import UsageError
from shem.kernel.times import parse as parse_time
from shem.market.constraints import (
    All,
    Always,
    AnyOf,
    Compare,
    ConstraintError,
    Expression,
    Not,
    Present,
    parse_constraints,
)
from shem.market.properties import Json, escape, parse_flat
from shem.market.wildcard import matches

SETS_KEPT: Final = 4096
"""Property sets kept in memory in compared form."""
_UNESCAPABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f]")
"""Control characters whose JSON escape the matcher does not know: the property is dropped."""
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.I)
_SEMVER: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z.-]+))?"
)
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": eq,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}


class Truth(Enum):
    """The outcome of one filter."""

    TRUE = "True"
    FALSE = "False"
    UNDEFINED = "Undefined"


Typed = str | float | bool | list["Typed"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome on a whole set, and which properties were missing for it."""

    truth: Truth
    unresolved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Whether two sides fit, and what each side's constraints missed on the other."""

    fits: bool
    new_unresolved: tuple[str, ...]
    previous_unresolved: tuple[str, ...]

    @property
    def mismatches(self) -> str:
        """Say what was missing, in the words the network uses."""
        new, previous = (
            "[" + ", ".join(f'"{name}"' for name in names) + "]"
            for names in (self.new_unresolved, self.previous_unresolved)
        )
        return f"Mismatched constraints - Offer: {new}, Demand: {previous}"


@lru_cache(maxsize=SETS_KEPT)
def typed_properties(text: str) -> dict[str, Typed]:
    """Return the comparable properties of a properties text; unusable ones are left out."""
    typed: dict[str, Typed] = {}
    for name, value in parse_flat(text).items():
        known = None if "=" in name else _typed(value)
        if known is not None:
            typed[intern(name)] = intern(known) if isinstance(known, str) else known
    return typed


def resolve(expression: Expression, properties: dict[str, Typed]) -> Resolution:
    """Decide `expression` on `properties`."""
    unresolved: list[str] = []
    truth = _decide(expression, properties, unresolved)
    return Resolution(truth, tuple(dict.fromkeys(unresolved)))


def match_pair(
    new_properties: str, new_constraints: str, old_properties: str, old_constraints: str
) -> Match:
    """Match a new proposal with the previous one; ConstraintError when a text is unusable."""
    try:
        new = typed_properties(new_properties)
        old = typed_properties(old_properties)
    except UsageError as error:
        raise ConstraintError(f"Prepare error: {error.message}") from error
    ours = resolve(_prepared("Offer", new_constraints), old)
    theirs = resolve(_prepared("Demand", old_constraints), new)
    fits = ours.truth is Truth.TRUE and theirs.truth is Truth.TRUE
    return Match(fits, ours.unresolved, theirs.unresolved)


def _prepared(side: str, constraints: str) -> Expression:
    try:
        return parse_constraints(constraints)
    except ConstraintError as error:
        raise ConstraintError(
            f"Prepare error: Error parsing {side} constraints: {error.message}"
        ) from error


def _typed(value: Json) -> Typed | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        return None if _UNESCAPABLE.search(value) else escape(value)
    if isinstance(value, list):
        items: list[Typed] = []
        for item in value:
            known = _typed(item)
            if known is None:
                return None
            items.append(known)
        return items
    return None


def _decide(expression: Expression, on: dict[str, Typed], unresolved: list[str]) -> Truth:
    match expression:
        case Always():
            return Truth.TRUE
        case Present(prop):
            return _truth(prop.aspect is None and prop.name in on)
        case Compare():
            truth = _compare(expression, on)
            if truth is Truth.UNDEFINED:
                unresolved.append(expression.prop.name)
            return truth
        case Not(inner):
            return _NEGATED[_decide(inner, on, unresolved)]
        case All(inner_filters):
            return _first_of(Truth.FALSE, (_decide(f, on, unresolved) for f in inner_filters))
        case AnyOf(inner_filters):
            return _first_of(Truth.TRUE, (_decide(f, on, unresolved) for f in inner_filters))


_NEGATED: Final = {
    Truth.TRUE: Truth.FALSE,
    Truth.FALSE: Truth.TRUE,
    Truth.UNDEFINED: Truth.UNDEFINED,
}


def _truth(condition: bool) -> Truth:
    return Truth.TRUE if condition else Truth.FALSE


def _first_of(decisive: Truth, outcomes: Iterable[Truth]) -> Truth:
    found = set(outcomes)
    if decisive in found:
        return decisive
    return Truth.UNDEFINED if Truth.UNDEFINED in found else _NEGATED[decisive]


def _compare(filter_: Compare, on: dict[str, Typed]) -> Truth:
    if filter_.prop.aspect is not None or filter_.prop.name not in on:
        return Truth.UNDEFINED
    have = on[filter_.prop.name]
    if filter_.prop.cast is None:
        return _truth(_compare_typed(have, filter_.operator, filter_.value))
    read = _CASTS[filter_.prop.cast]
    left = read(have) if isinstance(have, str) else None
    if left is None:
        return Truth.UNDEFINED
    right = read(filter_.value)
    return _truth(right is not None and _ORDER[filter_.operator](left, right))


def _compare_typed(have: Typed, operator: str, value: str) -> bool:
    if isinstance(have, bool):
        return operator == "=" and value == ("true" if have else "false")
    if isinstance(have, float):
        number = read_number(value)
        return number is not None and _ORDER[operator](have, number)
    if isinstance(have, str):
        if operator == "=" and "*" in value:
            return matches(value, have)
        return _ORDER[operator](have, value)
    return operator == "=" and _list_equals(have, value)


def _list_equals(have: list[Typed], value: str) -> bool:
    if value.startswith("[") and value.endswith("]"):
        inner = value[1:-1].strip()
        items = [item.strip() for item in inner.split(",")] if inner else []
        return len(items) == len(have) and all(_contains(have, item) for item in items)
    return _contains(have, value)


def _contains(have: list[Typed], value: str) -> bool:
    return any(_compare_typed(item, "=", value) for item in have)


def read_number(text: str) -> float | None:
    """Return the number that a constraint's text is, if it is one."""
    return float(text) if _NUMBER.fullmatch(text) else None


def _version(text: str) -> tuple[object, ...] | None:
    match = _SEMVER.fullmatch(text)
    if match is None:
        return None
    major, minor, patch, pre, build = match.groups()
    numbers = (int(major), int(minor), int(patch))
    return (*numbers, pre is None, _identifiers(pre), _identifiers(build))


def _identifiers(text: str | None) -> tuple[tuple[bool, int, str], ...]:
    """Order semver identifiers: numbers before words, numbers by value."""
    parts = text.split(".") if text else []
    return tuple((not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts)


def _decimal(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _instant(text: str) -> int | None:
    if not re.search(r"[Zz]$|[+-]\d\d:\d\d$", text):
        return None
    try:
        return parse_time(text)
    except UsageError:
        return None


_CASTS: Final[dict[str, Callable[[str], Any]]] = {"v": _version, "d": _decimal, "t": _instant}
