"""ExeScript: the commands of a batch, parsed and checked once.

Pure (docs/protocol/activity-exeunit.md §7). A script arrives as decoded FlexBuffers or JSON: a list
of one-key maps. What is malformed is a UsageError and nothing of the script is accepted; a command
that exists and is not built parses, and fails when its turn comes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeGuard

from shem.kernel.errors import UsageError

COMMANDS_MAX: Final = 1_000
SCRIPT_SIZE_MAX: Final = 1 << 20
"""Of the canonical JSON text, in bytes."""
ARGUMENTS_MAX: Final = 4_096
CAPTURE_LIMIT_MAX: Final = 1 << 32


class Kind(StrEnum):
    """The names of commands on the wire."""

    DEPLOY = "deploy"
    START = "start"
    RUN = "run"
    TRANSFER = "transfer"
    TERMINATE = "terminate"
    SIGN = "sign"


class Part(StrEnum):
    """Which part of an output is kept."""

    ALL = "all"
    HEAD = "head"
    TAIL = "tail"
    HEAD_TAIL = "headTail"


@dataclass(frozen=True, slots=True)
class CaptureMode:
    """How one output stream is kept (§8.4)."""

    stream: bool = False
    """Also reported while the command runs; `part` is then ALL or HEAD."""
    part: Part = Part.ALL
    limit: int = 0
    """Bytes that `part` keeps; without meaning for ALL."""
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One command; the fields beyond `kind` belong to `start` and `run`."""

    kind: Kind
    entry_point: str = ""
    args: tuple[str, ...] = ()
    stdout: CaptureMode | None = None
    stderr: CaptureMode | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed script with its text and the digest that tells repeats from clashes."""

    commands: tuple[Command, ...]
    source: tuple[dict[str, object], ...]
    """The commands as they came: reported in events, kept in the journal."""
    digest: str


def parse_script(body: object) -> Script:
    """Check a whole script; UsageError says which command is wrong."""
    if not isinstance(body, list):
        raise UsageError("an ExeScript is a list of commands")
    if len(body) > COMMANDS_MAX:
        raise UsageError(f"an ExeScript has at most {COMMANDS_MAX} commands, not {len(body)}")
    try:
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the ExeScript cannot be written as JSON: {error}") from error
    if len(text) > SCRIPT_SIZE_MAX:
        raise UsageError(f"an ExeScript has at most {SCRIPT_SIZE_MAX} bytes")
    commands = tuple(_parse_command(index, item) for index, item in enumerate(body))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Script(commands, tuple(body), digest)


def _parse_command(index: int, item: object) -> Command:
    if not _is_map(item) or len(item) != 1:
        raise UsageError(f"command {index} is not a map with one key")
    [(name, fields)] = item.items()
    try:
        kind = Kind(name)
    except ValueError:
        raise UsageError(f"command {index}: there is no command {name!r}") from None
    if not _is_map(fields):
        raise UsageError(f"command {index}: {name} takes a map of fields")
    if kind is Kind.START:
        return Command(kind, args=_strings(index, fields.get("args", [])))
    if kind is Kind.RUN:
        return _parse_run(index, fields)
    return Command(kind)


def _parse_run(index: int, fields: Mapping[str, object]) -> Command:
    entry_point = fields.get("entry_point")
    if not isinstance(entry_point, str):
        raise UsageError(f"command {index}: run needs an entry_point")
    capture = fields.get("capture")
    if capture is None:
        capture = {}
    if not _is_map(capture):
        raise UsageError(f"command {index}: capture is a map")
    return Command(
        Kind.RUN,
        entry_point,
        _strings(index, fields.get("args", [])),
        _parse_mode(index, capture.get("stdout")),
        _parse_mode(index, capture.get("stderr")),
    )


def _parse_mode(index: int, value: object) -> CaptureMode | None:
    if value is None:
        return None
    if not _is_map(value) or len(value) != 1 or next(iter(value)) not in ("atEnd", "stream"):
        raise UsageError(f"command {index}: a capture mode is atEnd or stream")
    [(name, fields)] = value.items()
    if not _is_map(fields):
        raise UsageError(f"command {index}: {name} takes a map of fields")
    binary = _parse_format(index, fields.get("format"))
    if name == "stream":
        limit = fields.get("limit")
        if limit is None:
            return CaptureMode(stream=True, binary=binary)
        return CaptureMode(True, Part.HEAD, _limit(index, limit), binary)
    chosen = [
        part for part in (Part.HEAD, Part.TAIL, Part.HEAD_TAIL) if fields.get(part) is not None
    ]
    if len(chosen) > 1:
        raise UsageError(f"command {index}: atEnd takes one of head, tail, headTail")
    if not chosen:
        return CaptureMode(binary=binary)
    return CaptureMode(part=chosen[0], limit=_limit(index, fields[chosen[0]]), binary=binary)


def _parse_format(index: int, value: object) -> bool:
    if value in (None, "str", "string"):
        return False
    if value in ("bin", "binary"):
        return True
    raise UsageError(f"command {index}: a capture format is str or bin")


def _limit(index: int, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"command {index}: a capture limit is a whole number")
    if not 0 <= value <= CAPTURE_LIMIT_MAX:
        raise UsageError(f"command {index}: a capture limit is between 0 and {CAPTURE_LIMIT_MAX}")
    return value


def _strings(index: int, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"command {index}: args is a list of texts")
    if len(value) > ARGUMENTS_MAX:
        raise UsageError(f"command {index}: at most {ARGUMENTS_MAX} args")
    if any("\0" in item for item in value):
        raise UsageError(f"command {index}: an argument cannot hold a zero byte")
    return tuple(value)


def _is_map(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
