"""The fields of ExeScript commands, read and checked (docs/protocol/activity-exeunit.md §7).

Pure. Nodes have normalised a script before it comes here, but nobody has to be a node of ours: what
is malformed is a UsageError that names the command.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeGuard

from shem.exeunit.commands import (
    CaptureMode,
    DeployOptions,
    FileSet,
    Format,
    Part,
    TransferSpec,
    VolumeKind,
    VolumeWish,
)
from shem.kernel.errors import UsageError

ARGUMENTS_MAX: Final = 4_096
CAPTURE_LIMIT_MAX: Final = 1 << 32
VOLUMES_MAX: Final = 32
PATTERNS_MAX: Final = 256
URL_CHARS_MAX: Final = 8_192
COUNT_MAX: Final = 1 << 63
DEFAULT_INTERVAL_S: Final = 1.0
INTERVAL_MIN_S: Final = 0.1
"""Progress is not told more often than this, whatever is asked for."""
_DURATION: Final = re.compile(r"(?:\s*\d+\s*[a-z]+)+\s*")
_DURATION_PART: Final = re.compile(r"(\d+)\s*([a-z]+)")
_SECONDS: Final[Mapping[str, float]] = {
    **dict.fromkeys(("ns", "nsec"), 1e-9),
    **dict.fromkeys(("us", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600.0),
}


class Fields:
    """The fields of one command."""

    def __init__(self, index: int, fields: Mapping[str, object]) -> None:
        self._index = index
        self._fields = fields

    def error(self, message: str) -> UsageError:
        return UsageError(f"command {self._index}: {message}")

    def get(self, name: str) -> object:
        return self._fields.get(name)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise self.error(f"{name} is a text")
        return value

    def texts(self, name: str, count_max: int = ARGUMENTS_MAX) -> tuple[str, ...]:
        value = self._fields.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{name} is a list of texts")
        if len(value) > count_max:
            raise self.error(f"at most {count_max} {name}")
        if any("\0" in item for item in value):
            raise self.error(f"{name} cannot hold a zero byte")
        return tuple(value)

    def count(self, name: str, limit: int = COUNT_MAX) -> int | None:
        value = self._fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise self.error(f"{name} is a whole number between 0 and {limit}")
        return value

    def map(self, name: str) -> Mapping[str, object]:
        value = self._fields.get(name)
        if value is None:
            return {}
        if not is_map(value):
            raise self.error(f"{name} is a map")
        return value

    def inner(self, name: str) -> "Fields":
        return Fields(self._index, self.map(name))


def is_map(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def parse_mode(fields: Fields, name: str) -> CaptureMode | None:
    """Read how one stream of a run is captured."""
    value = fields.get(name)
    if value is None:
        return None
    if not is_map(value) or len(value) != 1 or next(iter(value)) not in ("atEnd", "stream"):
        raise fields.error("a capture mode is atEnd or stream")
    [kind] = value
    mode = fields.inner(name).inner(kind)
    binary = _parse_output_format(mode)
    if kind == "stream":
        limit = mode.count("limit", CAPTURE_LIMIT_MAX)
        part = Part.ALL if limit is None else Part.HEAD
        return CaptureMode(stream=True, part=part, limit=limit or 0, binary=binary)
    chosen = [
        (part, limit)
        for part in (Part.HEAD, Part.TAIL, Part.HEAD_TAIL)
        if (limit := mode.count(part, CAPTURE_LIMIT_MAX)) is not None
    ]
    if len(chosen) > 1:
        raise fields.error("atEnd takes one of head, tail, headTail")
    part, limit = chosen[0] if chosen else (Part.ALL, 0)
    return CaptureMode(part=part, limit=limit, binary=binary)


def _parse_output_format(mode: Fields) -> bool:
    value = mode.get("format")
    if value in (None, "str", "string"):
        return False
    if value in ("bin", "binary"):
        return True
    raise mode.error("a capture format is str or bin")


def parse_deploy(fields: Fields) -> DeployOptions:
    """Read what a deploy asks for; its `hosts` are names in a VPN, and its `env` nobody reads."""
    networks = fields.get("net")
    hostname = fields.get("hostname")
    return DeployOptions(
        volumes=_parse_volumes(fields),
        hostname=None if hostname is None else fields.text("hostname"),
        networks=bool(networks),
    )


def _parse_volumes(fields: Fields) -> Mapping[str, VolumeWish]:
    value = fields.get("volumes")
    if value is None:
        return {}
    if isinstance(value, list):
        return dict.fromkeys(fields.texts("volumes", VOLUMES_MAX), VolumeWish(VolumeKind.HOST))
    volumes = fields.map("volumes")
    if len(volumes) > VOLUMES_MAX:
        raise fields.error(f"at most {VOLUMES_MAX} volumes")
    return {path: _parse_volume(fields, path) for path in volumes}


def _parse_volume(fields: Fields, path: str) -> VolumeWish:
    volume = fields.inner("volumes").map(path)
    if len(volume) != 1:
        raise fields.error(f"the volume {path} is one of host, ram, storage")
    [name] = volume
    if name not in set(VolumeKind):
        raise fields.error(f"the volume {path} is one of host, ram, storage")
    kind = VolumeKind(name)
    if kind is VolumeKind.HOST:
        return VolumeWish(kind)
    size = fields.inner("volumes").inner(path).inner(name).count("size")
    if size is None:
        raise fields.error(f"the volume {path} needs a size")
    return VolumeWish(kind, size)


def parse_transfer(fields: Fields) -> TransferSpec:
    """Read a transfer."""
    source, target = fields.text("from"), fields.text("to")
    if max(len(source), len(target)) > URL_CHARS_MAX:
        raise fields.error(f"a URL has at most {URL_CHARS_MAX} characters")
    name = fields.get("format")
    if name is not None and name not in set(Format):
        raise fields.error(f"a transfer format is one of {', '.join(Format)}")
    return TransferSpec(
        source=source,
        target=target,
        format=None if name is None else Format(str(name)),
        depth=fields.count("depth"),
        filesets=_parse_filesets(fields),
    )


def _parse_filesets(fields: Fields) -> tuple[FileSet, ...]:
    value = fields.get("fileset")
    items = value if isinstance(value, list) else [] if value is None else [value]
    if len(items) > PATTERNS_MAX:
        raise fields.error(f"at most {PATTERNS_MAX} filesets")
    return tuple(_parse_fileset(fields, item) for item in items) or (FileSet(),)


def _parse_fileset(fields: Fields, item: object) -> FileSet:
    if isinstance(item, str):
        return FileSet((item,))
    if not is_map(item):
        raise fields.error("a fileset is a pattern or a map of includes and excludes")
    includes = _patterns(fields, item.get("includes"))
    return FileSet(includes or FileSet().includes, _patterns(fields, item.get("excludes")))


def _patterns(fields: Fields, value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    if len(items) > PATTERNS_MAX or not all(isinstance(item, str) for item in items):
        raise fields.error(f"includes and excludes are at most {PATTERNS_MAX} patterns")
    return tuple(items)


def parse_progress(fields: Fields) -> float | None:
    """Read how often progress is wanted, in seconds; None for never."""
    if fields.get("progress") is None:
        return None
    interval = fields.inner("progress").get("updateInterval")
    if interval is None:
        return DEFAULT_INTERVAL_S
    if not isinstance(interval, str) or not _DURATION.fullmatch(interval):
        raise fields.error("updateInterval is a duration like 300ms")
    seconds = 0.0
    for number, unit in _DURATION_PART.findall(interval):
        if unit not in _SECONDS or len(number) > 18:
            raise fields.error("updateInterval is a duration like 300ms")
        seconds += int(number) * _SECONDS[unit]
    return max(seconds, INTERVAL_MIN_S)
