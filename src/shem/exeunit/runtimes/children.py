"""Processes of a runtime binary: started on a tether, ended as a tree, never left behind.

A runtime must not outlive its ExeUnit: nothing may go on behind the journal's back. The kernel
kills the child when the ExeUnit dies (`setpriv --pdeathsig`), and what the child had started is
found by a mark in its environment when the next ExeUnit of the activity begins.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from shem.kernel.piped import PipedProcess
from shem.kernel.world import World

MARK_VARIABLE: Final = "SHEM_RUNTIME_OF"
"""Holds the work directory of the activity."""
CHUNK_SIZE: Final = 64 << 10
KILL_WAIT_S: Final = 2.0
LOG_DIRECTORY: Final = "logs"
LOG_NAME: Final = "runtime.log"
LOG_SHOWN_MAX: Final = 4_096

Child = PipedProcess


class Children:
    """Starts the processes of one activity's runtime."""

    def __init__(self, work_dir: Path, world: World) -> None:
        self._work_dir = work_dir
        self._world = world

    async def start(self, command: Sequence[str], *, to_log: bool = False) -> Child:
        """Start a process in the work directory; OSError when it cannot be started."""
        log = self._log if to_log else None
        if log is not None:
            log.parent.mkdir(exist_ok=True)
        env = {**os.environ, MARK_VARIABLE: str(self._work_dir)}
        return await self._world.processes.start_piped(
            [*tether(), *command], cwd=self._work_dir, env=env, log=log
        )

    def log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def read_log(self, offset: int) -> bytes:
        """Return what was logged since the log had this size, as far as it is of use."""
        try:
            with self._log.open("rb") as log:
                log.seek(offset)
                return log.read(LOG_SHOWN_MAX)
        except OSError:
            return b""

    @property
    def _log(self) -> Path:
        return self._work_dir / LOG_DIRECTORY / LOG_NAME

    async def end(self, child: Child, *, patience_s: float) -> None:
        """SIGTERM to a child and all that it started; SIGKILL to what is left after the patience.

        Without patience there is no SIGTERM.
        """
        tree = await asyncio.to_thread(_tree, child.pid)
        if patience_s > 0:
            _signal(tree, signal.SIGTERM)
            await _wait(child, patience_s)
        _signal(tree, signal.SIGKILL)
        await _wait(child, KILL_WAIT_S)
        await asyncio.to_thread(self.sweep)

    def sweep(self) -> int:
        """Kill whatever carries our mark; blocks, so call it from a thread."""
        killed = 0
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(MARK_VARIABLE) == str(self._work_dir):
                    process.kill()
                    killed += 1
        return killed


def tether() -> tuple[str, ...]:
    """Return the words before a command that make it die with us."""
    found = shutil.which("setpriv")
    return () if found is None else (found, "--pdeathsig", "KILL", "--")


def _tree(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started, children after their parents."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error, OSError):
            process.send_signal(number)  # compares the start time: never a stranger of this number


async def _wait(child: Child, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await child.wait()
