"""Commands of an ExeScript, and the text that carries them (docs/protocol/activity-exeunit.md §7).

[Upload("scene.txt", "/work/scene"), Run("mandel", "render", "78", "24")]

Paths inside an activity begin with a slash and lie in one of its volumes. What is on this machine
(`Upload`, `Download`) is served to the provider by the program itself, as long as its `Golem` is
open (`sdk.files`); over http(s) nothing of ours has to be there (`Transfer`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from shem.kernel.errors import UsageError

COMMANDS_MAX: Final = 10_000
CAPTURE_ALL: Final[dict[str, Any]] = {"stdout": {"stream": {}}, "stderr": {"stream": {}}}
"""Whole outputs, kept for the results and also told while the command runs."""
PROGRESS: Final[dict[str, Any]] = {"updateInterval": "500ms"}
"""How often whoever watches is told how far a transfer is."""
FORMATS: Final = ("tar", "tar.bz2", "tar.gz", "tar.xz", "zip", "zip.0")
SCHEMES: Final = ("http:", "https:", "gftp:", "container:", "hash:")


@dataclass(frozen=True, slots=True)
class Deploy:
    """Make the package ready; the first command of every activity."""

    def wire(self) -> dict[str, Any]:
        return {"deploy": {"progress": PROGRESS}}


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
class Transfer:
    """Move a file between the network and the activity, or inside the activity.

    Either side is a path in the activity or a URL (http, https, gftp), which may name the hash that
    what is moved must have: `hash:sha3:HEX:URL`. With a `format` the side in the activity is a
    directory, packed or unpacked; `fileset` (globs) and `depth` say what of it is packed.
    """

    source: str
    target: str
    format: str | None = None
    depth: int | None = None
    fileset: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _require_format(self.format)
        place(self.source), place(self.target)

    def wire(self) -> dict[str, Any]:
        globs = self.fileset if isinstance(self.fileset, str | None) else list(self.fileset)
        options = {"format": self.format, "depth": self.depth, "fileset": globs}
        body = {"from": place(self.source), "to": place(self.target), "progress": PROGRESS}
        given = {name: value for name, value in options.items() if value is not None}
        return {"transfer": {**body, **given}}


@dataclass(frozen=True, slots=True)
class Upload:
    """Bring a file of this machine into the activity; with a `format` it is unpacked there."""

    local: Path | str
    remote: str
    format: str | None = None

    def __post_init__(self) -> None:
        _require_format(self.format)
        _require_path(self.remote)

    def wire(self) -> dict[str, Any]:
        """Return what tells this command from others; what is sent is a Transfer."""
        body = {"local": str(self.local), "remote": self.remote, "format": self.format}
        return {"upload": body}


@dataclass(frozen=True, slots=True)
class Download:
    """Fetch a file of the activity; with a `format` a directory of it, packed."""

    remote: str
    local: Path | str
    format: str | None = None
    depth: int | None = None
    fileset: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _require_format(self.format)
        _require_path(self.remote)

    def wire(self) -> dict[str, Any]:
        """Return what tells this command from others; what is sent is a Transfer."""
        names = (self.remote, str(self.local), self.format, self.depth, self.fileset)
        return {"download": names}


@dataclass(frozen=True, slots=True)
class Terminate:
    """Stop the runtime and go back to before the deploy; the activity stays."""

    def wire(self) -> dict[str, Any]:
        return {"terminate": {}}


Command = Deploy | Start | Run | Transfer | Upload | Download | Terminate
Script = Command | Sequence[Command]


def commands_of(script: Script) -> tuple[Command, ...]:
    """Return the script as a tuple; UsageError when it is empty, too long or something else."""
    commands = tuple(script) if isinstance(script, Sequence) else (script,)
    if not 0 < len(commands) <= COMMANDS_MAX:
        raise UsageError(f"a script has 1 to {COMMANDS_MAX} commands, not {len(commands)}")
    for command in commands:
        if not isinstance(command, Command):
            raise UsageError(f"{command!r} is not a command; use shem.Run(entry_point, *args)")
    return commands


def encode(commands: Sequence[Command]) -> str:
    return msgspec.json.encode([command.wire() for command in commands]).decode()


def place(text: str) -> str:
    """Return one side of a transfer as it travels; UsageError when it is none."""
    if text.lower().startswith(SCHEMES):
        return text
    return "container:" + _require_path(text)


def _require_path(text: str) -> str:
    if not text.startswith("/"):
        raise UsageError(f"{text!r} is neither a path in the activity (/…) nor a URL")
    return text


def _require_format(name: str | None) -> None:
    if name is not None and name not in FORMATS:
        raise UsageError(f"format {name!r} is none of {', '.join(FORMATS)}")
