"""Fields of ExeScript commands: typed access with the reference's errors, and the larger parts.

See docs/protocol/activity-exeunit.md §7. Pure.
"""

import re
from typing import Any, Final

from shem.activity.jsontext import JsonText, Member, ScriptError, kind_of

_FORMATS: Final = {"str": "str", "string": "str", "bin": "bin", "binary": "bin"}
_PARTS: Final = ("head", "tail", "headTail")
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtpe]?)(i?)b?\s*", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_DEFAULT_INTERVAL: Final = "1s"


class Fields:
    """The members of one command."""

    def __init__(
        self, document: JsonText, members: list[Member], end: int, *, flat: bool = False
    ) -> None:
        self._document = document
        self._members = {member.key: member for member in members}
        self._end = end
        self._flat = flat

    def flattened(self) -> "Fields":
        """Return the same fields, whose errors are reported at the end of the command."""
        return Fields(self._document, list(self._members.values()), self._end, flat=True)

    def error(self, message: str, member: Member | None = None) -> ScriptError:
        at = self._end if self._flat or member is None else member.error_at
        return self._document.error(message, at)

    def wrong(self, name: str, value: object, expected: str) -> ScriptError:
        what = "value" if isinstance(value, int) and expected == "usize" else "type"
        message = f"invalid {what}: {kind_of(value)}, expected {expected}"
        return self.error(message, self._members.get(name))

    def get(self, name: str) -> Any:
        member = self._members.get(name)
        return None if member is None else member.value

    def has(self, name: str) -> bool:
        return name in self._members

    def text(self, name: str) -> str:
        if name not in self._members:
            raise self.error(f"missing field `{name}`")
        value = self.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.get(name) is None else self.text(name)

    def optional_count(self, name: str) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(name, value, "usize")
        return value

    def sequence(self, name: str) -> list[Any]:
        if name not in self._members:
            return []
        value = self.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, value, "a sequence")
        return value

    def texts(self, name: str) -> list[str]:
        values = self.sequence(name)
        for value in values:
            if not isinstance(value, str):
                raise self.wrong(name, value, "a string")
        return values

    def text_map(self, name: str) -> dict[str, str]:
        if name not in self._members:
            return {}
        value = self.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, value, "a map")
        for item in value.values():
            if not isinstance(item, str):
                raise self.wrong(name, item, "a string")
        return value


def network(fields: Fields, item: object) -> dict[str, Any]:
    """Check one VPN network of a deploy."""
    if not isinstance(item, dict):
        raise fields.wrong("net", item, "struct Network")
    for name in ("id", "ip", "nodeIp"):
        if name not in item:
            raise fields.error(f"missing field `{name}`")
        if not isinstance(item[name], str):
            raise fields.wrong("net", item[name], "a string")
    nodes = item.get("nodes", {})
    if not isinstance(nodes, dict):
        raise fields.wrong("net", nodes, "a map")
    return {
        "id": item["id"],
        "ip": item["ip"],
        "mask": item.get("mask"),
        "gateway": item.get("gateway"),
        "nodeIp": item["nodeIp"],
        "nodes": nodes,
    }


def progress(fields: Fields) -> dict[str, Any] | None:
    """Read progress reporting; None when none is asked for."""
    value = fields.get("progress")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fields.wrong("progress", value, "struct ProgressArgs")
    interval = value.get("updateInterval")
    step = value.get("updateStep")
    if interval is not None and not isinstance(interval, str):
        raise fields.wrong("progress", interval, "a duration")
    if step is not None and (not isinstance(step, int) or isinstance(step, bool) or step < 0):
        raise fields.wrong("progress", step, "usize")
    return {"updateInterval": interval or _DEFAULT_INTERVAL, "updateStep": step}


def capture(fields: Fields) -> dict[str, Any] | None:
    """Read what of a run's output is kept; None when nothing is."""
    value = fields.get("capture")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fields.wrong("capture", value, "struct Capture")
    return {
        name: _mode(fields, value[name])
        for name in ("stdout", "stderr")
        if value.get(name) is not None
    }


def _mode(fields: Fields, mode: object) -> dict[str, Any]:
    if not isinstance(mode, dict) or len(mode) != 1:
        raise fields.wrong("capture", mode, "enum CaptureMode")
    ((kind, body),) = mode.items()
    if kind not in ("atEnd", "stream"):
        raise fields.error(f"unknown variant `{kind}`, expected `atEnd` or `stream`")
    if not isinstance(body, dict):
        raise fields.wrong("capture", body, f"struct variant CaptureMode::{kind}")
    made: dict[str, Any] = {}
    for name in _PARTS if kind == "atEnd" else ("limit",):
        size = body.get(name)
        if size is None or (kind == "atEnd" and made):
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise fields.wrong("capture", size, "usize")
        made[name] = size
    made["format"] = _format(fields, body.get("format", "str"))
    return {kind: made}


def _format(fields: Fields, name: object) -> str:
    if not isinstance(name, str) or name not in _FORMATS:
        raise fields.error(f"unknown variant `{name}`, expected `string` or `binary`")
    return _FORMATS[name]


def fileset(fields: Fields) -> Any:
    """Read which files of a directory a transfer takes: globs, or objects with globs."""
    value = fields.get("fileset")
    items = value if isinstance(value, list) else [value]
    for item in items:
        if item is not None and not isinstance(item, (str, dict)):
            raise fields.error("data did not match any variant of untagged enum FileSet")
    return value


def volumes(fields: Fields) -> Any:
    """Read a deploy's volumes, sizes as bytes; None when there are none."""
    value = fields.get("volumes")
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(path, str) for path in value):
        return value
    if not isinstance(value, dict):
        raise fields.error("data did not match any variant of untagged enum ContainerVolumes")
    return {path: _volume(fields, volume) for path, volume in value.items()}


def _volume(fields: Fields, volume: object) -> dict[str, Any]:
    if not isinstance(volume, dict) or len(volume) != 1:
        raise fields.wrong("volumes", volume, "enum VolumeMount")
    ((kind, body),) = volume.items()
    if kind not in ("host", "ram", "storage") or not isinstance(body, dict):
        raise fields.error(f"unknown variant `{kind}`, expected `host`, `ram` or `storage`")
    made = dict(body)
    for name in ("size", "preallocate"):
        if made.get(name) is not None:
            made[name] = size_bytes(fields, made[name])
    if kind != "host" and "size" not in made:
        raise fields.error("missing field `size`")
    return {kind: made}


def size_bytes(fields: Fields, value: object) -> int:
    """Read a size: a number of bytes, or `1GiB` (2^30), `7000m` (7·10^9)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise fields.error(f"invalid value: {kind_of(value)}, expected a size")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
