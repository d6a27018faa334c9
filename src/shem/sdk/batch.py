"""A handle of a Batch: its results as they come, across outages of the program's node.

Results are complete whenever they are read (GAP-17); reading twice gives the same. The wait ends
when the batch does, when the activity is gone, or when patience has run out.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shem.rest import models
from shem.rest.errors import CODE_NO_SUCH_PATH, GONE, ApiError, Disconnected
from shem.rest.models import ExeScriptCommandResult
from shem.sdk.errors import (
    BatchTimeout,
    BatchUnknown,
    CommandFailed,
    GolemError,
    NotSupported,
    explain,
)
from shem.sdk.live import Event, Finished, Output, events_of, text_of
from shem.sdk.patience import passing
from shem.sdk.session import Session

if TYPE_CHECKING:
    from shem.sdk.activity import Activity

INTERRUPTED: Final = ("interrupted, outcome unknown", "the command was stopped")
"""How the message of a command begins that was cut off, at the ExeUnit and at the node."""
POLL_FIRST_S: Final = 0.25
POLL_MAX_S: Final = 2.0
"""A node answers a poll at the batch's end or at the poll's: short after news, then longer."""
EMPTY_POLLS_MAX: Final = 5
"""After so many polls without news we ask whether the activity is still there."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The end of one command."""

    batch_id: str
    index: int
    ok: bool
    stdout: str
    stderr: str
    message: str | None
    """What went wrong, when it did."""
    at: str
    """When it ended, RFC 3339, by the provider's clock."""
    last: bool
    """No further command of the batch will run."""

    @property
    def interrupted(self) -> bool:
        """Whether it did not end by itself: the runtime died or was stopped under it.

        How far it came is unknown.
        """
        return not self.ok and (self.message or "").startswith(INTERRUPTED)

    def check(self) -> "CommandResult":
        """Return the result, or raise CommandFailed."""
        if not self.ok:
            raise CommandFailed(self)
        return self


def result_of(batch_id: str, raw: ExeScriptCommandResult) -> CommandResult:
    return CommandResult(
        batch_id=batch_id,
        index=raw.index,
        ok=raw.result == "Ok",
        stdout=text_of(raw.stdout),
        stderr=text_of(raw.stderr),
        message=raw.message,
        at=raw.event_date,
        last=raw.is_batch_finished or raw.result != "Ok",
    )


async def list_batches(session: Session, activity_id: str) -> list[models.Batch]:
    """Ask the node for the activity's batches; NotSupported when it has no such list."""
    batches = session.rest.activity.batches
    try:
        return await session.patience.try_ask(lambda: batches(activity_id))
    except (ApiError, Disconnected) as error:
        if isinstance(error, ApiError) and error.code in {CODE_NO_SUCH_PATH, "not-supported"}:
            raise NotSupported(
                "this node has no list of an activity's batches (yagna has none):"
                " keep batch ids yourself, a Ticket does"
            ) from error
        raise explain(error) from error


class Batch:
    """One batch, by its id."""

    def __init__(self, activity: "Activity", batch_id: str) -> None:
        self._activity = activity
        self._session: Session = activity.session
        self.id = batch_id

    def __repr__(self) -> str:
        return f"Batch({self.id!r}, activity={self._activity.id!r})"

    async def results(self, from_index: int = 0) -> AsyncIterator[CommandResult]:
        """Yield the results from `from_index` on, each as soon as it is known, to the last."""
        async for result in self._follow(from_index):
            self._activity.read(self.id, result.index + 1)
            yield result

    async def wait(
        self, timeout_s: float | None = None, *, check: bool = False
    ) -> list[CommandResult]:
        """Wait for the end and return all results.

        Raises BatchTimeout after `timeout_s` (the batch runs on), and with `check` CommandFailed.
        """
        found: list[CommandResult] = []
        clock = self._session.world.clock
        deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        async for result in self._follow(0, deadline):
            found.append(result)
            self._activity.read(self.id, result.index + 1)
        if timeout_s is not None and not (found and found[-1].last):
            raise BatchTimeout(self.id, timeout_s)
        if check:
            for result in found:
                result.check()
        return found

    async def so_far(self) -> list[CommandResult]:
        """Return the results that are there now, without waiting."""
        poll = self._session.rest.activity.results
        return await self._read(lambda: poll(self._activity.id, self.id, timeout_s=0))

    async def stream(self) -> AsyncIterator[Output]:
        """Yield output while commands run, as long as the stream holds: best effort, no replay.

        What is not told here is in the results. Ends with the batch, or with the stream.
        """
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Output):
                    yield event

    async def events(self) -> AsyncGenerator[Event, None]:
        """As `stream`, with all that is told: beginnings, output, progress and ends."""
        commands = await self._commands()
        raws = self._session.rest.activity.stream(self._activity.id, self.id)
        try:
            async with aclosing(raws):
                async for raw in raws:
                    if raw is None:
                        if commands is None:
                            return  # a yagna says this once the batch has ended
                        continue
                    for event in events_of(raw):
                        yield event
                        if isinstance(event, Finished) and (
                            event.return_code != 0 or event.index + 1 == commands
                        ):
                            return
        except Disconnected:
            return
        except ApiError as error:
            raise await self._reason(error) from error

    async def _commands(self) -> int | None:
        """Return how many commands there are; None when the node cannot say."""
        try:
            entries = await list_batches(self._session, self._activity.id)
        except NotSupported:
            return None
        return next((entry.commands for entry in entries if entry.batch_id == self.id), None)

    async def _follow(
        self, from_index: int, deadline: float | None = None
    ) -> AsyncIterator[CommandResult]:
        clock = self._session.world.clock
        pauses = self._session.patience.pauses()
        empty_polls = 0
        while True:
            poll_s = min(POLL_FIRST_S * 2**empty_polls, POLL_MAX_S)
            if deadline is not None:
                poll_s = max(min(poll_s, deadline - clock.monotonic()), 0.0)
            results = await self._poll(poll_s)
            news = [] if results is None else results[from_index:]
            for result in news:
                yield result
            from_index += len(news)
            if results and results[-1].last:
                await self._session.files.ended(self.id)
                return
            if deadline is not None and clock.monotonic() >= deadline:
                return
            if results is not None:
                pauses.progress()
                empty_polls = 0 if news else empty_polls + 1
            elif not await pauses.next():
                await self._raise_outage()
            if empty_polls and empty_polls % EMPTY_POLLS_MAX == 0:
                await self._activity.raise_if_gone()

    async def _poll(self, timeout_s: float) -> list[CommandResult] | None:
        """Ask once; None when there was no answer, or none from the provider."""
        poll = self._session.rest.activity.results
        try:
            raws = await poll(self._activity.id, self.id, timeout_s=timeout_s)
        except (ApiError, Disconnected) as error:
            if error.status == 408:
                return []
            if passing(error):
                return None
            raise await self._reason(error) from error
        return [result_of(self.id, raw) for raw in raws]

    async def _read(
        self, call: Callable[[], Awaitable[list[ExeScriptCommandResult]]]
    ) -> list[CommandResult]:
        try:
            raws = await self._session.patience.try_ask(call)
        except (ApiError, Disconnected) as error:
            raise await self._reason(error) from error
        return [result_of(self.id, raw) for raw in raws]

    async def _raise_outage(self) -> None:
        """Patience has run out: one last call says what is wrong."""
        poll = self._session.rest.activity.results
        try:
            await poll(self._activity.id, self.id, timeout_s=0)
        except (ApiError, Disconnected) as error:
            raise await self._reason(error) from error

    async def _reason(self, error: ApiError | Disconnected) -> GolemError:
        """Find out what an error means: the batch, the activity, or the way to it."""
        if isinstance(error, ApiError):
            if error.code in GONE:
                return await self._activity.gone_or(explain(error))
            if error.status == 404:
                text = f"activity {self._activity.id} has no batch {self.id}: {error.message}"
                return BatchUnknown(self.id, text)
        return explain(error)
