"""The node's data directory: private, held by one process, never one of a real yagna.

The lock is an exclusive `flock` of `shem.lock`, which the kernel releases when the process ends in
whatever way. The file stays; it holds the process id for people.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shem.kernel.errors import Conflict, StorageFault, UsageError

LOCK_FILE: Final = "shem.lock"
DATABASE_FILE: Final = "shem.db"
YAGNA_FILE: Final = "yagna.db"
_OTHERS: Final = 0o077


class AlreadyRunning(Conflict):
    """Another process holds the data directory."""

    code = "already-running"


@contextmanager
def hold_datadir(path: Path, *, what: str = "shem node") -> Iterator[Path]:
    """Create, check and lock the data directory for as long as the block lasts."""
    try:
        _prepare(path)
        descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFault(f"cannot use the data directory {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise AlreadyRunning(f"{what} is already running in {path} (pid {pid})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield path
    finally:
        os.close(descriptor)


def _prepare(path: Path) -> None:
    """Make the directory ours alone; refuse one that is another's."""
    try:
        path.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise UsageError(f"{path} is not a directory") from None
    names = set(os.listdir(path))  # noqa: PTH208 - one look at all names
    if YAGNA_FILE in names:
        raise UsageError(
            f"{path} is the data directory of a yagna (it holds {YAGNA_FILE}), and shem never "
            "writes there: choose another with SHEM_DATADIR or --datadir"
        )
    if path.stat().st_mode & _OTHERS:
        if names and LOCK_FILE not in names:
            raise UsageError(f"{path} can be read by others: chmod 700 it, or choose another")
        path.chmod(0o700)
