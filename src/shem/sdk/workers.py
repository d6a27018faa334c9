"""The workers of a map: activities that take inputs one after another, and are replaced when lost.

Every step is noted before it is taken and after it is known. A batch is waited for as long as its
provider shows signs of life; one that is silent too long, or has ended, loses its input to another
worker. Whether the lost batch may have run is asked of the node, which knows what it sent.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from shem.kernel.tasks import TaskScope
from shem.kernel.world import new_hex_id
from shem.rest.errors import ApiError, Disconnected
from shem.sdk.activity import Activity
from shem.sdk.agreement import Agreement
from shem.sdk.batch import Batch, CommandResult, list_batches, result_of
from shem.sdk.claims import Claim, take_up
from shem.sdk.errors import (
    ActivityGone,
    BatchUnknown,
    GolemError,
    NodeRefused,
    NoProvider,
    NotReachable,
)
from shem.sdk.files import is_ours
from shem.sdk.journal import Journal
from shem.sdk.moving import is_cut
from shem.sdk.patience import passing
from shem.sdk.progress import ASSIGNED, DONE, LOST, RENAMED, Assignment, Progress, result_fields
from shem.sdk.rental import Rental, give_up, is_shem
from shem.sdk.script import Command
from shem.sdk.session import Session
from shem.sdk.submission import CODE_NEVER, NEVER, REFUSED

if TYPE_CHECKING:
    from shem.sdk.map import Options

log = logging.getLogger(__name__)

SIGN_OF_LIFE_S: Final = 5.0
"""How often a provider is asked for one while its batch runs, and how long it may take."""
RECRUIT_PAUSE_S: Final = 15.0
"""Before another worker is looked for, when none was found and others work."""
REFUSAL_PAUSE_S: Final = 1.0
"""A refused script may be wrong, or its activity about to end: so long until we look which."""
END_PATIENCE_S: Final = 5.0
NEVER_RAN: Final = frozenset({NEVER, REFUSED})


class Give(Protocol):
    """Hands an input's outcome to whoever iterates."""

    def __call__(self, index: int, *, kept: bool = False, error: str | None = None) -> None: ...


class Crew:
    """Computes what is pending."""

    def __init__(
        self,
        *,
        session: Session,
        journal: Journal,
        progress: Progress,
        scripts: Sequence[tuple[Command, ...]],
        rental: Rental,
        options: "Options",
        give: Give,
    ) -> None:
        self.progress = progress
        self.activities: dict[str, Activity] = {}
        self._session = session
        self._journal = journal
        self._scripts = scripts
        self._rental = rental
        self._options = options
        self._give = give
        self._scope = TaskScope()
        self._at_work = 0
        self._given_up: set[int] = set()
        self._taking_up: set[str] = set()
        self._changed = asyncio.Event()

    async def run(self, held: Sequence[Claim]) -> None:
        """Compute every input; returns when each has a result or was given up."""
        async with self._scope as scope:
            for claim in self._resumed(held):
                self._begin(scope, claim)
            here = {claim.activity_id for claim in held}
            for assignment in tuple(self.progress.in_flight.values()):
                if assignment.activity_id not in here:
                    await self._salvage(assignment)
            while self._left or self.activities:
                while self._at_work < min(self._options.workers, self._left):
                    self._begin(scope, None)
                await self._news()
        await self.leave()

    async def leave(self) -> None:
        """End the workers, or let them run on for the next program of this name."""
        if self._left and self._options.on_exit == "detach":
            return
        for agreement_id in self._taking_up:
            await give_up(Agreement(self._session, agreement_id))
        for activity in tuple(self.activities.values()):
            await self._dismiss(activity, "The map is over" if not self._left else "The map stops")

    @property
    def _left(self) -> int:
        return len(self.progress.digests) - len(self.progress.done) - len(self._given_up)

    def _resumed(self, held: Sequence[Claim]) -> list[Claim]:
        """Return the claims to take up: those with a batch in flight, and others as needed."""
        busy = {assignment.activity_id for assignment in self.progress.in_flight.values()}
        first = [claim for claim in held if claim.activity_id in busy]
        others = [claim for claim in held if claim.activity_id not in busy]
        room = min(self._options.workers, self._left) - len(first)
        for claim in others[max(room, 0) :]:
            self._spawn_end(claim)
        return [*first, *others[: max(room, 0)]]

    def _spawn_end(self, claim: Claim) -> None:
        agreement = Agreement(self._session, claim.agreement_id)
        self._scope.spawn(give_up(agreement), f"end of agreement {claim.agreement_id}")

    async def _news(self) -> None:
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # --- one worker -----------------------------------------------------------------------------

    def _begin(self, scope: TaskScope, claim: Claim | None) -> None:
        self._at_work += 1
        scope.spawn(self._worker(claim), "map worker")

    async def _worker(self, claim: Claim | None) -> None:
        try:
            activity = await self._enlist(claim)
            if activity is not None:
                await self._labour(activity)
        finally:
            self._at_work -= 1
            self._tell()

    async def _enlist(self, claim: Claim | None) -> Activity | None:
        """Return a working activity; None when this came to nothing and may be tried again."""
        try:
            if claim is not None:
                self._taking_up.add(claim.agreement_id)
                activity = await take_up(self._session, claim, self._rental.start)
                self._taking_up.discard(claim.agreement_id)
            else:
                activity = await self._rental.run(self._session)
        except NoProvider:
            if not self.activities:
                raise
            log.info("no provider for another worker; %d work", len(self.activities))
            await self._session.world.clock.sleep(RECRUIT_PAUSE_S)
            return None
        if activity is not None:
            self.activities[activity.id] = activity
        return activity

    async def _labour(self, activity: Activity) -> None:
        """Compute inputs until there are no more, or the activity is of no use any longer."""
        left_over = [
            assignment
            for assignment in self.progress.in_flight.values()
            if assignment.activity_id == activity.id
        ]
        useful = True
        for assignment in left_over:
            useful = await self._compute(activity, assignment, resumed=True) and useful
        while useful:
            index = await self._take()
            if index is None:
                break
            useful = await self._compute(activity, self._assign(activity, index), resumed=False)
        await self._dismiss(activity, "Finished" if useful else "Replaced")

    async def _take(self) -> int | None:
        """Return the next input, waiting for one that another worker may lose."""
        while self._left:
            for index in self.progress.pending:
                return index
            await self._news()
        return None

    def _assign(self, activity: Activity, index: int) -> Assignment:
        batch_id = new_hex_id(self._session.world.rng)
        provider_id = activity.report.provider_id
        self._note(ASSIGNED, index, activity.id, batch_id, provider_id)
        return self.progress.in_flight[index]

    async def _compute(self, activity: Activity, task: Assignment, *, resumed: bool) -> bool:
        """Bring one input to its end; False when the worker is of no further use."""
        try:
            async with asyncio.timeout(self._options.timeout_s):
                results = await self._results(activity, task, resumed=resumed)
        except TimeoutError:
            await self._lose(task, f"no result within {self._options.timeout_s:g} s")
            return False
        except NodeRefused as error:
            if error.code == CODE_NEVER:
                await self._lose(task, error.message)
                return True
            await self._session.world.clock.sleep(REFUSAL_PAUSE_S)
            if not await activity.gone():
                raise
            await self._salvage(task, error.message)
            return False
        except (ActivityGone, BatchUnknown, NotReachable) as error:
            await self._session.patience.ask(self._session.rest.identity.me)
            await self._salvage(self.progress.in_flight[task.index], error.message)
            return False
        return await self._accept(task.index, results)

    async def _results(
        self, activity: Activity, task: Assignment, *, resumed: bool
    ) -> list[CommandResult]:
        if task.confirmed:
            batch = activity.batch(task.batch_id)
        elif resumed and not await is_shem(self._session):
            raise BatchUnknown(task.batch_id, "the node was not asked for its id of this batch")
        else:
            script = self._scripts[task.index]
            batch = await activity.submit(script, batch_id=task.batch_id)
            if batch.id != task.batch_id:
                self._note(RENAMED, task.index, activity.id, batch.id, task.provider_id)
        return await self._while_heard(activity, batch)

    async def _while_heard(self, activity: Activity, batch: Batch) -> list[CommandResult]:
        """Wait for a batch as long as its provider shows signs of life."""
        waiting = asyncio.ensure_future(batch.wait())
        hearing = asyncio.ensure_future(self._hear(activity))
        try:
            await asyncio.wait({waiting, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                hearing.result()
            return waiting.result()
        finally:
            for future in (waiting, hearing):
                future.cancel()
            await asyncio.gather(waiting, hearing, return_exceptions=True)

    async def _hear(self, activity: Activity) -> None:
        """Raise NotReachable once the provider has been silent too long."""
        clock = self._session.world.clock
        heard = clock.monotonic()
        while True:
            await clock.sleep(SIGN_OF_LIFE_S)
            try:
                await self._session.rest.activity.state(activity.id, timeout_s=SIGN_OF_LIFE_S)
            except ApiError as error:
                if passing(error) and clock.monotonic() - heard > self._options.silence_s:
                    raise NotReachable(
                        f"the provider has been silent for {self._options.silence_s:g} s"
                    ) from error
                if passing(error):
                    continue
            except Disconnected:
                """Our own node is away: that says nothing about the provider."""
            heard = clock.monotonic()

    # --- what became of an input ----------------------------------------------------------------

    async def _accept(self, index: int, results: Sequence[CommandResult]) -> bool:
        """Note an accepted result; one that was interrupted, or lost its way, is computed again."""
        task = self.progress.in_flight[index]
        if not self._is_complete(index, results):
            why = results[-1].message if results else "the batch ended without a result"
            await self._lose(task, why or "interrupted")
            return True
        fields = [result_fields(result) for result in results]
        self._note(DONE, index, task.activity_id, task.batch_id, task.provider_id, results=fields)
        self._give(index)
        self._tell()
        return True

    def _is_complete(self, index: int, results: Sequence[CommandResult]) -> bool:
        """Tell whether a batch came to its own end, and its files to us."""
        if not results or not results[-1].last or results[-1].interrupted:
            return False
        script = self._scripts[index]
        place = results[-1].index
        return not (is_cut(results[-1]) and place < len(script) and is_ours(script[place]))

    async def _salvage(self, task: Assignment, why: str = "its activity has ended") -> None:
        """Accept what the node has kept of a batch that nobody can wait for, or lose the input."""
        poll = self._session.rest.activity.results
        try:
            raws = await poll(task.activity_id, task.batch_id, timeout_s=0)
        except (ApiError, Disconnected) as error:
            log.info("no results of batch %s: %s", task.batch_id, error)
            raws = []
        results = [result_of(task.batch_id, raw) for raw in raws]
        if self._is_complete(task.index, results):
            await self._accept(task.index, results)
        else:
            await self._lose(task, why)

    async def _lose(self, task: Assignment, why: str) -> None:
        ran = await self._may_have_run(task)
        current = self.progress.in_flight[task.index]
        log.info("input %d is lost with batch %s: %s", task.index, current.batch_id, why)
        self._note(
            LOST,
            task.index,
            current.activity_id,
            current.batch_id,
            current.provider_id,
            ran=ran,
            why=why,
        )
        if self.progress.attempts_lost(task.index) >= self._options.attempts:
            self.progress.pending.pop(task.index, None)
            self._given_up.add(task.index)
            self._give(task.index, error=why)
        self._tell()

    async def _may_have_run(self, task: Assignment) -> bool:
        """Ask the node, which notes a batch before it sends it."""
        try:
            entries = await list_batches(self._session, task.activity_id)
        except GolemError:
            return True
        entry = next((entry for entry in entries if entry.batch_id == task.batch_id), None)
        return entry is not None and entry.state not in NEVER_RAN

    def _note(
        self, kind: str, index: int, activity: str, batch: str, provider: str, **more: object
    ) -> None:
        entry = self._journal.add(
            kind,
            input=index,
            digest=self.progress.digests[index],
            activity=activity,
            batch=batch,
            provider=provider,
            **more,
        )
        self.progress.apply(entry)

    async def _dismiss(self, activity: Activity, reason: str) -> None:
        """End a worker; the node tells a provider that is away when it is back."""
        try:
            await activity.end(reason, patience_s=END_PATIENCE_S)
        except GolemError as error:
            log.warning("activity %s was not ended: %s", activity.id, error.message)
        self.activities.pop(activity.id, None)
