"""Usage as the ExeUnits of living activities report it: noted at once, written together.

Each reports every second, and each report says all again. So one of an activity that is known to be
well is noted in memory and answered, and what came within `WRITE_PERIOD_S` is written in few
commits. Reads see what is noted; the end of an activity is committed together with its last usage
(`settle`). A node that dies loses what was reported in its last second, and hears it again.
"""

import asyncio
from typing import Final

import structlog

from shem.activity.records import Activity, save_usage
from shem.kernel.errors import ShemError
from shem.kernel.world import World
from shem.store.unit import Store, StoreClosed, Unit

WRITE_PERIOD_S: Final = 1.0
TOGETHER_MAX: Final = 250
"""In one commit: others write between two of them."""
WRITE_KEY: Final = "activity.usages"

Told = tuple[tuple[float, ...], int]
"""A usage vector, and when it was reported (ns)."""

log = structlog.get_logger()


class Usages:
    """The reports between their arrival and their commit."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._well: dict[str, Activity] = {}
        """Alive and not Unresponsive: a report changes nothing but the usage."""
        self._noted: dict[str, Told] = {}
        self._news = asyncio.Event()

    def note(self, activity_id: str, usage: tuple[float, ...]) -> bool:
        """Note a report; False when the activity's row must be looked at first."""
        if activity_id not in self._well:
            return False
        self._noted[activity_id] = (usage, self._world.clock.wall_ns())
        self._news.set()
        return True

    def is_well(self, activity: Activity) -> None:
        """Take the next reports without looking."""
        self._well[activity.activity_id] = activity

    def is_not_well(self, activity_id: str) -> None:
        """Look at the row at the next report: the state has changed, or will."""
        self._well.pop(activity_id, None)

    def forget_all_but(self, alive: set[str]) -> None:
        for activity_id in self._well.keys() - alive:
            del self._well[activity_id]

    def latest(self, activity: Activity) -> tuple[tuple[float, ...] | None, int]:
        """Return the usage that was reported last, and when."""
        return self._noted.get(activity.activity_id, (activity.usage, activity.usage_ns))

    def settle(self, unit: Unit, activity: Activity) -> None:
        """Write what is noted of one activity along with something else."""
        noted = self._noted.get(activity.activity_id)
        if noted is not None:
            save_usage(unit, activity, *noted)

    async def run(self) -> None:
        """Write what is noted, until the store is closed."""
        while True:
            await self._news.wait()
            await self._world.clock.sleep(WRITE_PERIOD_S)
            self._news.clear()
            try:
                await self._write()
            except StoreClosed:
                return
            except ShemError as error:
                log.warning("usages.not_written", reason=error.message)
                self._news.set()

    async def _write(self) -> None:
        due = list(self._noted.items())
        for first in range(0, len(due), TOGETHER_MAX):
            some = due[first : first + TOGETHER_MAX]
            async with self._store.unit(WRITE_KEY) as unit:
                for activity_id, told in some:
                    activity = self._well.get(activity_id)
                    if activity is not None:  # else the last word was `settle`d
                        save_usage(unit, activity, *told)
            for activity_id, told in some:
                if self._noted.get(activity_id) is told:
                    del self._noted[activity_id]
