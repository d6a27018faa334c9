"""Removes what old activities and images left on the disk (docs/protocol/provider-agent.md §1).

Work directories go by the newest file in them, whole agreements at a time, and never before the
agreement is long over; cached images go by their own age. Where the operator wants it, a work
directory goes as soon as its activity, or its agreement, has ended. One whose journal is the only
copy of results that are promised stays until that time is over.
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
from shem.provider.records import AgreementState, Records
from shem.provider.stand_in import spoken_for

log = structlog.get_logger()

KEPT_S: Final = 30 * 86_400.0
"""What the agent removes is older."""
CLEAN_UP_S: Final = 86_400.0
"""Between two looks of an agent that runs for long."""


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
    needed = {directory.parent for directory in await spoken_for(records)}
    over = [
        old
        for old in works
        if old.path not in needed and await records.is_long_over(old.path.name, before_ns)
    ]
    in_use = await records.open_activities()  # of images that may be old
    found = over if in_use else [*over, *images]
    try:
        await asyncio.to_thread(remove_old, found)
    except StorageFault as fault:
        log.warning("old_files.not_removed", reason=fault.message)
    else:
        if found:
            log.info("old_files.removed", count=len(found), size=sum(old.size for old in found))


async def keep_clean(config: ProviderConfig, records: Records, world: World) -> None:
    """Clean up from time to time; runs for ever."""
    while True:
        await world.clock.sleep(CLEAN_UP_S)
        await clean(config, records, world)


class Leftovers:
    """Removes work directories as soon as nobody needs them, as far as the operator wants that."""

    def __init__(self, config: ProviderConfig, records: Records) -> None:
        self._config = config
        self._records = records

    async def activity_ended(self, directory: Path) -> None:
        """Look after an activity's work directory when its last word is said."""
        if self._config.clears_activities and directory not in await spoken_for(self._records):
            await _clear(directory)
        await self.agreement_ended(directory.parent.name)

    async def agreement_ended(self, agreement_id: str) -> None:
        """Look after an agreement's directory; it may not be over yet."""
        directory = self._config.work_dir / agreement_id
        if not self._config.clears_agreements or not directory.exists():
            return
        known = await self._records.agreement(agreement_id)
        if known is not None and known.state is not AgreementState.ENDED:
            return
        needed = {each.parent for each in await spoken_for(self._records)}
        if directory in needed or await self._records.has_open_activities(agreement_id):
            return
        await _clear(directory)


async def _clear(directory: Path) -> None:
    """Remove a directory; a fault of the disk is no reason not to work."""
    try:
        await asyncio.to_thread(remove_old, [Old(directory, 0)])
    except StorageFault as fault:
        log.warning("old_files.not_removed", reason=fault.message)
    else:
        log.info("work_directory.removed", path=str(directory))


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
