"""The engine: batches go in, durable results come out.

Holds the core, the journal and the performer together. The one rule: decide, make durable, apply,
tell; `_writing` keeps that order for all, and a caller that gives up does not break it. Knows no
bus; `service` speaks for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Final, ParamSpec, TypeVar

import structlog

from shem.activity.messages import ENDING_WORDS, ActivityEnding
from shem.exeunit.commands import Command, Kind
from shem.exeunit.core import BATCHES_MAX, Begin, Core, State
from shem.exeunit.events import Event, EventLog, Pulse, retell
from shem.exeunit.journal import Journal, Record
from shem.exeunit.performer import Performer
from shem.exeunit.results import Outcome, failure, select
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.script import Script
from shem.kernel.errors import ShemError, StorageFault, TimedOut
from shem.kernel.failpoints import passing
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World

RESULTS_WAIT_MAX_S: Final = 3_600.0
JOURNAL_RETRY_S: Final = 1.0

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class Engine:
    """Runs the batches of one activity."""

    def __init__(
        self,
        *,
        journal: Journal,
        performer: Performer,
        world: World,
        scope: TaskScope,
    ) -> None:
        self.core = Core()
        self.changed = Pulse()
        """Beats whenever a state, a turn or a result changed."""
        self._journal = journal
        self._performer = performer
        self._world = world
        self._scope = scope
        self._writing = asyncio.Lock()
        self._logs: dict[str, EventLog] = {}
        self._turned_away: set[str] = set()
        """Batches that the disk had no room for: a copy that comes later does not run either."""
        self._ending = False

    async def open(self) -> None:
        """Take up the journal: end what was interrupted, and load again what was started."""
        records = await asyncio.to_thread(self._journal.open)
        self.core.replay(records)
        for record in self.core.recover(self._world.clock.wall_ns()):
            log.warning("batch.interrupted", batch=record["batch"], index=record["index"])
            await self._write_at_last(partial(dict, record))
        if self.core.state is State.READY and not self.core.end.begun:
            try:
                await self._performer.resume()
            except (RuntimeFault, OSError) as error:
                log.warning("runtime.resume_failed", reason=str(error))
                undeployed: Record = {"kind": "state", "state": str(State.INITIALIZED)}
                await self._write_at_last(lambda: undeployed)

    async def exec(self, batch_id: str, script: Script) -> None:
        """Accept a batch durably and begin it; a repeat of an accepted one changes nothing."""
        await self._to_the_end(self._accept, batch_id, script)

    async def _accept(self, batch_id: str, script: Script) -> None:
        async with self._writing:
            if batch_id in self._turned_away:
                await self._rule_out(batch_id)
                self._turned_away.discard(batch_id)
            record = self.core.accept(batch_id, script, self._world.clock.wall_ns())
            if record is None:
                return
            if self._ending:
                raise ActivityEnding(f"{ENDING_WORDS}: it is being terminated")
            try:
                await self._write(record)
            except StorageFault:
                if len(self._turned_away) < BATCHES_MAX:
                    self._turned_away.add(batch_id)
                raise
        passing("exeunit.batch_accepted")
        self._logs[batch_id] = EventLog(batch_id)
        self._scope.spawn(self._run_batch(batch_id), f"batch {batch_id}")

    async def resolve(self, batch_id: str) -> bool:
        """Say whether a batch was accepted; once this says no, it never will be."""
        return await self._to_the_end(self._resolve, batch_id)

    async def _resolve(self, batch_id: str) -> bool:
        async with self._writing:
            return await self._rule_out(batch_id)

    async def _rule_out(self, batch_id: str) -> bool:
        """Note durably that a batch was never accepted; True when it was."""
        accepted, record = self.core.resolve(batch_id, self._world.clock.wall_ns())
        if record is not None:
            await self._write(record)
        return accepted

    async def results(
        self, batch_id: str, *, timeout_s: float, command_index: int | None
    ) -> list[dict[str, object]]:
        """Return results, waiting for the end of the batch or of the command asked for."""
        batch = self.core.batch(batch_id)
        last = batch.last_index
        wanted = last if command_index is None else min(command_index, last)
        try:
            async with asyncio.timeout(min(max(timeout_s, 0.0), RESULTS_WAIT_MAX_S)):
                while not batch.ended and len(batch.results) <= wanted:
                    await self.changed.wait()
        except TimeoutError:
            if command_index is not None:
                raise TimedOut("Timeout") from None
        return select(batch.results, last, None if command_index is None else wanted)

    async def events(self, batch_id: str) -> AsyncIterator[Event]:
        """Yield a batch's events from its beginning to its end."""
        batch = self.core.batch(batch_id)
        live = self._logs.get(batch_id)
        if live is None:
            for event in retell(batch_id, batch.script, batch.results):
                yield event
            return
        async for event in live.follow():
            yield event

    @property
    def states(self) -> tuple[State, State | None]:
        """The state and the one that it is about to become, as they are reported."""
        if self._ending and self.core.state is not State.TERMINATED:
            return self.core.state, State.TERMINATED
        return self.core.state, self.core.pending

    def running(self) -> Command | None:
        """Return the command that has the turn."""
        if self.core.turn is None:
            return None
        batch_id, index = self.core.turn
        return self.core.batches[batch_id].script.commands[index]

    async def checkpoint_usage(self, values: dict[str, float]) -> None:
        """Keep the usage so far, for the process that may come after this one."""
        record: Record = {"kind": "usage", "values": values}
        async with self._writing:
            if not self._ending:
                await self._write(record)

    async def note_end(self, decide: Callable[[], Record | None]) -> bool:
        """Take the end of the work one step further, if that is still so; False: it is not."""
        while True:
            try:
                return await self._to_the_end(self._note_end, decide)
            except StorageFault as fault:
                log.warning("journal.write_failed", reason=fault.message)
                await self._world.clock.sleep(JOURNAL_RETRY_S)

    async def _note_end(self, decide: Callable[[], Record | None]) -> bool:
        async with self._writing:
            record = None if self._ending else decide()
            if record is not None:
                await self._write(record)
            return record is not None

    async def quiet(self, *, stop: bool) -> None:
        """Wait until no batch runs any more, and then nothing at all; with `stop` make it so."""
        if stop:
            await self._performer.stop()
        while any(not batch.ended for batch in self.core.batches.values()):
            await self.changed.wait()
        await self._performer.stop()

    async def shut_down(self) -> None:
        """Accept nothing more, stop what runs, and close the journal."""
        async with self._writing:
            self._ending = True
        self.changed.beat()
        try:
            await self._stop_running()
        except RuntimeFault as fault:
            log.warning("runtime.does_not_stop", reason=fault.message)
        async with self._writing:
            try:
                await self._write({"kind": "state", "state": str(State.TERMINATED)})
            except StorageFault as fault:
                log.warning("journal.write_failed", reason=fault.message)
            await asyncio.to_thread(self._journal.close)

    # ---- batches --------------------------------------------------------------------------------

    async def _run_batch(self, batch_id: str) -> None:
        live = self._logs[batch_id]
        script = self.core.batch(batch_id).script
        while (step := self.core.next(batch_id)) is not None:
            live.started(step.index, script.source[step.index], self._world.clock.wall_ns())
            if isinstance(step, Begin):
                self.core.begin(batch_id, step)
                self.changed.beat()
                outcome = await self._perform(live, step.index, step.command)
            else:
                outcome = step.outcome
            await self._finish(batch_id, step.index, outcome)
            live.finished(self.core.batch(batch_id).results[-1])
        del self._logs[batch_id]
        live.end()

    async def _perform(self, live: EventLog, index: int, command: Command) -> Outcome:
        if command.kind is not Kind.TERMINATE:
            return await self._performer.perform(live, index, command)
        try:
            await self._stop_running()
        except RuntimeFault as fault:
            return failure(fault.message)
        return Outcome(ok=True)

    async def _finish(self, batch_id: str, index: int, outcome: Outcome) -> None:
        """Make a result durable, and only then go on."""
        passing("exeunit.command_done")
        await self._write_at_last(
            lambda: self.core.finish(batch_id, index, outcome, self._world.clock.wall_ns())
        )
        log.info("command.finished", batch=batch_id, index=index, ok=outcome.ok)
        passing("exeunit.result_durable")

    async def _to_the_end(
        self, work: Callable[P, Coroutine[object, object, T]], *args: P.args, **options: P.kwargs
    ) -> T:
        """Do `work` whole even when the caller stops waiting: disk and memory stay alike."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def body() -> None:
            try:
                result = await work(*args, **options)
            except ShemError as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        self._scope.spawn(body(), "journal write")
        return await done

    async def _write_at_last(self, make: Callable[[], Record]) -> None:
        """Make a record durable; while the disk refuses, nobody is told and nothing goes on."""
        while True:
            try:
                async with self._writing:
                    await self._write(make())
            except StorageFault as fault:
                log.warning("journal.write_failed", reason=fault.message)
                await self._world.clock.sleep(JOURNAL_RETRY_S)
            else:
                return

    async def _write(self, record: Record) -> None:
        await asyncio.to_thread(self._journal.append, record)
        self.core.apply(record)
        self.changed.beat()

    async def _stop_running(self) -> None:
        """End what runs, and wait until the result of the command that had the turn is durable."""
        await self._performer.stop()
        while self.core.turn is not None:
            await self.changed.wait()
