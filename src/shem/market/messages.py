"""Messages between markets: frozen dataclasses and their documents.

docs/protocol/market.md §5. Pure. Every message declares its fields once, with the name and the kind
of each on the wire; `encode` and `decode` work from that. Times are naive texts on the wire and
integers of nanoseconds here, which loses nothing (they are hashed by the peer). Whatever a peer
sends that does not fit raises PeerError.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_type_hints

from shem.kernel import times
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId, SubscriptionId, parse_node_id
from shem.market.ids import parse_proposal_id, parse_subscription_id
from shem.market.properties import TEXT_MAX, Json, canonical_text

PUBLIC: Final = "/public/market"
DISCOVERY: Final = "/market/protocol/mk1/discovery/offers"
PROVIDER_PROPOSAL: Final = "/market/protocol/mk1/negotiation/provider/proposal"
PROVIDER_AGREEMENT: Final = "/market/protocol/mk1/negotiation/provider/agreement"
REQUESTOR_PROPOSAL: Final = "/market/protocol/mk1/negotiation/requestor/proposal"
REQUESTOR_AGREEMENT: Final = "/market/protocol/mk1/negotiation/requestor/agreement"
OFFERS_TOPIC: Final = "market-protocol-discovery-mk1-offers"
UNSUBSCRIBES_TOPIC: Final = "market-protocol-discovery-mk1-offers-unsubscribe"
NEW_NEIGHBOUR_TOPIC: Final = "new-neighbour"

NO_SIGNATURE: Final = "NoSignature"
NOT_SIGNED: Final = "NotSigned"
SIGNATURE_MAX: Final = 64 * 1024
"""Characters of a signature string; room for real ones."""
REASON_MEMBERS_MAX: Final = 256
IDS_MAX: Final = 1024
"""Ids in one list of a peer."""

TIME_MAX_NS: Final = (1 << 63) - 1
"""What the store holds."""

Reason = dict[str, Json]
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one type of value stands on the wire."""

    read: Callable[[object], Any]
    write: Callable[[Any], object]


def _same(value: object) -> object:
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX:
        raise PeerError("a text was expected")
    return value


def _signature(value: object) -> str:
    if len(text := _text(value)) > SIGNATURE_MAX:
        raise PeerError(f"a signature is longer than {SIGNATURE_MAX} characters")
    return text


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise PeerError("true or false was expected")
    return value


def _reason(value: object) -> Reason | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        raise PeerError("a reason needs a message")
    if len(value) > REASON_MEMBERS_MAX:
        raise PeerError(f"a reason has more than {REASON_MEMBERS_MAX} members")
    canonical_text(value)
    return value


def _subscription_ids(value: object) -> tuple[SubscriptionId, ...]:
    if not isinstance(value, list) or len(value) > IDS_MAX:
        raise PeerError(f"a list of at most {IDS_MAX} ids was expected")
    return tuple(parse_subscription_id(_text(item)) for item in value)


def _optional(read: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else read(value)


TEXT: Final = Kind(_text, _same)
SIGNATURE: Final = Kind(_signature, _same)
FLAG: Final = Kind(_flag, _same)
NODE: Final = Kind(lambda value: parse_node_id(_text(value)), _same)
OPTIONAL_NODE: Final = Kind(_optional(NODE.read), _same)
OPTIONAL_TEXT: Final = Kind(_optional(_text), _same)


def _time(value: object) -> int:
    if not 0 <= (ns := times.parse(_text(value))) <= TIME_MAX_NS:
        raise PeerError("a time between 1970 and 2262 was expected")
    return ns


TIME: Final = Kind(_time, times.to_naive)
OPTIONAL_TIME: Final = Kind(
    _optional(TIME.read), lambda value: None if value is None else times.to_naive(value)
)
SUBSCRIPTION: Final = Kind(lambda value: parse_subscription_id(_text(value)), _same)
SUBSCRIPTIONS: Final = Kind(_subscription_ids, list)
LETTERED: Final = Kind(lambda value: parse_proposal_id(_text(value)), _same)
REASON: Final = Kind(_reason, _same)


@dataclass(frozen=True, slots=True)
class Wire:
    """Name and kind of a field on the wire."""

    name: str
    kind: Kind


_WIRE_FIELDS: dict[type, tuple[tuple[str, Wire], ...]] = {}
"""Filled once per message class."""


def _wire_fields(message: type) -> tuple[tuple[str, Wire], ...]:
    known = _WIRE_FIELDS.get(message)
    if known is None:
        hints = get_type_hints(message, include_extras=True)
        known = tuple((item.name, hints[item.name].__metadata__[0]) for item in fields(message))
        _WIRE_FIELDS[message] = known
    return known


def encode(message: Any) -> dict[str, object]:
    """Return the document of a message, all keys present."""
    document: dict[str, object] = {}
    for attribute, wire in _wire_fields(type(message)):
        document[wire.name] = wire.kind.write(getattr(message, attribute))
    return document


def decode(kind: type[M], document: object) -> M:
    """Read a message; an absent key counts as null; PeerError when it does not fit."""
    if not isinstance(document, dict):
        raise PeerError(f"{kind.__name__}: a map was expected")
    values: dict[str, Any] = {}
    for attribute, wire in _wire_fields(kind):
        try:
            values[attribute] = wire.kind.read(document.get(wire.name))
        except (UsageError, PeerError) as error:
            raise PeerError(f"{kind.__name__}.{wire.name}: {error.message}") from error
    return kind(**values)


@dataclass(frozen=True, slots=True)
class OfferRow:
    """An Offer as `Get` hands it on; `node_id` is the issuer, whoever sends it."""

    offer_id: Annotated[SubscriptionId, Wire("id", SUBSCRIPTION)]
    properties: Annotated[str, Wire("properties", TEXT)]
    constraints: Annotated[str, Wire("constraints", TEXT)]
    node_id: Annotated[NodeId, Wire("node_id", NODE)]
    created_ns: Annotated[int, Wire("creation_ts", TIME)]
    inserted_ns: Annotated[int | None, Wire("insertion_ts", OPTIONAL_TIME)]
    expires_ns: Annotated[int, Wire("expiration_ts", TIME)]


@dataclass(frozen=True, slots=True)
class ProposalContent:
    """The terms of one proposal."""

    proposal_id: Annotated[str, Wire("proposal_id", LETTERED)]
    properties: Annotated[str, Wire("properties", TEXT)]
    constraints: Annotated[str, Wire("constraints", TEXT)]
    created_ns: Annotated[int, Wire("creation_ts", TIME)]
    expires_ns: Annotated[int, Wire("expiration_ts", TIME)]


CONTENT: Final = Kind(lambda value: decode(ProposalContent, value), encode)


@dataclass(frozen=True, slots=True)
class OfferIds:
    """The body of both broadcasts, and of `Get`."""

    NAME: ClassVar[str] = "Get"
    offer_ids: Annotated[tuple[SubscriptionId, ...], Wire("offerIds", SUBSCRIPTIONS)]


@dataclass(frozen=True, slots=True)
class Query:
    """Ask a node for all Offers it knows, page by page."""

    NAME: ClassVar[str] = "Query"
    node_id: Annotated[NodeId | None, Wire("nodeId", OPTIONAL_NODE)]
    constraint_expr: Annotated[str | None, Wire("constraintExpr", OPTIONAL_TEXT)]
    iterator: Annotated[object, Wire("iterator", Kind(_same, _same))]


@dataclass(frozen=True, slots=True)
class InitialProposalReceived:
    """The requestor's first counter, which tells the provider of the negotiation."""

    NAME: ClassVar[str] = "InitialProposalReceived"
    proposal: Annotated[ProposalContent, Wire("proposal", CONTENT)]
    offer_id: Annotated[SubscriptionId, Wire("offerId", SUBSCRIPTION)]
    demand_id: Annotated[SubscriptionId, Wire("demandId", SUBSCRIPTION)]


@dataclass(frozen=True, slots=True)
class ProposalReceived:
    """A later counter of either side."""

    NAME: ClassVar[str] = "ProposalReceived"
    prev_proposal_id: Annotated[str, Wire("prevProposalId", LETTERED)]
    proposal: Annotated[ProposalContent, Wire("proposal", CONTENT)]


@dataclass(frozen=True, slots=True)
class ProposalRejected:
    """Either side rejects the other's last proposal."""

    NAME: ClassVar[str] = "ProposalRejected"
    proposal_id: Annotated[str, Wire("proposalId", LETTERED)]
    initial: Annotated[bool, Wire("initial", FLAG)]
    reason: Annotated[Reason | None, Wire("reason", REASON)]


@dataclass(frozen=True, slots=True)
class AgreementReceived:
    """The requestor proposes an agreement on the provider's last proposal."""

    NAME: ClassVar[str] = "AgreementReceived"
    proposal_id: Annotated[str, Wire("proposalId", LETTERED)]
    agreement_id: Annotated[str, Wire("agreementId", LETTERED)]
    created_ns: Annotated[int, Wire("creationTs", TIME)]
    valid_to_ns: Annotated[int, Wire("validTo", TIME)]
    signature: Annotated[str, Wire("signature", SIGNATURE)]


@dataclass(frozen=True, slots=True)
class AgreementApproved:
    """The provider approves; the requestor has to commit."""

    NAME: ClassVar[str] = "AgreementApproved"
    agreement_id: Annotated[str, Wire("agreementId", LETTERED)]
    signature: Annotated[str, Wire("signature", SIGNATURE)]
    approved_ns: Annotated[int, Wire("approvedTs", TIME)]


@dataclass(frozen=True, slots=True)
class AgreementCommitted:
    """The requestor commits: from its receipt on the agreement is in force."""

    NAME: ClassVar[str] = "AgreementCommitted"
    agreement_id: Annotated[str, Wire("agreementId", LETTERED)]
    signature: Annotated[str, Wire("signature", SIGNATURE)]


@dataclass(frozen=True, slots=True)
class AgreementRejected:
    """The provider does not want the agreement."""

    NAME: ClassVar[str] = "AgreementRejected"
    agreement_id: Annotated[str, Wire("agreementId", LETTERED)]
    reason: Annotated[Reason | None, Wire("reason", REASON)]
    rejected_ns: Annotated[int, Wire("rejectionTs", TIME)]


@dataclass(frozen=True, slots=True)
class AgreementCancelled:
    """The requestor takes its offer of an agreement back."""

    NAME: ClassVar[str] = "AgreementCancelled"
    agreement_id: Annotated[str, Wire("agreementId", LETTERED)]
    reason: Annotated[Reason | None, Wire("reason", REASON)]
    cancelled_ns: Annotated[int, Wire("cancellationTs", TIME)]


@dataclass(frozen=True, slots=True)
class AgreementTerminated:
    """Either side ends an approved agreement; the id has the receiver's letter."""

    NAME: ClassVar[str] = "AgreementTerminated"
    agreement_id: Annotated[str, Wire("agreementId", LETTERED)]
    reason: Annotated[Reason | None, Wire("reason", REASON)]
    signature: Annotated[str, Wire("signature", SIGNATURE)]
    terminated_ns: Annotated[int, Wire("terminationTs", TIME)]


@dataclass(frozen=True, slots=True)
class GetAgreement:
    """Ask a party for its own view of an agreement; the id is bare."""

    NAME: ClassVar[str] = "GetAgreement"
    agreement_id: Annotated[str, Wire("agreementId", TEXT)]
    role: Annotated[str, Wire("role", TEXT)]
