"""Rows of the market's tables as dataclasses, and the topics that tell of their changes.

Tables: store/migrations/0002_market.sql. The statements stand in `subscription_rows`,
`proposal_rows` and `agreement_rows`; those that write take a unit of work and only buffer.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

from shem.kernel.ids import AgreementId, NodeId, ProposalId, SubscriptionId
from shem.market.ids import Role
from shem.market.messages import OfferRow, Reason
from shem.market.properties import canonical_text, parse_text
from shem.market.states import AgreementState, ProposalState

OFFER: Final = "offer"
DEMAND: Final = "demand"
ACTIVE: Final = "active"
UNSUBSCRIBED: Final = "unsubscribed"


@dataclass(frozen=True, slots=True)
class Subscription:
    """An Offer or a Demand, our own or heard of."""

    subscription_id: SubscriptionId
    kind: str
    own: bool
    identity: NodeId
    properties: str
    constraints: str
    state: str
    created_ns: int
    inserted_ns: int
    expires_ns: int

    def is_active(self, now_ns: int) -> bool:
        return self.state == ACTIVE and now_ns < self.expires_ns

    def as_offer_row(self) -> OfferRow:
        return OfferRow(
            self.subscription_id,
            self.properties,
            self.constraints,
            self.identity,
            self.created_ns,
            self.inserted_ns,
            self.expires_ns,
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal of a negotiation, kept under our own letter."""

    proposal_id: ProposalId
    identity: NodeId
    role: Role
    subscription_id: SubscriptionId
    offer_id: SubscriptionId
    demand_id: SubscriptionId
    requestor: NodeId
    provider: NodeId
    issuer: NodeId
    prev_proposal_id: ProposalId | None
    countered_by: ProposalId | None
    state: ProposalState
    reason: str | None
    delivery: str
    properties: str
    constraints: str
    created_ns: int
    expires_ns: int

    @property
    def peer(self) -> NodeId:
        return self.provider if self.role is Role.REQUESTOR else self.requestor

    def counter(
        self,
        proposal_id: ProposalId,
        *,
        issuer: NodeId,
        delivery: str,
        properties: str,
        constraints: str,
        created_ns: int,
        expires_ns: int,
    ) -> "Proposal":
        """Return the draft that answers this proposal."""
        return replace(
            self,
            proposal_id=proposal_id,
            issuer=issuer,
            prev_proposal_id=self.proposal_id,
            countered_by=None,
            state=ProposalState.DRAFT,
            reason=None,
            delivery=delivery,
            properties=properties,
            constraints=constraints,
            created_ns=created_ns,
            expires_ns=expires_ns,
        )


@dataclass(frozen=True, slots=True)
class AgreementRow:
    """An agreement as one role of this node keeps it."""

    agreement_id: AgreementId
    role: Role
    identity: NodeId
    requestor: NodeId
    provider: NodeId
    recipient: NodeId
    acceptor: NodeId
    payer: NodeId
    state: AgreementState
    is_sent: bool
    proposal_id: ProposalId
    offer_id: SubscriptionId
    demand_id: SubscriptionId
    offer_properties: str
    offer_constraints: str
    demand_properties: str
    demand_constraints: str
    created_ns: int
    valid_to_ns: int
    approved_ns: int | None
    app_session_id: str | None
    proposed_signature: str | None
    approved_signature: str | None
    committed_signature: str | None
    platform: str | None
    payee_address: str | None
    payer_address: str | None
    pricing_model: str | None
    pricing_coeffs: str | None
    usage_vector: str | None
    expires_ns: int | None

    @property
    def peer(self) -> NodeId:
        return self.provider if self.role is Role.REQUESTOR else self.requestor


@dataclass(frozen=True, slots=True)
class AgreementEntry:
    """The part of an agreement that lists show."""

    agreement_id: AgreementId
    role: Role
    identity: NodeId
    requestor: NodeId
    provider: NodeId
    state: AgreementState
    created_ns: int
    valid_to_ns: int
    approved_ns: int | None
    app_session_id: str | None
    expires_ns: int | None

    @property
    def peer(self) -> NodeId:
        return self.provider if self.role is Role.REQUESTOR else self.requestor


@dataclass(frozen=True, slots=True)
class NegotiationEvent:
    """One entry of a subscription's queue."""

    event_id: int
    identity: NodeId
    subscription_id: SubscriptionId
    kind: str
    proposal_id: ProposalId | None
    agreement_id: AgreementId | None
    reason: str | None
    event_ns: int


@dataclass(frozen=True, slots=True)
class AgreementEvent:
    """One entry of an agreement's log; `kind` is the state it announces."""

    agreement_id: AgreementId
    role: Role
    seq: int
    identity: NodeId
    kind: AgreementState
    event_ns: int
    app_session_id: str | None
    terminator: Role | None
    reason: str | None


KNOWN_OFFERS_TOPIC: Final = "market.offers"
"""Changes when an Offer becomes known, our own or another's."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that was not delivered; `attempts` counts the failed ones."""

    message: str
    since_ns: int
    attempts: int


IN_FORCE_TOPIC: Final = "market.in-force"
"""Changes when an agreement comes into force."""


def negotiation_topic(subscription_id: str) -> str:
    return f"market.negotiation:{subscription_id}"


def agreements_topic(identity: str) -> str:
    return f"market.agreements:{identity}"


def agreement_topic(agreement_id: str) -> str:
    return f"market.agreement:{agreement_id}"


def reason_text(reason: Reason | None) -> str | None:
    return None if reason is None else canonical_text(reason)


def read_reason(text: str | None) -> Reason | None:
    value = None if text is None else parse_text(text)
    return value if isinstance(value, dict) else None


def values_of(item: Subscription | Proposal | AgreementRow) -> dict[str, Any]:
    """Return the columns of a row."""
    return {field.name: getattr(item, field.name) for field in fields(item)}
