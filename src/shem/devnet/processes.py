"""One child process, and the search for what children left behind.

Every process of a devnet, ExeUnits of a killed agent included, carries the devnet's mark in its
environment (MARK_VARIABLE), or is an ExeUnit that works in the devnet's directory; `left_behind`
finds them all, and nothing else. Signals go to a process only after its start time was compared, so
never to a stranger with the same number.
"""

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shem.kernel.errors import ShemError
from shem.kernel.world import Process, World
from shem.provider.exeunits import activity_of

MARK_VARIABLE: Final = "SHEM_DEVNET"
EXE_UNIT: Final = "exe-unit"
STOP_TIMEOUT_S: Final = 8.0
"""From SIGTERM to SIGKILL."""
KILL_TIMEOUT_S: Final = 5.0
IDLE_TIMEOUT_S: Final = 8.0
"""What serves no activity ends when its agent has; it may be importing just then."""
POLL_S: Final = 0.05
LOG_TAIL_LINES: Final = 12
FOREIGN_SETTINGS: Final = ("YAGNA_", "YA_", "SHEM_", "GSB_URL", "SUBNET", "DATA_DIR", "NODE_NAME")
KEPT_SETTINGS: Final = ("SHEM_LOG_LEVEL", "SHEM_FAILPOINTS")


class DevnetError(ShemError):
    """The devnet could not be started, or one of its processes ended on its own."""

    code = "devnet"


def clean_environment() -> dict[str, str]:
    """Return our environment without the settings of other nodes on this machine."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_SETTINGS or not name.startswith(FOREIGN_SETTINGS)
    }


@dataclass(frozen=True, slots=True)
class Child:
    """A started process of the devnet."""

    name: str
    log: Path
    _process: Process
    _watched: psutil.Process

    @classmethod
    async def start(
        cls,
        world: World,
        name: str,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
    ) -> "Child":
        started = await world.processes.start(command, cwd=cwd, env=env, log=log)
        try:
            watched = psutil.Process(started.pid)
        except psutil.NoSuchProcess as error:
            raise DevnetError(f"{name} ended at once; {tail_of(log)}") from error
        return cls(name, log, started, watched)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return is_alive(self._watched)

    def memory_bytes(self) -> int:
        """Return the resident memory."""
        return int(self._watched.memory_info().rss)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        await asyncio.wait_for(self._process.wait(), KILL_TIMEOUT_S)

    async def stop(self) -> None:
        """SIGTERM; SIGKILL when it does not end in time."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            await self.kill()

    async def ended(self) -> int:
        """Wait for the process's own end and return its exit status."""
        return await self._process.wait()

    def check(self) -> None:
        """Raise DevnetError, with the end of its log, when the process is gone."""
        if not self.alive:
            raise DevnetError(f"{self.name} has ended; {tail_of(self.log)}")

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._watched.send_signal(number)


def tail_of(log: Path) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        lines = []
    return f"its log ({log}) ends:\n" + "\n".join(f"    {line}" for line in lines)


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_exe_unit(process: psutil.Process) -> bool:
    """Whether it serves an activity; a process that has just ended does not."""
    try:
        return EXE_UNIT in process.cmdline() and activity_of(process) is not None
    except psutil.Error:
        return False


def is_idle(process: psutil.Process) -> bool:
    """Whether it serves no activity: the nursery, or an ExeUnit that is asked what it can do."""
    try:
        return EXE_UNIT in process.cmdline() and activity_of(process) is None
    except psutil.Error:
        return False


def left_behind(mark: str, directory: Path) -> list[psutil.Process]:
    """Find the living processes of a devnet, whoever started them; never this process."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid() or not _belongs(process, mark, str(directory)):
            continue
        if is_alive(process):
            found.append(process)
    return found


def _belongs(process: psutil.Process, mark: str, directory: str) -> bool:
    try:
        if process.environ().get(MARK_VARIABLE) == mark:
            return True
        command = process.cmdline()
        places = [*command, process.cwd()] if EXE_UNIT in command else []
        return any(place.startswith(directory + os.sep) for place in places)
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False


async def idle_ended(mark: str, directory: Path, world: World) -> None:
    """Wait for what served an agent that has ended, and no activity; but not for ever."""
    deadline = world.clock.monotonic() + IDLE_TIMEOUT_S
    while any(map(is_idle, left_behind(mark, directory))):
        if world.clock.monotonic() > deadline:
            return
        await world.clock.sleep(POLL_S)


async def sweep(mark: str, directory: Path, world: World) -> list[str]:
    """Kill what `left_behind` finds until it finds nothing; returns what each of them was."""
    killed: dict[int, str] = {}
    deadline = world.clock.monotonic() + KILL_TIMEOUT_S
    while found := left_behind(mark, directory):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                killed.setdefault(process.pid, _described(process))
                process.kill()
        if world.clock.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in found)
            raise DevnetError(f"processes {pids} cannot be ended")
        await world.clock.sleep(POLL_S)
    return [*killed.values()]


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.AccessDenied, OSError):
        return f"{process.pid}: {shlex.join(process.cmdline())} in {process.cwd()}"
    return str(process.pid)
