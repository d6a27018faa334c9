"""The JSON of yagna's REST API as typed values (docs/protocol/market.md §3.1, §4).

Fields a node may leave out have defaults; unknown fields are ignored. Date-times stay text as the
node wrote them: cursors (`afterTimestamp`) must go back unchanged, `shem.kernel.times` reads them.
"""

from typing import Any, Literal

import msgspec

Properties = dict[str, Any]
"""Flat properties: dotted names, JSON values."""
Reason = dict[str, Any]
"""`message` (text) and any other members, kept verbatim."""


class Model(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of all: camelCase in JSON, immutable here."""


class Offer(Model, frozen=True):
    """An Offer as published, or as one side of an Agreement."""

    properties: Properties
    constraints: str
    offer_id: str
    provider_id: str
    timestamp: str = ""


class Demand(Model, frozen=True):
    """A Demand as published, or as one side of an Agreement."""

    properties: Properties
    constraints: str
    demand_id: str
    requestor_id: str
    timestamp: str = ""


class Proposal(Model, frozen=True):
    """One turn of a negotiation."""

    properties: Properties
    constraints: str
    proposal_id: str
    issuer_id: str
    state: str
    timestamp: str = ""
    prev_proposal_id: str | None = None


class Agreement(Model, frozen=True):
    """An Agreement with both its sides."""

    agreement_id: str
    demand: Demand
    offer: Offer
    valid_to: str
    state: str
    timestamp: str = ""
    approved_date: str | None = None
    app_session_id: str | None = None


class AgreementListEntry(Model, frozen=True):
    """One row of the list of agreements."""

    id: str
    timestamp: str
    role: str
    approved_date: str | None = None


class ProposalEvent(Model, frozen=True, tag_field="eventType", tag="ProposalEvent"):
    """The other side proposed, or the market matched."""

    event_date: str
    proposal: Proposal


class ProposalRejectedEvent(Model, frozen=True, tag_field="eventType", tag="ProposalRejectedEvent"):
    """The other side rejected our proposal."""

    event_date: str
    proposal_id: str
    reason: Reason | None = None


class AgreementEvent(Model, frozen=True, tag_field="eventType", tag="AgreementEvent"):
    """A requestor confirmed an Agreement and waits for our approval (provider only)."""

    event_date: str
    agreement: Agreement


NegotiationEvent = ProposalEvent | ProposalRejectedEvent | AgreementEvent


class AgreementOperationEvent(Model, frozen=True):
    """An Agreement was approved, rejected, cancelled or terminated."""

    event_date: str
    agreement_id: str
    event_type: str
    terminator: str | None = None
    reason: Reason | None = None


class ActivityState(Model, frozen=True):
    """Current and pending state; `alive` unless either is Terminated."""

    state: tuple[str, str | None]
    reason: str | None = None
    error_message: str | None = None

    @property
    def current(self) -> str:
        return self.state[0]

    @property
    def alive(self) -> bool:
        return "Terminated" not in self.state


class CreateRequest(Model, frozen=True):
    """What an activity is created with; `intentId` is shem's, and ignored by a yagna."""

    agreement_id: str
    intent_id: str | None = None


class Created(Model, frozen=True):
    """The answer to a CreateRequest."""

    activity_id: str


class ActivityUsage(Model, frozen=True):
    """Usage counters in the order of the agreement's `golem.com.usage.vector`."""

    timestamp: int = 0
    current_usage: list[float] | None = None


class ExeScriptCommandResult(Model, frozen=True):
    """The end of one command of a batch."""

    index: int
    result: Literal["Ok", "Error"]
    event_date: str = ""
    stdout: str | list[int] | None = None
    stderr: str | list[int] | None = None
    message: str | None = None
    is_batch_finished: bool = False


class RuntimeEvent(Model, frozen=True, rename=None):
    """What an ExeUnit tells of a batch while it runs; `kind` has one member, its name."""

    batch_id: str
    index: int
    kind: dict[str, Any]
    timestamp: str = ""


class Batch(Model, frozen=True):
    """One batch of an activity, as a shem node lists it (yagna has no such list)."""

    batch_id: str
    state: str
    commands: int = 0
    results: int = msgspec.field(default=0, name="resultsStored")
    is_finished: bool = False
    created_date: str = ""
    message: str | None = None
    script: list[Any] = []
    """Its commands, as sent."""


class Ending(Model, frozen=True, omit_defaults=False):
    """How an activity ended."""

    by: str
    """`Requestor`, `Provider`, `Expiry`, or `unknown`."""
    why: str
    at: str | None = None
    code: str | None = None


class AbsenceLimit(Model, frozen=True, omit_defaults=False):
    """One thing that happens to those who stay away too long."""

    kind: str
    effect: str
    """`ends-activity`, `ends-agreement` or `loses-results`."""
    text: str
    applies: bool = True
    at: str | None = None
    """The moment when it happens, for one that is fixed."""
    after_sec: float | None = None
    """Or so many seconds after the requestor fell silent."""


class Due(Model, frozen=True, omit_defaults=False):
    """What the usage so far costs at the agreed price."""

    amount: str
    """GLM, a decimal number."""
    usage: dict[str, float]
    is_estimate: bool = True
    """Computed here from usage and price: what counts is the provider's note."""


class Standing(Model, frozen=True, omit_defaults=False):
    """`GET …/absence`: whether an activity lives, and how long one may be away from it."""

    activity_id: str
    agreement_id: str
    alive: bool
    ended: Ending | None = None
    seconds: float | None = None
    """How long; None: nothing limits it, or it has ended."""
    until: str | None = None
    limited_by: str | None = None
    limits: list[AbsenceLimit] = []
    results_until: str | None = None
    due: Due | None = None


class ProviderEvent(Model, frozen=True):
    """A requestor created or destroyed an activity; `kind` names which."""

    activity_id: str
    agreement_id: str
    event_date: str
    event_type: dict[str, Any]

    @property
    def kind(self) -> str:
        return next(iter(self.event_type), "")


class Me(Model, frozen=True):
    """The identity behind the application key."""

    identity: str
    name: str = ""
    role: str = ""


class Release(Model, frozen=True):
    """One release of the node's program."""

    version: str
    name: str = ""


class Version(Model, frozen=True):
    """What the node runs."""

    current: Release | None = None


class NetStatus(Model, frozen=True):
    """The node's place in the net."""

    node_id: str
    listen_ip: str | None = None
    public_ip: str | None = None
    sessions: int = 0
