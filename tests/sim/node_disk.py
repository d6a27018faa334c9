"""The disks of a simulated world: commits and journals are slow, die half-way, or find no room.

A process may die at a commit, before it is made or just after. A full disk refuses what would make
something durable, in the words of the real one; everything can still be read.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.exeunit.journal import Journal, Record
from shem.kernel.errors import StorageFault
from shem.kernel.world import SeededRng
from shem.store.committer import Batch, Durable, Write
from shem.store.unit import StorageFull, StoreClosed
from tests.sim.process import Process

REQUESTOR: Final = "requestor"
PROVIDER: Final = "provider"


class SimCommitter:
    """Commits in order, after the disk's latency; the process may die before it, or just after."""

    def __init__(self, process: Process, disk: "Disk") -> None:
        self._process = process
        self._disk = disk
        self._write: Write | None = None
        self._waiting: deque[tuple[Batch, Durable]] = deque()
        self._is_timed = False

    def open(self, write: Write) -> None:
        self._write = write
        self._process.at_death.append(self._drop)

    def submit(self, batch: Batch, *, patient: bool = False) -> Durable:
        if self._write is None or not self._process.alive:
            raise StoreClosed
        future = Durable(loop=asyncio.get_running_loop())
        self._waiting.append((batch, future))
        self._set_timer()
        return future

    async def close(self) -> None:
        while self._waiting:
            await asyncio.wait([self._waiting[-1][1]])
        self._write = None

    def _set_timer(self) -> None:
        if self._waiting and not self._is_timed:
            self._is_timed = True
            asyncio.get_running_loop().call_later(self._disk.latency_s(), self._commit)

    def _commit(self) -> None:
        if self._process.is_paused:
            self._process.resumed().add_done_callback(lambda _: self._commit())
            return
        self._is_timed = False
        if not self._process.alive or not self._process.at_point():
            return
        assert self._write is not None
        batch, future = self._waiting.popleft()
        error = StorageFull() if self._disk.is_full(self._process) else self._write((batch,))[0]
        if not self._process.at_point():
            future.abandon()
        elif future.done():
            pass
        elif error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        self._set_timer()

    def _drop(self) -> None:
        self._write = None
        while self._waiting:
            self._waiting.popleft()[1].abandon()


class SimJournal(Journal):
    """An ExeUnit's journal on the simulated disk."""

    def __init__(self, path: Path, process: Process, disk: "Disk") -> None:
        super().__init__(path)
        self._process = process
        self._disk = disk

    def append(self, record: Record) -> None:
        if self._disk.is_full(self._process):
            raise StorageFault("No space left on device")
        super().append(record)


@dataclass
class Disk:
    """How long a commit takes, and whose machines have no room."""

    rng: SeededRng
    slow: float = 0.0
    """How often it takes up to a second."""
    full: set[str] = field(default_factory=set)
    """Machines: the requestor's, or the provider's with its agent and ExeUnits."""

    def is_full(self, process: Process) -> bool:
        here = REQUESTOR if process.name.startswith(REQUESTOR) else PROVIDER
        return here in self.full

    def latency_s(self) -> float:
        draw = self.rng.unit()
        return self.rng.unit() if draw < self.slow else self.rng.unit() / 200
