"""ExeScript: the commands of a batch, parsed and checked once.

Pure (docs/protocol/activity-exeunit.md §7). A script arrives as decoded FlexBuffers or JSON: a list
of one-key maps. What is malformed is a UsageError and nothing of the script is accepted.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from shem.exeunit.commands import Command, Kind
from shem.exeunit.script_fields import (
    Fields,
    is_map,
    parse_deploy,
    parse_mode,
    parse_progress,
    parse_transfer,
)
from shem.kernel.errors import UsageError

COMMANDS_MAX: Final = 1_000
SCRIPT_SIZE_MAX: Final = 1 << 20
"""Of the canonical JSON text, in bytes."""


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
    if not is_map(item) or len(item) != 1:
        raise UsageError(f"command {index} is not a map with one key")
    [(name, value)] = item.items()
    try:
        kind = Kind(name)
    except ValueError:
        raise UsageError(f"command {index}: there is no command {name!r}") from None
    if not is_map(value):
        raise UsageError(f"command {index}: {name} takes a map of fields")
    fields = Fields(index, value)
    match kind:
        case Kind.DEPLOY:
            return Command(kind, deploy=parse_deploy(fields), progress_s=parse_progress(fields))
        case Kind.START:
            return Command(kind, args=fields.texts("args"))
        case Kind.RUN:
            return _parse_run(fields)
        case Kind.TRANSFER:
            transfer = parse_transfer(fields)
            return Command(kind, transfer=transfer, progress_s=parse_progress(fields))
        case Kind.TERMINATE | Kind.SIGN:
            return Command(kind)


def _parse_run(fields: Fields) -> Command:
    entry_point = fields.get("entry_point")
    if not isinstance(entry_point, str) or "\0" in entry_point:
        raise fields.error("run needs an entry_point")
    capture = fields.inner("capture")
    return Command(
        Kind.RUN,
        entry_point,
        fields.texts("args"),
        parse_mode(capture, "stdout"),
        parse_mode(capture, "stderr"),
    )
