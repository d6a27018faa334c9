"""Reads the identities out of yagna's data directory, to take them over.

Nothing is written there: the database and its log are read from a private copy. A directory that a
running yagna holds is refused, for two nodes of one identity take each other's traffic. Layout:
docs/protocol/gsb-identity.md §3.5, §6.5.
"""

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from shem.kernel.errors import Conflict, NotFound, UsageError

DATABASE: Final = "yagna.db"
LOCK: Final = "yagna.lock"
DATABASE_SIZE_MAX: Final = 256 << 20
ROWS_MAX: Final = 1_000
_SELECT: Final = """
    SELECT identity_id, alias, is_default, key_file_json FROM identity
    WHERE NOT is_deleted ORDER BY is_default DESC, created_date LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class YagnaIdentity:
    """One of yagna's identities with its keystore, which never shows in logs."""

    node_id: str
    alias: str | None
    is_default: bool
    keystore: str

    def __repr__(self) -> str:
        return f"YagnaIdentity({self.node_id})"


def read_identities(datadir: Path) -> list[YagnaIdentity]:
    """Return what yagna has not dropped, its default identity first."""
    database = datadir / DATABASE
    if not database.is_file():
        raise NotFound(f"{datadir} holds no {DATABASE}: it is not a data directory of yagna")
    if database.stat().st_size > DATABASE_SIZE_MAX:
        raise UsageError(f"{database} is larger than {DATABASE_SIZE_MAX} bytes")
    _refuse_running(datadir / LOCK)
    with tempfile.TemporaryDirectory(prefix="shem-import-") as private:  # made 0700
        copy = Path(private) / DATABASE
        for ending in ("", "-wal"):
            source = database.with_name(DATABASE + ending)
            if source.exists():
                shutil.copyfile(source, copy.with_name(DATABASE + ending))
        try:
            connection = apsw.Connection(str(copy))
            try:
                rows = connection.execute(_SELECT, (ROWS_MAX,)).fetchall()
            finally:
                connection.close()
        except apsw.Error as error:
            raise UsageError(f"{database} cannot be read: {error}") from error
    return [
        YagnaIdentity(str(node_id), None if alias is None else str(alias), bool(default), str(text))
        for node_id, alias, default, text in rows
    ]


def _refuse_running(lock: Path) -> None:
    """Conflict when a process holds yagna's lock; asking changes nothing in the file."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"yagna is running on {lock.parent}: stop it first") from None
    finally:
        os.close(descriptor)
