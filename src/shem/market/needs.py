"""What an expression cannot be true without: properties that equal a text.

docs/protocol/market.md §7.4, §7.5. Pure. `(&(subnet=a)(mem>=2))` needs `subnet` to be `a`. A need
is a set of alternatives, of which at least one must hold; what cannot be said so simply (wildcards,
lists, casts, negations, orders) needs nothing here, and is left to `resolve`.

A value and a text meet in their keys: a text has itself and, if it is one, its number; a string has
itself, a number itself, a boolean its word, and a list those of its items. Equal ones share a key.
"""

import math
from collections.abc import Iterator
from typing import Final

from shem.market.constraints import All, AnyOf, Compare, Expression
from shem.market.resolve import Typed, read_number

ALTERNATIVES_MAX: Final = 32
"""A need with more of them narrows nothing down."""

Key = str | float
Need = frozenset[tuple[str, str]]
"""Alternatives: the name of a property, and the text that it equals."""


def needs_of(expression: Expression) -> tuple[Need, ...]:
    """Return what must hold, all of it, where the expression is true."""
    match expression:
        case All(inner):
            return tuple(dict.fromkeys(need for each in inner for need in needs_of(each)))
        case AnyOf(inner) if inner:
            found = [needs_of(each) for each in inner]
            if not all(found):
                return ()
            need = frozenset(each for needs in found for each in min(needs, key=len))
            return (need,) if len(need) <= ALTERNATIVES_MAX else ()
        case Compare(prop, "=", value) if prop.aspect is None and prop.cast is None:
            return (frozenset({(prop.name, value)}),) if _is_plain(value) else ()
    return ()


def keys_of_text(text: str) -> tuple[Key, ...]:
    """Return the keys of a constraint's text."""
    number = read_number(text)
    return (text,) if number is None or math.isnan(number) else (text, number)


def keys_of_value(value: Typed) -> Iterator[Key]:
    """Return the keys of a property's value."""
    if isinstance(value, bool):
        yield "true" if value else "false"
    elif isinstance(value, list):
        for item in value:
            yield from keys_of_value(item)
    else:
        yield value


def _is_plain(text: str) -> bool:
    return "*" not in text and not (text.startswith("[") and text.endswith("]"))
