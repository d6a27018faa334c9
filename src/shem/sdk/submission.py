"""Sending a batch exactly once.

The batch id is chosen here, before the call. A shem node writes the intent down under that id and
answers a repeat of the same script as the first time; so when a call got no answer we ask the node
for its list of batches and go by what it says, and only a batch of which the provider has noted
that it never will run is sent again under a new id (docs/adr/0004). A yagna chooses ids itself and
has no list: there an unanswered call ends in BatchUnknown, and nothing is repeated.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shem.kernel.world import new_hex_id
from shem.rest.errors import (
    CODE_ACTIVITY_ENDING,
    GONE,
    NO_SUCH_ENDPOINT,
    ApiError,
    Disconnected,
)
from shem.rest.models import Batch as BatchEntry
from shem.sdk.errors import (
    ActivityGone,
    BatchUnknown,
    Ended,
    GolemError,
    NodeRefused,
    NotReachable,
    NotSupported,
    explain,
)
from shem.sdk.patience import passing

if TYPE_CHECKING:
    from shem.sdk.activity import Activity

ACCEPTED: Final = "accepted"
NEVER: Final = "never"
REFUSED: Final = "refused"
CODE_NEVER: Final = "batch-never"
WORDS_OF_A_PEER: Final = "Service error: "
RENEWALS_MAX: Final = 3
"""How often a batch that provably never ran is sent again under a new id."""


@dataclass(slots=True)
class Submission:
    """One script on its way to one activity."""

    activity: "Activity"
    text: str
    batch_id: str
    id_is_callers: bool
    _renewals: int = 0

    async def run(self) -> str:
        """Return the id of the accepted batch."""
        pauses = self.activity.session.patience.pauses()
        while True:
            accepted_id = await self._send()
            if accepted_id is not None:
                return accepted_id
            if not await pauses.next():
                raise NotReachable(
                    f"batch {self.batch_id} was not sent: the node is away; submit it again"
                )

    async def _send(self) -> str | None:
        """Send once; None when it is certain that nothing was noted down and we may send again."""
        activity = self.activity
        try:
            return await activity.session.rest.activity.exec(
                activity.id, self.text, batch_id=self.batch_id
            )
        except Disconnected as error:
            return await self._fate(error) if error.sent else None
        except ApiError as error:
            if passing(error):
                return await self._fate(error)
            if error.code == CODE_NEVER:
                self._renew(error)
                return None
            if NO_SUCH_ENDPOINT in error.message:
                await self._outlast(error)
                return None
            if error.code == CODE_ACTIVITY_ENDING:
                ending = Ended("Provider", None, error.message.removeprefix(WORDS_OF_A_PEER))
                raise await activity.gone_or(ActivityGone(activity.id, ending)) from error
            if error.code in GONE or error.status in {400, 404, 409, 410}:
                # an ExeUnit that is about to end refuses as it would refuse a wrong script
                raise await activity.gone_or(explain(error)) from error
            raise explain(error) from error

    async def _fate(self, cause: ApiError | Disconnected) -> str | None:
        """Ask the node until it knows whether the batch was accepted."""
        pauses = self.activity.session.patience.pauses()
        while True:
            entry = await self._listed(cause)
            if entry is None:
                return None
            if entry.state == ACCEPTED:
                return self.batch_id
            if entry.state == REFUSED:
                raise NodeRefused(f"batch {self.batch_id} was refused: {entry.message or cause}")
            if entry.state == NEVER:
                self._renew(cause)
                return None
            if not await pauses.next():
                raise self._unknown(cause) from cause

    async def _listed(self, cause: ApiError | Disconnected) -> BatchEntry | None:
        try:
            entries = await self.activity.batch_entries()
        except NotSupported:
            raise self._unknown(cause) from cause
        return next((entry for entry in entries if entry.batch_id == self.batch_id), None)

    async def _outlast(self, cause: ApiError) -> None:
        """Nobody was there: the activity has ended, or its ExeUnit is being started again."""
        found = await self.activity.gone_or(explain(cause))
        if isinstance(found, ActivityGone) or self.id_is_callers:
            raise found from cause
        self.batch_id = new_hex_id(self.activity.session.world.rng)

    def _renew(self, cause: ApiError | Disconnected) -> None:
        """The provider noted that it will not run this id: take a new one, unless it is fixed."""
        if self.id_is_callers or self._renewals >= RENEWALS_MAX:
            text = f"batch {self.batch_id} never ran and never will ({cause}); submit it anew"
            raise NodeRefused(text, code="batch-never")
        self._renewals += 1
        self.batch_id = new_hex_id(self.activity.session.world.rng)

    def _unknown(self, cause: ApiError | Disconnected) -> GolemError:
        return BatchUnknown(
            self.batch_id,
            f"it is unknown whether batch {self.batch_id} was accepted ({cause});"
            f" ask later with activity.batches(), and do not submit it again before",
        )
