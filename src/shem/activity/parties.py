"""The agreement behind an activity, and the one question to `permissions.decide`.

Rules: an activity is always resolved to its agreement first; a REST caller that is no party learns
what yagna tells it, that there is no such agreement for it (docs/protocol/activity-exeunit.md §4).
"""

from collections.abc import Callable
from typing import Final, Protocol

from shem.activity.records import Activity, Role
from shem.kernel.caller import Caller
from shem.kernel.errors import Denied, NotFound
from shem.kernel.ids import AgreementId, NodeId
from shem.permissions import Action, Resource, decide

APPROVED: Final = "Approved"
OVER: Final = frozenset({"Terminated", "Expired", "Cancelled", "Rejected"})
"""States from which an agreement does not come back."""


class Agreement(Protocol):
    """What an activity needs to know of its agreement."""

    @property
    def agreement_id(self) -> str: ...
    @property
    def identity(self) -> NodeId: ...
    @property
    def requestor(self) -> NodeId: ...
    @property
    def provider(self) -> NodeId: ...
    @property
    def state(self) -> str: ...
    @property
    def app_session_id(self) -> str | None: ...
    @property
    def demand_properties(self) -> str: ...
    @property
    def offer_properties(self) -> str: ...


class AgreementEnd(Protocol):
    """How an agreement ended."""

    @property
    def kind(self) -> str: ...
    @property
    def terminator(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def event_ns(self) -> int: ...


class Agreements(Protocol):
    """The part of the market that activities stand on."""

    async def agreement(self, agreement_id: str, role: str | None = None) -> Agreement | None:
        """Return this node's row of an agreement, in the given role."""
        ...

    async def take_up(self, who: Caller, agreement_id: AgreementId, provider: NodeId) -> Agreement:
        """Return the caller's copy as requestor; one that this node lacks is fetched."""
        ...

    async def ending_of(self, agreement_id: str, role: str) -> AgreementEnd | None:
        """Return how an agreement ended; None while it has not."""
        ...

    def on_agreement_end(self, fn: Callable[[str], None]) -> None:
        """Call `fn(agreement id)` after an agreement ended."""
        ...


def require(caller: Caller, action: Action, owned: Agreement | Activity, now_ns: int) -> None:
    """Raise Denied unless `caller` may do `action` under the agreement."""
    resource = Resource(owned.agreement_id, owned.requestor, owned.provider)
    decide(caller, action, resource, now_ns=now_ns).require()


def pick(
    caller: Caller, rows: list[Activity], actions: dict[Role, Action], now_ns: int
) -> Activity:
    """Return the row of the role in which `caller` may act, the provider's first."""
    for activity in sorted(rows, key=lambda row: row.role is not Role.PROVIDER):
        if activity.role in actions:
            try:
                require(caller, actions[activity.role], activity, now_ns)
            except Denied:
                continue
            return activity
    raise NotFound(f"Not found: {rows[0].agreement_id}")
