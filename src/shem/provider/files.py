"""The operator's files: checked when they are read, written whole or not at all.

What is wrong in one is said with the file, the key, and what to do. A change is made under a lock,
so that two commands do not undo each other; a reader needs none, since a file is replaced at once.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from shem.kernel.errors import StorageFault, UsageError

FILE_SIZE_MAX: Final = 1 << 20
LOCK_NAME: Final = "settings.lock"

T = TypeVar("T")


def read_file(path: Path, kind: type[T], *, remedy: str) -> T | None:
    """Return what a JSON file says, None when there is none; UsageError when it makes no sense."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {remedy}") from error
    if len(text) > FILE_SIZE_MAX:
        raise UsageError(f"{path}: more than {FILE_SIZE_MAX} bytes; {remedy}")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"{path}: {error}; {remedy}") from error


def write_file(path: Path, value: object) -> None:
    """Replace a JSON file durably; StorageFault when that fails, and the old one is still there."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file durably, in the same way."""
    partial = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageFault(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def changing(data_dir: Path) -> Iterator[None]:
    """Hold the lock under which settings are read, changed and written."""
    try:
        data_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        lock = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFault(f"{data_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def remove_file(path: Path) -> None:
    """Remove a file durably; StorageFault when that fails."""
    try:
        path.unlink()
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageFault(f"{path} cannot be removed: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
