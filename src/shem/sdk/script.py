"""Commands of an ExeScript, and the text that carries them (docs/protocol/activity-exeunit.md §7).

[Run("mandel", "render", "78", "24"), Run("mandel", "ledger")]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shem.kernel.errors import UsageError

COMMANDS_MAX: Final = 10_000
CAPTURE_ALL: Final[dict[str, Any]] = {"stdout": {"stream": {}}, "stderr": {"stream": {}}}
"""Whole outputs, kept for the results and also told while the command runs."""


@dataclass(frozen=True, slots=True)
class Deploy:
    """Make the package ready; the first command of every activity."""

    def wire(self) -> dict[str, Any]:
        return {"deploy": {}}


@dataclass(frozen=True, slots=True)
class Start:
    """Start the runtime; the second command of every activity."""

    args: tuple[str, ...] = ()

    def wire(self) -> dict[str, Any]:
        return {"start": {"args": list(self.args)}}


@dataclass(frozen=True, slots=True, init=False)
class Run:
    """Run one entry point of the package to its end, and keep its output."""

    entry_point: str
    args: tuple[str, ...]

    def __init__(self, entry_point: str, *args: str) -> None:
        object.__setattr__(self, "entry_point", entry_point)
        object.__setattr__(self, "args", args)

    def wire(self) -> dict[str, Any]:
        body = {"entry_point": self.entry_point, "args": list(self.args), "capture": CAPTURE_ALL}
        return {"run": body}


@dataclass(frozen=True, slots=True)
class Terminate:
    """Stop the runtime and go back to before the deploy; the activity stays."""

    def wire(self) -> dict[str, Any]:
        return {"terminate": {}}


Command = Deploy | Start | Run | Terminate
Script = Command | Sequence[Command]


def commands_of(script: Script) -> tuple[Command, ...]:
    """Return the script as a tuple; UsageError when it is empty, too long or something else."""
    commands = tuple(script) if isinstance(script, Sequence) else (script,)
    if not 0 < len(commands) <= COMMANDS_MAX:
        raise UsageError(f"a script has 1 to {COMMANDS_MAX} commands, not {len(commands)}")
    for command in commands:
        if not isinstance(command, Deploy | Start | Run | Terminate):
            raise UsageError(f"{command!r} is not a command; use shem.Run(entry_point, *args)")
    return commands


def encode(commands: Sequence[Command]) -> str:
    return msgspec.json.encode([command.wire() for command in commands]).decode()
