"""What the market's REST bodies look like, for its documentation and for reading requests.

docs/protocol/market.md §3.1, §4. The answers themselves are made by `market.forms`; a contract test
holds both together. Members that may be left out are `UNSET` by default.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shem.api.contract import (
    AgreementIdText,
    Moment,
    NodeIdText,
    ProposalIdText,
    SubscriptionIdText,
)

Properties = Annotated[Any, Meta(description="Flat names and values of any JSON type.")]
Reason = Annotated[
    dict[str, Any] | None,
    Meta(
        description="A `message` and any other members, or null for no reason.",
        extra_json_schema={
            "required": ["message"],
            "properties": {"message": {"type": "string"}},
        },
    ),
]
RoleName = Literal["Provider", "Requestor"]
StateName = Literal[
    "Proposal", "Pending", "Cancelled", "Rejected", "Approved", "Expired", "Terminated"
]


class Terms(msgspec.Struct):
    """NewOffer, NewDemand, NewProposal: properties, nested or flat, and constraints."""

    properties: Any
    constraints: str


class Promotion(msgspec.Struct, rename="camel"):
    """Which proposal is promoted to an agreement, and until when it may be approved."""

    proposal_id: ProposalIdText
    valid_to: Moment


class NewScan(msgspec.Struct):
    """What a scan looks for, and for how many seconds it is kept unused."""

    kind: Literal["offer", "demand"] = msgspec.field(name="type")
    timeout: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    constraints: str | None = None


class Offer(msgspec.Struct, rename="camel"):
    """A provider's Offer."""

    properties: Properties
    constraints: str
    offer_id: SubscriptionIdText
    provider_id: NodeIdText
    timestamp: Moment


class Demand(msgspec.Struct, rename="camel"):
    """A requestor's Demand."""

    properties: Properties
    constraints: str
    demand_id: SubscriptionIdText
    requestor_id: NodeIdText
    timestamp: Moment


class PendingDelivery(msgspec.Struct):
    """A message that the peer does not have yet."""

    message: str
    since: Moment
    attempts: int


class Proposal(msgspec.Struct, rename="camel"):
    """One proposal of a negotiation; `pendingDelivery` while the peer does not have it all."""

    properties: Properties
    constraints: str
    proposal_id: ProposalIdText
    issuer_id: NodeIdText
    state: Literal["Initial", "Draft", "Rejected", "Accepted", "Expired"]
    timestamp: Moment
    prev_proposal_id: ProposalIdText | UnsetType = UNSET
    pending_delivery: list[PendingDelivery] | UnsetType = UNSET


class Agreement(msgspec.Struct, rename="camel"):
    """An agreement as a party sees it; `pendingDelivery` while the other one lacks something."""

    agreement_id: AgreementIdText
    demand: Demand
    offer: Offer
    valid_to: Moment
    state: StateName
    timestamp: Moment
    approved_date: Moment | UnsetType = UNSET
    app_session_id: str | UnsetType = UNSET
    proposed_signature: str | UnsetType = UNSET
    approved_signature: str | UnsetType = UNSET
    committed_signature: str | UnsetType = UNSET
    pending_delivery: list[PendingDelivery] | UnsetType = UNSET


class AgreementListEntry(msgspec.Struct, rename="camel"):
    """One line of the list of agreements."""

    id: AgreementIdText
    timestamp: Moment
    approved_date: Moment | None
    role: RoleName


class ProposalEvent(msgspec.Struct, rename="camel", tag="ProposalEvent", tag_field="eventType"):
    """A proposal of the market or of the peer."""

    event_date: Moment
    proposal: Proposal


class ProposalRejectedEvent(
    msgspec.Struct, rename="camel", tag="ProposalRejectedEvent", tag_field="eventType"
):
    """The peer rejected a proposal of ours."""

    event_date: Moment
    proposal_id: ProposalIdText
    reason: Reason | UnsetType = UNSET


class AgreementEvent(msgspec.Struct, rename="camel", tag="AgreementEvent", tag_field="eventType"):
    """A requestor proposes an agreement; providers only."""

    event_date: Moment
    agreement: Agreement


NegotiationEvents = list[ProposalEvent | ProposalRejectedEvent | AgreementEvent]


class AgreementApprovedEvent(
    msgspec.Struct, rename="camel", tag="AgreementApprovedEvent", tag_field="eventType"
):
    """The agreement is in force."""

    event_date: Moment
    agreement_id: AgreementIdText


class AgreementRejectedEvent(
    msgspec.Struct, rename="camel", tag="AgreementRejectedEvent", tag_field="eventType"
):
    """The provider refused it."""

    event_date: Moment
    agreement_id: AgreementIdText
    reason: Reason | UnsetType = UNSET


class AgreementCancelledEvent(
    msgspec.Struct, rename="camel", tag="AgreementCancelledEvent", tag_field="eventType"
):
    """The requestor took it back."""

    event_date: Moment
    agreement_id: AgreementIdText
    reason: Reason | UnsetType = UNSET


class AgreementTerminatedEvent(
    msgspec.Struct, rename="camel", tag="AgreementTerminatedEvent", tag_field="eventType"
):
    """It was in force and has ended."""

    event_date: Moment
    agreement_id: AgreementIdText
    terminator: RoleName
    signature: str
    reason: Reason | UnsetType = UNSET


AgreementEvents = list[
    AgreementApprovedEvent
    | AgreementRejectedEvent
    | AgreementCancelledEvent
    | AgreementTerminatedEvent
]
