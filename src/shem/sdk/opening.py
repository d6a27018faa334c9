"""What `rent` and `attach` give: something to await, or to use as `async with`."""

from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from shem.sdk import report
from shem.sdk.activity import Activity
from shem.sdk.rental import Rental
from shem.sdk.session import Session
from shem.sdk.ticket import Ticket

if TYPE_CHECKING:
    from shem.sdk.golem import Golem

OnExit = Literal["end", "detach"]


class Opening:
    """An activity on its way: `await` it, or use it as `async with`."""

    def __init__(self, golem: "Golem", work: "Rental | Attachment", on_exit: OnExit) -> None:
        self._golem = golem
        self._work = work
        self._on_exit = on_exit
        self._activity: Activity | None = None

    async def _open(self) -> Activity:
        activity = await self._work.run(self._golem.session)
        self._golem.keep(activity, self._on_exit)
        return activity

    def __await__(self) -> Generator[object, None, Activity]:
        return self._open().__await__()

    async def __aenter__(self) -> Activity:
        self._activity = await self._open()
        return self._activity

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._activity is not None:
            await self._golem.leave(self._activity, error)


class Attachment:
    """The way back to an activity."""

    def __init__(self, activity_id: str, ticket: Ticket | None) -> None:
        self._activity_id = activity_id
        self._ticket = ticket

    async def run(self, session: Session) -> Activity:
        return await report.attach(session, self._activity_id, self._ticket)
