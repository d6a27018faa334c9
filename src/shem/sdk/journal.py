"""A program's own notes on what it has begun: JSON lines in a file by name, on disk before use.

Rules: an entry counts once `add` has returned (it is fsynced then); one program at a time holds a
journal; a last line that was cut off by a crash is dropped, anything else that is not ours is an
error. What a journal does not say is asked of the node.
"""

import fcntl
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from shem.kernel.config import setting
from shem.kernel.errors import Conflict, StorageFault, UsageError

VERSION: Final = 1
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
Entry = dict[str, Any]


def state_directory(chosen: Path | str | None = None) -> Path:
    """Return where journals are kept: as chosen, SHEM_STATE_DIR, or the user's state directory."""
    if chosen is not None:
        return Path(chosen)
    if configured := setting("STATE_DIR"):
        return Path(configured)
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "shem"


class Journal:
    """One open journal; close it, or use `with`."""

    def __init__(self, path: Path, descriptor: int, entries: list[Entry]) -> None:
        self.path = path
        self.entries = entries
        """What earlier programs noted, oldest first."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, directory: Path, kind: str, app: str, name: str) -> Self:
        """Open the journal of `name`, or begin it; Conflict while another program has it."""
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name: letters, digits, '_', '-' and '.', at most 64")
        file_name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', app)[:64]}.{name}.{kind}.jsonl"
        path = directory / file_name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _hold(descriptor, path, kind, name)
            journal = cls(path, descriptor, _read(descriptor, path))
            journal._begin({"kind": "journal", "version": VERSION, "of": kind, "name": name})
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def _begin(self, head: Entry) -> None:
        """Write the first line, or check it."""
        if not self.entries:
            self._write(head)
            _sync_directory(self.path.parent)
            return
        first = self.entries.pop(0)
        if first != head:
            raise StorageFault(f"{self.path} begins with {first}, not with {head}")

    def add(self, kind: str, **fields: Any) -> Entry:
        """Note something down; it is on disk when this returns."""
        entry: Entry = {"kind": kind, **fields}
        self._write(entry)
        return entry

    def _write(self, entry: Entry) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        try:
            written = os.write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            raise StorageFault(f"{self.path}: {error.strerror}") from error
        if written != len(line):
            raise StorageFault(f"{self.path}: the disk took only a part of an entry")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _hold(descriptor: int, path: Path, kind: str, name: str) -> None:
    """Take the lock, which the system lets go when we die."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Conflict(f"another program is running {kind} {name!r} ({path})") from error


def _read(descriptor: int, path: Path) -> list[Entry]:
    """Return the entries; a torn last line is cut off."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        data = file.read()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.ftruncate(descriptor, whole)
    entries: list[Entry] = []
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StorageFault(f"{path}, line {number} is damaged: {error}") from error
        entries.append(entry)
    return entries


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
