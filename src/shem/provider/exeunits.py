"""ExeUnit processes: start, find again, watch, end.

A process is known by its pid *and* its start time, so that a reused pid is never taken for it. One
that was started just before the agent died, and not written down, is found by its command line, or
by its work directory when it was forked (`nursery`).
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil

from shem.exeunit.ending import ENDED_NAME
from shem.exeunit.estate import KEEPS
from shem.kernel.world import World

SERVICE: Final = "service-bus"
NURSERY: Final = ("exe-unit", "nursery")
"""How the command line of a nursery ends, and of all that it has forked."""
_ACTIVITY_ID: Final = re.compile(r"[0-9a-f]{32}")
LOG_NAME: Final = "exe-unit.log"
POLL_S: Final = 0.25
"""How often a process that is nobody's child is looked at, where the system tells no ends."""
KILL_WAIT_S: Final = 5.0
WORD_SIZE_MAX: Final = 64 << 10
FINISHING_SIGNAL: Final = signal.SIGUSR1
"""Makes our ExeUnit take nothing new and end with what runs."""
SECRETS: Final = frozenset({"YAGNA_APPKEY", "SHEM_APPKEY", "YAGNA_AUTOCONF_APPKEY"})
"""What an ExeUnit is not given of the agent's environment."""
_START_SLACK_S: Final = 0.05


class Child(Protocol):
    """A process that this agent has started."""

    async def wait(self) -> int | None:
        """Wait for the end; None when it must be looked for in another way."""


class Unit(Protocol):
    """An ExeUnit of this machine."""

    @property
    def pid(self) -> int: ...
    @property
    def started(self) -> float: ...
    async def wait(self, world: World) -> int | None: ...


class Units(Protocol):
    """Where ExeUnits run: the machine, or a simulation."""

    async def start(self, command: Sequence[str], *, work_dir: Path, gsb_url: str) -> Unit:
        """Start one; OSError when it cannot be started."""

    async def adopt(self, pid: int | None, started: float | None, activity_id: str) -> Unit | None:
        """Return the living one of an activity that an earlier agent started."""

    async def end(self, unit: Unit, *, patience_s: float) -> None:
        """Ask it to end, and make it; returns when it has ended."""


@dataclass(frozen=True, slots=True)
class Processes:
    """ExeUnits as processes of this machine."""

    world: World

    async def start(self, command: Sequence[str], *, work_dir: Path, gsb_url: str) -> Unit:
        return await start_process(command, work_dir=work_dir, gsb_url=gsb_url, world=self.world)

    async def adopt(self, pid: int | None, started: float | None, activity_id: str) -> Unit | None:
        return await asyncio.to_thread(adopt, pid, started, activity_id)

    async def end(self, unit: Unit, *, patience_s: float) -> None:
        assert isinstance(unit, ExeUnitProcess)
        await end_process(unit, self.world, patience_s=patience_s)


@dataclass(frozen=True, slots=True)
class ExeUnitProcess:
    """A process that was started now, or adopted."""

    pid: int
    started: float
    child: Child | None = None

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(float(process.create_time()) - self.started) < _START_SLACK_S
            return same and str(process.status()) != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def wait(self, world: World) -> int | None:
        """Wait for the end; the exit code, or None when it cannot be known."""
        if self.child is not None and (code := await self.child.wait()) is not None:
            return code
        await self._end(world)
        return None

    async def _end(self, world: World) -> None:
        """Wait for the end of a process that need not be our child."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except (OSError, AttributeError):  # none is free, or the system has no such thing
            while self.is_alive():
                await world.clock.sleep(POLL_S)
            return
        try:
            if self.is_alive():  # and so the descriptor is of this process, not of a later one
                await _readable(descriptor)
        finally:
            os.close(descriptor)

    def send(self, number: signal.Signals) -> None:
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


async def start_process(
    command: Sequence[str], *, work_dir: Path, gsb_url: str, world: World
) -> ExeUnitProcess:
    """Start an ExeUnit in a session of its own; OSError when it cannot be started."""
    await asyncio.to_thread(work_dir.mkdir, parents=True, exist_ok=True)
    child = await world.processes.start(
        command, cwd=work_dir, env=environment(gsb_url), log=work_dir / LOG_NAME
    )
    return ExeUnitProcess(child.pid, start_time(child.pid), child)


def adopt(pid: int | None, started: float | None, activity_id: str) -> ExeUnitProcess | None:
    """Return the living process of an activity that an earlier agent started.

    The one that was written down may have died, and another have been started since.
    """
    if pid is not None and started is not None:
        process = ExeUnitProcess(pid, started)
        if process.is_alive():
            return process
    return _find(activity_id)


async def end_process(process: ExeUnitProcess, world: World, *, patience_s: float) -> None:
    """SIGTERM, and SIGKILL to what does not end in time; returns when it has ended."""
    process.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(patience_s):
            await process.wait(world)
    except TimeoutError:
        process.send(signal.SIGKILL)
        async with asyncio.timeout(KILL_WAIT_S):
            await process.wait(world)


def read_word(work_dir: Path) -> str | None:
    """Return what an ExeUnit that ended its work by its terms left to say; None when it did not."""
    try:
        told = json.loads((work_dir / ENDED_NAME).read_bytes()[:WORD_SIZE_MAX])
        return str(told["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def activity_of(process: psutil.Process) -> str | None:
    """Return the activity that a process is the ExeUnit of; psutil.Error when it is not to see."""
    command: list[str] = process.cmdline()
    if SERVICE in command[:-1]:
        return command[command.index(SERVICE) + 1]
    if tuple(command[-len(NURSERY) :]) == NURSERY:
        name = Path(process.cwd()).name
        return name if _ACTIVITY_ID.fullmatch(name) else None
    return None


def _find(activity_id: str) -> ExeUnitProcess | None:
    for process in psutil.process_iter():
        try:
            if activity_of(process) == activity_id:
                found = ExeUnitProcess(process.pid, process.create_time())
                if found.is_alive():
                    return found
        except psutil.Error:
            continue
    return None


def start_time(pid: int) -> float:
    """Return the start time of a child; a child that is gone already has none that matters."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def environment(gsb_url: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return {**kept, "GSB_URL": gsb_url, KEEPS: "yes"}
