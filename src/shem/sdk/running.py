"""A service as it runs: takes it up where an earlier program of its name left it, and drives it.

Notes are small: the state, the activity, and for `run` the batch that is under way. The steps of
`start` and `shutdown` need none at a shem node: their batch ids follow from their place (`steps`).
A yagna chooses batch ids itself, so there the ids that it told are noted too.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from shem.kernel.errors import UsageError
from shem.kernel.tasks import TaskScope
from shem.kernel.world import new_hex_id
from shem.rest.endwhen import ENDED_BY_TERMS
from shem.sdk.activity import Activity
from shem.sdk.batch import Batch
from shem.sdk.claims import claims, take_up
from shem.sdk.errors import ActivityGone, CommandFailed, GolemError, NotReachable
from shem.sdk.journal import Journal, state_directory
from shem.sdk.leaving import Leaving
from shem.sdk.memory import BATCH, ENDED, STATE, Memory
from shem.sdk.rental import Rental
from shem.sdk.report import attach
from shem.sdk.script import Script
from shem.sdk.service import TRANSITIONS, Results, Service, ServiceState, Steps
from shem.sdk.session import Session
from shem.sdk.steps import submit_step
from shem.sdk.ticket import Ticket

log = logging.getLogger(__name__)

END_PATIENCE_S: Final = 20.0
STOP_PATIENCE_S: Final = 60.0
"""How long `shutdown` waits for the batch that `run` was in."""
RESPAWN_PAUSE_S: Final = 5.0
LOOK_S: Final = 10.0
"""How often we look whether the activity lives, while `run` may have nothing to ask it."""

_STARTING, _RUNNING = ServiceState.STARTING, ServiceState.RUNNING
_STOPPING, _TERMINATED = ServiceState.STOPPING, ServiceState.TERMINATED
_PENDING: Final = ServiceState.PENDING


def check_leaving(leaving: Leaving) -> Leaving:
    """Refuse terms that a service cannot mean: it runs program after program."""
    wanted = leaving.end_when
    if wanted is not None and (wanted.batch_done or wanted.exit is True):
        raise UsageError(
            "end_when: a service would end after its first script; state the entry point whose "
            "exit ends it, or idle_s, budget or time_s"
        )
    return leaving


class Running:
    """One service; `async with` it: inside the block it has started."""

    def __init__(
        self,
        open_session: Callable[[], Session],
        service: Service,
        *,
        name: str,
        rental: Rental,
        respawn: bool = False,
        on_exit: Literal["end", "detach"] = "end",
        state_dir: Path | str | None = None,
    ) -> None:
        self.name = name
        self.service = service
        self.resumed = False
        """Whether an earlier program had begun it."""
        self._open_session = open_session
        self._rental = rental
        self._respawn = respawn
        self._on_exit = on_exit
        self._state_dir = state_dir
        self._memory = Memory()
        self._scope = TaskScope()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._journal: Journal | None = None
        self._activity: Activity | None = None
        self._suspended = False

    # --- what the program sees ------------------------------------------------------------------

    @property
    def state(self) -> ServiceState:
        return self._memory.state

    @property
    def activity(self) -> Activity:
        if self._activity is None:
            raise UsageError(f"service {self.name!r} has no activity (it is {self.state})")
        return self._activity

    @property
    def _has_started(self) -> bool:
        return self._activity is not None and self.state not in {_PENDING, _STARTING}

    async def wait(self) -> None:
        """Wait until it has ended, in order or by its terms; raises what it failed with."""
        while self.state is not _TERMINATED and self._failure is None:
            await self._news()
        self._raise_failure()

    async def stop(self) -> None:
        """Shut it down in order, and end its activity."""
        self._stop.set()
        await self.wait()

    async def suspend(self) -> Ticket:
        """Let it run on without this program; the next one of the same name takes it up."""
        self._suspended = True
        return await self.activity.detach()

    async def __aenter__(self) -> Self:
        session = self._session = self._open_session().named(f"service:{self.name}")
        directory = state_directory(self._state_dir)
        self._journal = Journal.open(directory, "service", session.app, self.name)
        try:
            self._memory = Memory.of(self._journal.entries)
            self.resumed = self.state not in {_PENDING, _TERMINATED}
            if self.state is _TERMINATED:
                self._go(_PENDING)
            await self._scope.__aenter__()
        except BaseException:
            self._journal.close()
            raise
        self._scope.spawn(self._live(), f"service {self.name}")
        try:
            while not self._has_started and self._failure is None:
                await self._news()
            self._raise_failure()
        except BaseException as error:
            await self._close(error)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._on_exit == "end" and not self._suspended:
                await self.stop()
        finally:
            await self._close(error)

    async def _close(self, error: BaseException | None) -> None:
        """Stop driving; end the activity unless it is to run on."""
        try:
            await self._scope.__aexit__(None, None, None)
            detached = self._suspended or (error is None and self._on_exit == "detach")
            if self._activity is not None and not detached:
                await self._end("The program ended with an error" if error else "Finished")
        finally:
            if self._journal is not None:
                self._journal.close()

    # --- its life -------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            try:
                await self._drive()
                return
            except ActivityGone as gone:
                if self._activity is not None and ENDED_BY_TERMS in gone.ended.why:
                    log.info("service %s: %s", self.name, gone.message)
                    self._go(_TERMINATED)
                    return
                if not self._respawn or self.state is _STOPPING:
                    self._fail(gone)
                    return
                log.warning("service %s lost its activity: %s", self.name, gone.message)
                self._activity = None
                self._go(_PENDING)
                await self._session.world.clock.sleep(RESPAWN_PAUSE_S)
            except Exception as error:
                self._fail(error)
                return

    async def _drive(self) -> None:
        """Go from the present state to the end."""
        activity = self._activity = await self._find()
        self.service.activity = activity
        self._tell()
        if self.state is _PENDING:
            self._go(_STARTING, activity=activity.id)
        if self.state is _STARTING:
            await self._replay(self.service.start(), "start")
            self._go(_RUNNING)
        if self.state is _RUNNING:
            await self._run_until_stopped()
            self._go(_STOPPING)
        await self._settle(STOP_PATIENCE_S)
        await self._replay(self.service.shutdown(), "shutdown")
        await self._end("Finished")

    async def _find(self) -> Activity:
        """Return the activity of an earlier program, or a new one."""
        known = self._memory.activity_id
        if known is not None:
            activity = await attach(self._session, known, None)
            await activity.raise_if_gone()
            return activity
        for claim in await claims(self._session):
            found = await take_up(self._session, claim, self._rental.start)
            if found is not None:
                return found
        return await self._rental.run(self._session)

    async def _replay(self, steps: Steps, name: str) -> None:
        """Run scripts that earlier programs may have sent; each runs once."""
        number = 0

        async def execute(script: Script) -> Results:
            nonlocal number
            step, number = f"{name}:{number}", number + 1
            told = self._memory.batches.get(step)
            if told is not None:
                return await self._results(self.activity.batch(told))
            batch = await submit_step(self.activity, script, step)
            self._note(BATCH, step=step, batch=batch.id)
            return await self._results(batch)

        await _each(steps, execute)

    async def _run_until_stopped(self) -> None:
        """Run `run` until it ends by itself or the service is to stop."""
        left = self._memory.under_way
        self.service.left = None if left is None else self.activity.batch(left)
        running = asyncio.ensure_future(_each(self.service.run(), self._run))
        ending = asyncio.ensure_future(self._look_after())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({running, ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            elif ending.done():
                ending.result()
        finally:
            for future in (running, ending, stopping):
                future.cancel()
            await asyncio.gather(running, ending, stopping, return_exceptions=True)

    async def _look_after(self) -> None:
        """Raise ActivityGone once it has ended; a node that is away is no end."""
        while True:
            await self._session.world.clock.sleep(LOOK_S)
            with suppress(NotReachable):
                await self.activity.raise_if_gone()

    async def _run(self, script: Script) -> Results:
        """Execute one script of `run`; its id is on disk before it is sent."""
        await self._settle()
        batch_id = new_hex_id(self._session.world.rng)
        self._note(BATCH, step=_RUNNING, batch=batch_id)
        batch = await self.activity.submit(script, batch_id=batch_id)
        if batch.id != batch_id:
            self._note(BATCH, step=_RUNNING, batch=batch.id)
        return await self._results(batch)

    async def _settle(self, timeout_s: float | None = None) -> None:
        """Wait for the batch that is under way: an activity runs one at a time."""
        if self._memory.under_way is not None:
            try:
                await self.activity.batch(self._memory.under_way).wait(timeout_s)
            except GolemError as error:
                if isinstance(error, ActivityGone):
                    raise
                log.info("service %s: %s", self.name, error.message)
            self._note(ENDED, batch=self._memory.under_way)

    async def _results(self, batch: Batch) -> Results:
        results = await batch.wait()
        if batch.id == self._memory.under_way:
            self._note(ENDED, batch=batch.id)
        for result in results:
            result.check()
        return results

    async def _end(self, reason: str) -> None:
        if self._activity is not None and self.state is not _TERMINATED:
            await self._activity.end(reason, patience_s=END_PATIENCE_S)
            self._go(_TERMINATED)

    # --- notes ----------------------------------------------------------------------------------

    def _go(self, state: ServiceState, **more: Any) -> None:
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], (self.state, state)
        self._note(STATE, state=state.value, **more)
        self._tell()

    def _note(self, kind: str, **fields: Any) -> None:
        assert self._journal is not None
        self._memory.apply(self._journal.add(kind, **fields))

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._tell()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _news(self) -> None:
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def _each(steps: Steps, execute: Callable[[Script], Any]) -> None:
    """Execute every script that a generator yields, and give it the results."""
    try:
        script = await anext(steps, None)
        while script is not None:
            try:
                results = await execute(script)
            except CommandFailed as failure:
                script = await steps.athrow(failure)
            else:
                script = await steps.asend(results)
    except StopAsyncIteration:
        return
    finally:
        await steps.aclose()
