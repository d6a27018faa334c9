"""Removes what old activities and images left on the disk (docs/protocol/provider-agent.md §1).

Work directories go by the newest file in them, whole agreements at a time, and never before the
agreement is long over; cached images go by their own age.
"""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from shem.kernel.errors import StorageFault
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.provider.config import ProviderConfig
from shem.provider.records import Records

log = structlog.get_logger()

KEPT_S: Final = 30 * 86_400.0
"""What the agent removes at its start is older."""


@dataclass(frozen=True, slots=True)
class Old:
    """Something to remove."""

    path: Path
    size: int


async def clean(config: ProviderConfig, records: Records, world: World) -> None:
    """Remove what is older than `KEPT_S`; a fault of the disk is no reason not to work."""
    before_ns = world.clock.wall_ns() - int(KEPT_S * NS_PER_S)
    works, images = await asyncio.to_thread(
        lambda: [
            find_old(directory, before_s=before_ns / NS_PER_S)
            for directory in (config.work_dir, config.cache_dir)
        ]
    )
    over = [old for old in works if await records.is_long_over(old.path.name, before_ns)]
    in_use = await records.open_activities()  # of images that may be old
    found = over if in_use else [*over, *images]
    try:
        await asyncio.to_thread(remove_old, found)
    except StorageFault as fault:
        log.warning("old_files.not_removed", reason=fault.message)
    else:
        if found:
            log.info("old_files.removed", count=len(found), size=sum(old.size for old in found))


def find_old(directory: Path, *, before_s: float) -> list[Old]:
    """Return what was last changed before that time; blocks."""
    measured = [(path, *_measure(path)) for path in _entries(directory)]
    return [Old(path, size) for path, size, newest_s in measured if newest_s < before_s]


def remove_old(found: list[Old]) -> None:
    """Remove it; what is gone already is no fault."""
    for old in found:
        try:
            if old.path.is_dir() and not old.path.is_symlink():
                shutil.rmtree(old.path)
            else:
                old.path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageFault(f"{old.path} cannot be removed: {error.strerror}") from error


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _measure(path: Path) -> tuple[int, float]:
    """Return how much is there, and when the newest of it was changed."""
    size, newest_s = 0, 0.0
    for parent, _, names in os.walk(path):
        for name in (".", *names):
            try:
                status = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - many files
            except OSError:
                continue
            size += 0 if name == "." else status.st_size
            newest_s = max(newest_s, status.st_mtime)
    if newest_s == 0.0:
        status = path.lstat()
        return status.st_size, status.st_mtime
    return size, newest_s
