"""One ExeUnit process in reserve: an activity need not wait until Python has imported everything.

The spare is for the runtimes of our own ExeUnit; a descriptor with another supervisor is started as
ever, and so is everything while no spare is ready. The agent dies, its spare's input ends, and the
spare with it. One that was just given its activity is found by its work directory
(`exeunits.activity_of`).
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from shem.exeunit.spare import READY, Work, encode_work
from shem.kernel.command import own_command
from shem.kernel.piped import PipedProcess
from shem.kernel.world import World
from shem.provider.exeunits import (
    LOG_NAME,
    ExeUnitProcess,
    Processes,
    Unit,
    environment,
    start_time,
)

FIRST_PAUSE_S: Final = 3.0
"""The first spare waits until the agent itself is up."""
SPARE_PAUSE_S: Final = 1.0
"""A new spare waits until the activity that took the last one has begun."""
FAILURE_PAUSE_S: Final = 60.0
"""After a spare that did not come up."""
READY_TIMEOUT_S: Final = 60.0
SPARE_LOG: Final = "spare.log"
OWN: Final = (*own_command(), "exe-unit")

log = structlog.get_logger()


class WarmProcesses:
    """ExeUnits as processes, with one in reserve while `run` runs."""

    def __init__(self, world: World, *, directory: Path, gsb_url: str) -> None:
        self._world = world
        self._cold = Processes(world)
        self._directory = directory
        self._gsb_url = gsb_url
        self._ready: PipedProcess | None = None
        self._taken = asyncio.Event()

    @property
    def spare_pid(self) -> int | None:
        """Return the process that is ready, if there is one."""
        return None if self._ready is None else self._ready.pid

    async def run(self) -> None:
        """Keep a spare ready until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._world.clock.sleep(pause_s)
            process = await self._prepare()
            pause_s = FAILURE_PAUSE_S if process is None else SPARE_PAUSE_S
            if process is not None:
                await self._hold(process)

    async def _hold(self, process: PipedProcess) -> None:
        """Have a spare until it is taken, or dies."""
        self._taken.clear()
        self._ready = process
        try:
            await _first(process.wait(), self._taken.wait())
        finally:
            if self._ready is process:
                self._ready = None
                process.close()

    async def start(self, command: Sequence[str], *, work_dir: Path, gsb_url: str) -> Unit:
        spare = self._take(command, gsb_url)
        if spare is None:
            return await self._cold.start(command, work_dir=work_dir, gsb_url=gsb_url)
        await asyncio.to_thread(work_dir.mkdir, parents=True, exist_ok=True)
        work = Work([*command[len(OWN) :]], str(work_dir), str(work_dir / LOG_NAME))
        with suppress(OSError):  # it has died: whoever watches it sees that
            spare.stdin.write(encode_work(work))
            await spare.stdin.drain()
        spare.close()
        return ExeUnitProcess(spare.pid, start_time(spare.pid), spare)

    async def adopt(self, pid: int | None, started: float | None, activity_id: str) -> Unit | None:
        return await self._cold.adopt(pid, started, activity_id)

    async def end(self, unit: Unit, *, patience_s: float) -> None:
        await self._cold.end(unit, patience_s=patience_s)

    def _take(self, command: Sequence[str], gsb_url: str) -> PipedProcess | None:
        spare = self._ready
        if spare is None or tuple(command[: len(OWN)]) != OWN or gsb_url != self._gsb_url:
            return None
        if spare.returncode is not None:
            return None
        self._ready = None
        self._taken.set()
        return spare

    async def _prepare(self) -> PipedProcess | None:
        """Start a spare and wait until it is ready; None when it does not come up."""
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        try:
            process = await self._world.processes.start_piped(
                (*OWN, "spare"),
                cwd=self._directory,
                env=environment(self._gsb_url),
                log=self._directory / SPARE_LOG,
            )
        except OSError as error:
            log.warning("spare.not_started", reason=str(error))
            return None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                said = await process.stdout.readline()
        except TimeoutError:
            said = b""
        except BaseException:
            process.close()
            raise
        if said != READY:
            log.warning("spare.not_ready", log=str(self._directory / SPARE_LOG))
            process.close()
            return None
        log.debug("spare.ready", pid=process.pid)
        return process


async def _first(*works: Coroutine[object, object, object]) -> None:
    """Wait until one of several is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
