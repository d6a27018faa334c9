"""Ends the work by its terms: watches the conditions, stops, delivers, and says when it is over.

Nobody else is needed for it: no requestor, no agent, no node. The order of things is `ending`'s;
each step is durable before the next begins. A delivery that fails is tried again with growing
pauses, for `DELIVERY_PATIENCE_S` from the moment the work was over; then, and when it can never
work, what was not delivered is said so and stays among the results. None of that is billed: the
counters stand still.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from shem.exeunit.agreement import AgreementTerms
from shem.exeunit.ending import (
    ABSENCE,
    ENDED_NAME,
    Part,
    Phase,
    all_record,
    due,
    due_record,
    part_record,
    quiet_record,
)
from shem.exeunit.engine import Engine
from shem.exeunit.runtimes.base import Runtime, RuntimeFault
from shem.exeunit.sight import look, results_document
from shem.exeunit.transfer.location import Scheme, parse_location
from shem.exeunit.transfer.mover import Mover
from shem.exeunit.transfer.service import Transfers
from shem.exeunit.transfer.web import Refused
from shem.exeunit.usage import Usage
from shem.kernel.failpoints import passing
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World

LOOK_PERIOD_S: Final = 1.0
LOOK_PAUSE_S: Final = 0.05
DELIVERY_PATIENCE_S: Final = 3_600.0
PAUSE_FIRST_S: Final = 1.0
PAUSE_LAST_S: Final = 60.0
LINGER_S: Final = 5.0
"""How long results can still be read here after the end, by a requestor that is there."""
REASON_CHARS_MAX: Final = 300

Make = Callable[[Path], Awaitable[None]]

log = structlog.get_logger()


class Ender:
    """The end of one activity."""

    def __init__(
        self,
        *,
        activity_id: str,
        work_dir: Path,
        terms: AgreementTerms,
        engine: Engine,
        usage: Usage,
        runtime: Runtime,
        mover: Mover,
        world: World,
    ) -> None:
        self._activity_id = activity_id
        self._work_dir = work_dir
        self._terms = terms
        self._engine = engine
        self._usage = usage
        self._runtime = runtime
        self._mover = mover
        self._world = world
        self._transfers = Transfers(work_dir, mover, world.rng, lambda: None)
        self._started_ns = world.clock.wall_ns()
        self._finish = False
        usage.frozen = engine.core.end.usage

    def finish(self) -> None:
        """The requestor is away for too long: take nothing new, and end with what runs."""
        self._finish = True
        self._engine.changed.beat()

    async def run(self) -> str:
        """Wait for the end, bring it about, and return what is to be said of it."""
        end = self._engine.core.end
        while not end.begun:
            await self._next_look()
            if await self._engine.note_end(self._judge):
                log.info("work.due", activity=self._activity_id, cause=end.cause)
                passing("exeunit.end_due")
        self._usage.frozen = end.usage
        if end.phase is Phase.STOPPING:
            await self._engine.quiet(stop=end.cause != ABSENCE)
            await self._note(lambda: quiet_record(self._usage.values(), self._now_ns()))
            self._usage.frozen = end.usage
            passing("exeunit.end_quiet")
        if end.phase is Phase.DELIVERING:
            await self._deliver_all()
            await self._note(lambda: all_record(self._now_ns()))
        await asyncio.to_thread(self._leave_word, end.text())
        await self._world.clock.sleep(LINGER_S)
        return end.text()

    async def _next_look(self) -> None:
        """Wait until something has changed, or for a while; not for every result of many."""
        await self._world.clock.sleep(LOOK_PAUSE_S)
        if self._finish:
            return
        if self._terms.end_when is None:  # nothing comes due by itself
            await self._engine.changed.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_PERIOD_S):
                await self._engine.changed.wait()

    def _judge(self) -> dict[str, object] | None:
        """Return the record that the end is due; None while it is not."""
        now_ns = self._now_ns()
        if self._finish:
            return due_record(ABSENCE, None, now_ns)
        if self._terms.end_when is None:
            return None
        usage = self._usage.values()
        vector = self._usage.vector()
        sight = look(
            self._engine.core,
            self._terms,
            usage,
            vector,
            started_ns=self._started_ns,
            now_ns=now_ns,
        )
        cause = due(self._terms.end_when, sight)
        return None if cause is None else due_record(cause, usage, now_ns)

    async def _deliver_all(self) -> None:
        sink, end = self._terms.sink, self._engine.core.end
        if sink is None:
            return
        parts: dict[Part, tuple[str | None, Make]] = {
            Part.FILES: (sink.files_url, self._pack_files),
            Part.RESULTS: (sink.results_url, self._write_results),
        }
        for part, (url, make) in parts.items():
            if url is not None and part not in end.parts:
                problem = await self._deliver(part, url, make)
                await self._note(lambda: part_record(part, problem, self._now_ns()))  # noqa: B023
                log.info("part.delivered", activity=self._activity_id, part=part, problem=problem)
                passing("exeunit.part_delivered")

    async def _deliver(self, part: Part, url: str, make: Make) -> str | None:
        """Make a file and send it; returns why that did not work."""
        async with self._transfers.staged() as path:
            try:
                await make(path)
            except (RuntimeFault, OSError) as error:
                return str(error)[:REASON_CHARS_MAX]
            pause_s = PAUSE_FIRST_S
            while True:
                try:
                    await self._send(url, path)
                except (RuntimeFault, OSError) as error:
                    reason = str(error)[:REASON_CHARS_MAX]
                    if isinstance(error, Refused) or self._left_s() <= 0:
                        return reason
                    log.info("part.not_delivered", part=part, reason=reason)
                else:
                    return None
                jitter = 0.5 + self._world.rng.unit() / 2
                await self._world.clock.sleep(max(0.0, min(pause_s * jitter, self._left_s())))
                pause_s = min(2 * pause_s, PAUSE_LAST_S)

    async def _send(self, url: str, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._mover.bring(parse_location(url, Scheme.HTTPS), file, _unheard)
        finally:
            os.close(file)

    async def _pack_files(self, path: Path) -> None:
        sink = self._terms.sink
        assert sink is not None
        assert sink.files_path is not None
        volumes = await self._runtime.volumes()
        await self._transfers.take_out(sink.files_path, volumes, path)

    async def _write_results(self, path: Path) -> None:
        document = results_document(self._engine.core, self._activity_id, self._terms)
        await asyncio.to_thread(_write_json, path, document)

    def _left_s(self) -> float:
        """Return how long deliveries may still be tried."""
        since_s = (self._now_ns() - self._engine.core.end.quiet_ns) / NS_PER_S
        return DELIVERY_PATIENCE_S - since_s

    async def _note(self, decide: Callable[[], dict[str, object]]) -> None:
        await self._engine.note_end(decide)

    def _leave_word(self, text: str) -> None:
        """Write what the agent reads, whole or not at all; blocks."""
        path = self._work_dir / ENDED_NAME
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps({"text": text, "cause": self._engine.core.end.cause}))
        partial.replace(path)

    def _now_ns(self) -> int:
        return self._world.clock.wall_ns()


def _write_json(path: Path, document: object) -> None:
    with path.open("x") as file:
        json.dump(document, file, separators=(",", ":"))


def _unheard(_done: int, _total: int | None) -> None:
    """Take progress that nobody is told."""
