"""A handle of an Activity: run commands, submit batches, look at it, leave it, end it.

Handles are light: everything can be rebuilt from the id (`golem.attach(activity_id)`), all state is
fetched. Cancelling an await never ends anything remote.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shem.kernel.errors import ShemError
from shem.kernel.ids import parse_batch_id
from shem.kernel.world import new_hex_id
from shem.rest import models
from shem.rest.errors import ApiError, Disconnected
from shem.sdk.absence import Absence, how_it_ended, look
from shem.sdk.agreement import Agreement, expires
from shem.sdk.batch import Batch, CommandResult, list_batches
from shem.sdk.errors import ActivityGone, AgreementEnded, GolemError, NotReachable, explain
from shem.sdk.moving import OnProgress, is_known, move, serving
from shem.sdk.patience import passing
from shem.sdk.script import Download, Run, Script, Transfer, Upload, commands_of, encode
from shem.sdk.session import Session
from shem.sdk.submission import Submission
from shem.sdk.ticket import Ticket

if TYPE_CHECKING:
    from shem.sdk.report import AttachReport


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """What the node knows of one batch."""

    batch: Batch
    state: str
    """`accepted`, `unknown` (no answer yet), `never` (will not run), `refused`, or `intent`."""
    commands: int
    results: int
    finished: bool


class Activity:
    """One rented activity, by its id."""

    def __init__(
        self, session: Session, activity_id: str, agreement: Agreement, report: "AttachReport"
    ) -> None:
        self.session = session
        self.id = activity_id
        self.agreement = agreement
        self.report = report
        """What was found when this handle was made."""
        self.detached = False
        self._cursors: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Activity({self.id!r}, agreement={self.agreement.id!r})"

    async def run(
        self, entry_point: str, *args: str, timeout_s: float | None = None, check: bool = False
    ) -> CommandResult:
        """Run one command to its end and return its output.

        With `check`, a command that fails raises CommandFailed.
        """
        batch = await self.submit(Run(entry_point, *args))
        result = (await batch.wait(timeout_s))[-1]
        return result.check() if check else result

    async def submit(self, script: Script, *, batch_id: str | None = None) -> Batch:
        """Send a batch and return at once; it runs on whether or not anybody waits for it.

        A `batch_id` of your own (32 hex digits, kept before this call) lets another process find
        the batch even if this one is killed right here.
        """
        commands = commands_of(script)
        if batch_id is not None and await is_known(self, batch_id, commands):
            return Batch(self, batch_id)
        chosen = new_hex_id(self.session.world.rng) if batch_id is None else batch_id
        async with serving(self, commands) as served:
            text = encode(served.commands)
            work = Submission(self, text, parse_batch_id(chosen), batch_id is not None)
            accepted = await work.run()
            self.session.files.keep(accepted, served.urls)
        self.read(accepted, 0)
        return Batch(self, accepted)

    async def upload(
        self,
        local: Path | str,
        remote: str,
        *,
        format: str | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        """Bring a file of this machine into the activity; it is checked by its hash there.

        A transfer that was cut is repeated. `remote` is a path in a volume of the activity; with a
        `format` (`tar.gz`, `zip`, …) it is a directory, and the file is unpacked into it.
        """
        await move(self, Upload(local, remote, format), progress)

    async def download(
        self,
        remote: str,
        local: Path | str,
        *,
        format: str | None = None,
        fileset: str | tuple[str, ...] | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        """Fetch a file of the activity; it appears whole and checked, or not at all.

        With a `format` a directory is fetched, packed: all of it, or what the globs of `fileset`
        name.
        """
        await move(self, Download(remote, local, format, fileset=fileset), progress)

    async def transfer(
        self, source: str, target: str, *, progress: OnProgress | None = None, **options: Any
    ) -> None:
        """Move a file between a URL and the activity, or inside it; `options` as in `Transfer`."""
        await move(self, Transfer(source, target, **options), progress)

    def batch(self, batch_id: str) -> Batch:
        """Return a handle of a batch of this activity, whoever submitted it."""
        return Batch(self, batch_id)

    async def batches(self) -> list[BatchInfo]:
        """List all batches of this activity, oldest first; NotSupported at a yagna node."""
        return [
            BatchInfo(
                batch=Batch(self, entry.batch_id),
                state=entry.state,
                commands=entry.commands,
                results=entry.results,
                finished=entry.is_finished,
            )
            for entry in await self.batch_entries()
        ]

    async def batch_entries(self) -> list[models.Batch]:
        """As `batches`, as the node tells it."""
        return await list_batches(self.session, self.id)

    async def state(self) -> models.ActivityState:
        state = self.session.rest.activity.state
        return await self.session.patience.ask(lambda: state(self.id))

    async def absence(self) -> Absence:
        """Say how long you may be away from now on, and what limits it."""
        return (await look(self.session, self.id, await self.agreement.info())).absence

    async def usage(self) -> models.ActivityUsage:
        usage = self.session.rest.activity.usage
        return await self.session.patience.ask(lambda: usage(self.id))

    async def detach(self) -> Ticket:
        """Let it run on when this block or process ends, and return what attaching needs."""
        info = await self.agreement.info()
        self.detached = True
        return Ticket(
            activity_id=self.id,
            agreement_id=self.agreement.id,
            provider_id=info.offer.provider_id,
            requestor_id=info.demand.requestor_id,
            app=self.session.app,
            cursors=dict(self._cursors),
            expires=expires(info),
        )

    async def destroy(self, *, patience_s: float | None = None) -> None:
        """End the activity; its agreement stays. Repeating it is harmless."""
        destroy = self.session.rest.activity.destroy
        await self.session.patience.ask(lambda: destroy(self.id), patience_s=patience_s)

    async def end(self, reason: str = "Finished", *, patience_s: float | None = None) -> None:
        """Destroy the activity and terminate its agreement."""
        try:
            await self.destroy(patience_s=patience_s)
        except NotReachable:
            """The termination, which the node delivers later, ends the activity as well."""
        await self.agreement.terminate(reason, code="Success", patience_s=patience_s)

    def cursor(self, batch_id: str) -> int:
        """Return the index of the first result of a batch that was not read yet."""
        return self._cursors.get(batch_id, 0)

    def read(self, batch_id: str, next_index: int) -> None:
        """Remember how far the results of a batch were read (kept in the ticket)."""
        self._cursors[batch_id] = max(next_index, self._cursors.get(batch_id, 0))

    async def gone(self) -> ActivityGone | None:
        """Say how the activity ended; None while it lives."""
        ended = await self.agreement.ended()
        if ended is not None:
            return AgreementEnded(self.id, ended)
        state = await self.session.rest.activity.state(self.id)
        if state.alive:
            return None
        return ActivityGone(self.id, await how_it_ended(self.session, self.id, state))

    async def gone_or(self, error: GolemError) -> GolemError:
        """Return how the activity ended, or `error` when it has not, or nobody can say."""
        try:
            return await self.gone() or error
        except ShemError:
            return error

    async def raise_if_gone(self) -> None:
        """Raise ActivityGone when it has ended; an unreachable provider is no end."""
        try:
            gone = await self.gone()
        except (ApiError, Disconnected) as error:
            if passing(error):
                return
            raise explain(error) from error
        if gone is not None:
            raise gone
