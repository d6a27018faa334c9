"""Properties: flattening and the one JSON text that is stored, hashed and sent.

docs/protocol/market.md §7.2. Pure. The text must equal the one legacy nodes produce from the same
input, number formats included, because its bytes are part of a subscription's id.
"""

import json
from decimal import Decimal
from typing import Final

from shem.kernel.errors import UsageError

DEPTH_MAX: Final = 128
"""Nesting that the legacy JSON reader accepts."""
TEXT_MAX: Final = 1 << 20
"""Bytes of one properties text, ours or a peer's."""
TAG: Final = "@tag"
_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 64) - 1

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Flat = dict[str, Json]


def flatten(value: Json) -> Flat:
    """Return one level of dotted names; what is no object goes under the empty name."""
    flat: Flat = {}
    if isinstance(value, dict):
        _flatten_into(flat, "", value, 0)
    else:
        flat[""] = value
    return flat


def _flatten_into(flat: Flat, prefix: str, value: dict[str, Json], depth: int) -> None:
    if depth > DEPTH_MAX:
        raise UsageError(f"properties are nested deeper than {DEPTH_MAX} levels")
    if not value:
        flat[prefix] = {}
        return
    for name in sorted(value):
        child = value[name]
        if name == TAG:
            flat[prefix] = child
            continue
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, dict):
            _flatten_into(flat, path, child, depth + 1)
        else:
            flat[path] = child


def canonical_text(value: Json) -> str:
    """Return compact JSON with sorted keys and the network's number formats."""
    parts: list[str] = []
    _write(parts, value, 0)
    text = "".join(parts)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError("properties hold a lone surrogate, which has no UTF-8 form") from error
    if size > TEXT_MAX:
        raise UsageError(f"properties are longer than {TEXT_MAX} bytes")
    return text


def flat_text(value: Json) -> str:
    """Return the text to store, hash and send for what a program gave as properties."""
    return canonical_text(flatten(value))


def parse_text(text: str) -> Json:
    """Read a properties text of our own or of a peer; UsageError when it is not JSON."""
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"properties are not JSON: {error}") from error
    return value


def parse_flat(text: str) -> Flat:
    """Read a properties text as flat properties; a peer's may still be nested."""
    return flatten(parse_text(text))


def escape(text: str) -> str:
    """Return the inside of the JSON string literal of `text`; non-ASCII stays as it is."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def number_text(value: float) -> str:
    """Return integers of 64 bits exactly, everything else as shortest float text."""
    if isinstance(value, int) and _INT_MIN <= value <= _INT_MAX:
        return str(value)
    try:
        return _float_text(float(value))
    except OverflowError as error:
        raise UsageError(f"number out of range: {str(value)[:20]}…") from error


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _float_text(value: float) -> str:
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    if not isinstance(exponent, int):
        raise UsageError(f"{value} is not a JSON number")
    text = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(text)
    minus = "-" if sign else ""
    if not text:
        return f"{minus}0.0"
    point = len(text) + exponent
    if exponent >= 0 and point <= 16:
        return f"{minus}{text}{'0' * exponent}.0"
    if 0 < point <= 16:
        return f"{minus}{text[:point]}.{text[point:]}"
    if -5 < point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
    return f"{minus}{mantissa}e{point - 1}"


def _write(parts: list[str], value: Json, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise UsageError(f"properties are nested deeper than {DEPTH_MAX} levels")
    if value is None or isinstance(value, bool):
        parts.append(json.dumps(value))
    elif isinstance(value, str):
        parts.append(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, int | float):
        parts.append(number_text(value))
    elif isinstance(value, list):
        parts.append("[")
        for index, item in enumerate(value):
            parts.append("," if index else "")
            _write(parts, item, depth + 1)
        parts.append("]")
    elif not isinstance(value, dict):
        raise UsageError(f"JSON has no {type(value).__name__}")
    else:
        parts.append("{")
        for index, name in enumerate(sorted(value)):
            parts.append("," if index else "")
            parts.append(json.dumps(name, ensure_ascii=False) + ":")
            _write(parts, value[name], depth + 1)
        parts.append("}")
