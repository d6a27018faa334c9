"""Reads the bodies of requests to the node's local services.

As liberal as the real node (docs/protocol/gsb-identity.md §2.4): unknown fields are ignored, a
missing optional field is None, a struct without fields may be an empty list. What does not fit
fails on the transport level with a text like the real one's.
"""

from typing import NoReturn, cast

from shem.bus.types import GsbError
from shem.kernel.errors import UsageError
from shem.kernel.ids import NodeId, parse_node_id
from shem.wire.errors import WireError
from shem.wire.flexbuffers import as_bytes

Fields = dict[str, object]


def bad_content(text: str) -> NoReturn:
    raise GsbError(f"Bad content: Serde Error: {text}")


def fields(body: object) -> Fields:
    """Return the fields of a struct."""
    if isinstance(body, dict):
        return cast("Fields", body)
    if body == []:
        return {}
    return bad_content(f"invalid type: {type(body).__name__}, expected a struct")


def variant(body: object) -> tuple[str, object]:
    """Return an enum's variant and its value: a bare name, or a map whose first key counts."""
    if isinstance(body, str):
        return body, None
    if isinstance(body, dict) and body:
        return min(cast("Fields", body).items())
    return bad_content(f"invalid type: {type(body).__name__}, expected an enum")


def optional_text(found: Fields, name: str) -> str | None:
    value = found.get(name)
    if value is None or isinstance(value, str):
        return value
    return bad_content(f"invalid type of `{name}`, expected a string")


def text(found: Fields, name: str) -> str:
    value = optional_text(found, name)
    return bad_content(f"missing field `{name}`") if value is None else value


def flag(found: Fields, name: str, *, default: bool | None = None) -> bool:
    value = found.get(name, default)
    if isinstance(value, bool):
        return value
    return bad_content(f"missing field `{name}`, or not a boolean")


def number(found: Fields, name: str) -> int:
    """Return an unsigned number of 32 bits."""
    value = found.get(name)
    if type(value) is int and 0 <= value < 1 << 32:
        return value
    return bad_content(f"missing field `{name}`, or not a u32")


def node_id(value: object) -> NodeId:
    try:
        return parse_node_id(value) if isinstance(value, str) else bad_content("expected a nodeId")
    except UsageError:
        return bad_content("invalid format")


def node_ids(found: Fields, name: str, *, limit: int) -> list[NodeId]:
    value = found.get(name)
    if not isinstance(value, list) or len(value) > limit:
        return bad_content(f"missing field `{name}`, or not a list of at most {limit} nodes")
    return [node_id(item) for item in value]


def texts(found: Fields, name: str, *, limit: int) -> tuple[str, ...]:
    value = found.get(name, [])
    if not isinstance(value, list) or len(value) > limit:
        return bad_content(f"`{name}` is not a list of at most {limit} strings")
    if not all(isinstance(item, str) for item in value):
        return bad_content(f"`{name}` holds something else than strings")
    return tuple(value)


def raw(found: Fields, name: str) -> bytes:
    if name not in found:
        return bad_content(f"missing field `{name}`")
    try:
        return as_bytes(found[name])
    except WireError as error:
        return bad_content(error.message)
