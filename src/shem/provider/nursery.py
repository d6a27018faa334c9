"""The agent's nursery: ExeUnits are forked by one process that has everything imported already.

The nursery is for our own ExeUnit; a descriptor with another supervisor is started as a command,
and so is everything while there is no nursery. One that comes up is waited for: that is sooner than
to start another Python beside it. What became of an order is known in every case: a nursery that
dies or is silent before it answers is ended for good, and then the activity's process is there, to
be found by its work directory (`exeunits.activity_of`), or never will be.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import structlog

from shem.exeunit.nursery import (
    LINE_SIZE_MAX,
    Born,
    Ended,
    Failed,
    Order,
    Ready,
    Word,
    decode_word,
    encode_order,
)
from shem.kernel.command import own_command
from shem.kernel.errors import Unreachable
from shem.kernel.piped import PipedProcess
from shem.kernel.world import World
from shem.kernel.writing import put
from shem.provider.exeunits import (
    LOG_NAME,
    NURSERY,
    ExeUnitProcess,
    Processes,
    Unit,
    environment,
)

REPLACE_PAUSE_S: Final = 1.0
"""After the end of a nursery that was ready once."""
FAILURE_PAUSE_S: Final = 60.0
"""After one that never was."""
ANSWER_TIMEOUT_S: Final = 30.0
"""A fork takes milliseconds; the import of everything, on a busy machine, some seconds."""
NURSERY_LOG: Final = "nursery.log"
COMMAND: Final = (*own_command(), *NURSERY)
OWN: Final = COMMAND[:-1]
"""How the command of our own ExeUnit begins."""

log = structlog.get_logger()


class NurseryProcesses:
    """ExeUnits as processes, forked while `run` runs."""

    def __init__(self, world: World, *, directory: Path, gsb_url: str) -> None:
        self._world = world
        self._cold = Processes(world)
        self._directory = directory
        self._gsb_url = gsb_url
        self._nursery: Nursery | None = None
        self._begun = asyncio.Event()

    @property
    def nursery_pid(self) -> int | None:
        """Return the process that forks, if there is one."""
        return None if self._nursery is None else self._nursery.pid

    async def run(self) -> None:
        """Keep a nursery until cancelled."""
        while True:
            nursery = await self._begin()
            self._nursery = nursery
            self._begun.set()
            if nursery is not None:
                try:
                    await nursery.follow()
                finally:
                    self._nursery = None
                log.warning("nursery.ended", pid=nursery.pid)
            was_ready = nursery is not None and nursery.is_ready
            await self._world.clock.sleep(REPLACE_PAUSE_S if was_ready else FAILURE_PAUSE_S)

    async def start(self, command: Sequence[str], *, work_dir: Path, gsb_url: str) -> Unit:
        if tuple(command[: len(OWN)]) == OWN and gsb_url == self._gsb_url:
            unit = await self._fork(command[len(OWN) :], work_dir)
            if unit is not None:
                return unit
        return await self._cold.start(command, work_dir=work_dir, gsb_url=gsb_url)

    async def adopt(self, pid: int | None, started: float | None, activity_id: str) -> Unit | None:
        return await self._cold.adopt(pid, started, activity_id)

    async def end(self, unit: Unit, *, patience_s: float) -> None:
        await self._cold.end(unit, patience_s=patience_s)

    async def _fork(self, args: Sequence[str], work_dir: Path) -> Unit | None:
        """Have an ExeUnit forked; None when it was not, and will not be."""
        await self._begun.wait()
        nursery = self._nursery
        if nursery is None:
            return None
        await asyncio.to_thread(work_dir.mkdir, parents=True, exist_ok=True)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await nursery.fork(args, work_dir)
        except (Unreachable, TimeoutError):
            log.warning("nursery.no_answer", activity=work_dir.name, pid=nursery.pid)
            await nursery.end()
            return await self._cold.adopt(None, None, work_dir.name)
        except OSError as error:
            log.warning("nursery.fork_failed", activity=work_dir.name, reason=str(error))
            return None

    async def _begin(self) -> "Nursery | None":
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        try:
            process = await self._world.processes.start_piped(
                COMMAND,
                cwd=self._directory,
                env=environment(self._gsb_url),
                log=self._directory / NURSERY_LOG,
            )
        except OSError as error:
            log.warning("nursery.not_started", reason=str(error))
            return None
        return Nursery(process)


class Nursery:
    """One nursery process."""

    def __init__(self, process: PipedProcess) -> None:
        self._process = process
        self._orders: dict[int, asyncio.Future[ExeUnitProcess]] = {}
        self._children: dict[int, _Child] = {}
        self._last_id = 0
        self._ended = False
        self.is_ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def follow(self) -> None:
        """Take what it says until it has ended; it ends with this call."""
        try:
            while (line := await self._process.stdout.readline()).endswith(b"\n"):
                self._take(decode_word(line))
        except (msgspec.DecodeError, ValueError, OSError) as error:
            log.warning("nursery.not_understood", pid=self.pid, reason=str(error))
        finally:
            self._ended = True
            self._process.close()
            for order in self._orders.values():
                _fail(order, Unreachable("the nursery has ended"))
            for child in self._children.values():
                child.code.set_result(None)

    async def end(self) -> None:
        """Make sure that it forks nothing any more."""
        self._process.kill()
        await self._process.wait()

    async def fork(self, args: Sequence[str], work_dir: Path) -> ExeUnitProcess:
        """Order an ExeUnit; OSError when it cannot be made, Unreachable when nobody knows."""
        self._last_id += 1
        order = Order(self._last_id, [*args], str(work_dir), str(work_dir / LOG_NAME))
        line = encode_order(order)
        if len(line) > LINE_SIZE_MAX:
            raise OSError(f"its command line has more than {LINE_SIZE_MAX} bytes")
        if self._ended:
            raise Unreachable("the nursery has ended")
        answer: asyncio.Future[ExeUnitProcess] = asyncio.get_running_loop().create_future()
        self._orders[order.id] = answer
        try:
            put(self._process.stdin, line)
            return await answer
        finally:
            del self._orders[order.id]

    def _take(self, word: Word) -> None:
        match word:
            case Ready():
                self.is_ready = True
                log.debug("nursery.ready", pid=self.pid)
            case Born(order_id, pid, started):
                child = self._children[pid] = _Child(pid)
                answer = self._orders.get(order_id)
                if answer is not None and not answer.done():
                    answer.set_result(ExeUnitProcess(pid, started, child))
            case Failed(order_id, reason):
                _fail(self._orders.get(order_id), OSError(reason))
            case Ended(pid, code):
                ended = self._children.pop(pid, None)
                if ended is not None:
                    ended.code.set_result(code)


@dataclass(frozen=True, slots=True)
class _Child:
    """A process that the nursery waits for."""

    pid: int
    code: asyncio.Future[int | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """None when the nursery is gone."""

    async def wait(self) -> int | None:
        return await asyncio.shield(self.code)


def _fail(answer: "asyncio.Future[ExeUnitProcess] | None", error: Exception) -> None:
    if answer is not None and not answer.done():
        answer.set_exception(error)
