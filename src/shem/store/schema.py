"""Numbered, forward-only migrations: which there are, and which are due.

A file `NNNN_<part>.sql` names its set in its first line (`-- shem:set node`). An applied file never
changes (its checksum is kept), and a database that a newer version wrote is not opened.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

from shem.kernel.errors import StorageFault
from shem.store.unit import Row

LEDGER: Final = """
    CREATE TABLE IF NOT EXISTS schema_migration (
        number     INTEGER PRIMARY KEY,
        name       TEXT NOT NULL,
        checksum   TEXT NOT NULL,
        applied_ns INTEGER NOT NULL
    ) STRICT
"""
APPLIED: Final = "SELECT number, name, checksum FROM schema_migration ORDER BY number"
RECORD: Final = """
    INSERT INTO schema_migration (number, name, checksum, applied_ns)
    VALUES (:number, :name, :checksum, :applied_ns)
"""
_FILE: Final = re.compile(r"(\d{4})_([a-z_]+)\.sql")
_SET: Final = re.compile(r"-- shem:set ([a-z]+)\n")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    script: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.script.encode()).hexdigest()


@lru_cache(maxsize=8)
def load(chosen: str) -> tuple[Migration, ...]:
    """Return the migrations of one set, in order."""
    found: dict[int, Migration] = {}
    for file in resources.files("shem.store").joinpath("migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match is None:
            continue
        script = file.read_text(encoding="utf-8")
        header = _SET.match(script)
        if header is None:
            raise StorageFault(f"migration {file.name} does not name its set in its first line")
        if header[1] != chosen:
            continue
        number = int(match[1])
        if number in found:
            raise StorageFault(f"two migrations have the number {number}")
        found[number] = Migration(number, match[2], script)
    if not found:
        raise StorageFault(f"there is no set of migrations called {chosen!r}")
    return tuple(found[number] for number in sorted(found))


def due(migrations: Sequence[Migration], applied: Sequence[Row]) -> list[Migration]:
    """Return what is not applied yet; StorageFault when the database and the files disagree."""
    known = {migration.number: migration for migration in migrations}
    for row in applied:
        migration = known.pop(row["number"], None)
        if migration is None:
            raise StorageFault(
                f"the database has migration {row['number']} ({row['name']}), which this version "
                "of shem does not know: start the version that wrote it"
            )
        if migration.checksum != row["checksum"]:
            raise StorageFault(f"migration {row['number']} was changed after it was applied")
    return [known[number] for number in sorted(known)]
