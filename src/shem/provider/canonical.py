"""One text for each JSON value: the form that is signed (RFC 8785). Pure.

Keys stand in the order of their UTF-16 code units, numbers are written as JavaScript writes them,
and there is no blank. What two programs could read differently is refused.
"""

import json
import math
from collections.abc import Iterator
from typing import Final

from shem.kernel.errors import UsageError

DEPTH_MAX: Final = 64
SAFE_INTEGER: Final = (1 << 53) - 1
"""The largest whole number that every program reads as the same."""
_LITERALS: Final = {None: "null", True: "true", False: "false"}


def canonical(value: object) -> bytes:
    """Return the one form of a decoded JSON value; UsageError when it has none."""
    try:
        return "".join(_parts(value, 0)).encode()
    except UnicodeEncodeError as error:
        raise UsageError("a text with half a character in it") from error


def _parts(value: object, depth: int) -> Iterator[str]:
    if depth > DEPTH_MAX:
        raise UsageError(f"values more than {DEPTH_MAX} deep")
    if value is None or isinstance(value, bool):
        yield _LITERALS[value]
    elif isinstance(value, str):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, int | float):
        yield number_text(value)
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            yield "," if index else ""
            yield from _parts(item, depth + 1)
        yield "]"
    elif isinstance(value, dict):
        yield from _map_parts(value, depth)
    else:
        raise UsageError(f"a {type(value).__name__}, which JSON does not know")


def _map_parts(value: dict[object, object], depth: int) -> Iterator[str]:
    if not all(isinstance(key, str) for key in value):
        raise UsageError("a key that is not a text")
    yield "{"
    for index, key in enumerate(sorted(map(str, value), key=lambda key: key.encode("utf-16-be"))):
        yield "," if index else ""
        yield json.dumps(key, ensure_ascii=False) + ":"
        yield from _parts(value[key], depth + 1)
    yield "}"


def number_text(value: int | float) -> str:
    """Return a number as JavaScript writes it."""
    if isinstance(value, int):
        if abs(value) > SAFE_INTEGER:
            raise UsageError("a number that is not exact everywhere")
        return str(value)
    if not math.isfinite(value):
        raise UsageError("a number that is not finite")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, power = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """Put the point after so many of the digits, or an exponent where it would be far away."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    exponent = f"{'+' if point > 0 else '-'}{abs(point - 1)}"
    return digits[0] + (f".{digits[1:]}" if count > 1 else "") + "e" + exponent
