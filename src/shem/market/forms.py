"""What REST and `GetAgreement` show of the market's rows.

docs/protocol/market.md §3.1, §4. Pure. Optional members are left out when unset. `properties` are
given by a function: REST embeds their text as it was hashed, the bus needs them as values.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.market.ids import Role
from shem.market.messages import OfferRow
from shem.market.properties import parse_text
from shem.market.records import (
    OFFER,
    AgreementEntry,
    AgreementEvent,
    AgreementRow,
    NegotiationEvent,
    Pending,
    Proposal,
    Subscription,
    read_reason,
)
from shem.market.states import AgreementState

Form = dict[str, object]
Properties = Callable[[str], object]


def embedded(text: str) -> object:
    """Return a properties text for REST; one that is no JSON (a peer's) as a JSON text."""
    try:
        parse_text(text)
    except UsageError:
        return text
    return msgspec.Raw(text.encode())


def subscription_form(item: Subscription) -> Form:
    """Return an Offer or a Demand."""
    is_offer = item.kind == OFFER
    return {
        "properties": embedded(item.properties),
        "constraints": item.constraints,
        "offerId" if is_offer else "demandId": item.subscription_id,
        "providerId" if is_offer else "requestorId": item.identity,
        "timestamp": times.to_rfc3339(item.created_ns),
    }


def offer_row_form(row: OfferRow) -> Form:
    """Return an Offer as another node told it."""
    return {
        "properties": embedded(row.properties),
        "constraints": row.constraints,
        "offerId": row.offer_id,
        "providerId": row.node_id,
        "timestamp": times.to_rfc3339(row.created_ns),
    }


def pending_form(pending: Sequence[Pending]) -> Form:
    """Return the member that tells what the peer does not have yet; none when it has all."""
    if not pending:
        return {}
    return {
        "pendingDelivery": [
            {
                "message": item.message,
                "since": times.to_rfc3339(item.since_ns),
                "attempts": item.attempts,
            }
            for item in pending
        ]
    }


def proposal_form(item: Proposal) -> Form:
    form: Form = {
        "properties": embedded(item.properties),
        "constraints": item.constraints,
        "proposalId": item.proposal_id,
        "issuerId": item.issuer,
        "state": item.state,
        "timestamp": times.to_rfc3339(item.created_ns),
    }
    if item.prev_proposal_id is not None:
        form["prevProposalId"] = item.prev_proposal_id
    return form


def agreement_form(
    item: AgreementRow, state: AgreementState, properties: Properties = embedded
) -> Form:
    """Return an Agreement; both subscriptions carry its own creation time (§3.1)."""
    created = times.to_rfc3339(item.created_ns)
    approved_ns = item.approved_ns
    form: Form = {
        "agreementId": item.agreement_id,
        "demand": {
            "properties": properties(item.demand_properties),
            "constraints": item.demand_constraints,
            "demandId": item.demand_id,
            "requestorId": item.requestor,
            "timestamp": created,
        },
        "offer": {
            "properties": properties(item.offer_properties),
            "constraints": item.offer_constraints,
            "offerId": item.offer_id,
            "providerId": item.provider,
            "timestamp": created,
        },
        "validTo": times.to_rfc3339(item.valid_to_ns),
        "approvedDate": None if approved_ns is None else times.to_rfc3339(approved_ns),
        "state": state.shown,
        "timestamp": created,
        "appSessionId": item.app_session_id,
        "proposedSignature": item.proposed_signature,
        "approvedSignature": item.approved_signature,
        "committedSignature": item.committed_signature,
    }
    return {name: value for name, value in form.items() if value is not None}


def agreement_entry(item: AgreementRow | AgreementEntry) -> Form:
    """Return one line of a list of agreements; here an unset date is null."""
    approved_ns = item.approved_ns
    return {
        "id": item.agreement_id,
        "timestamp": times.to_rfc3339(item.created_ns),
        "approvedDate": None if approved_ns is None else times.to_rfc3339(approved_ns),
        "role": item.role,
    }


def negotiation_event_form(
    event: NegotiationEvent, proposal: Proposal | None, agreement: Form | None
) -> Form | None:
    """Return one event of a subscription's queue; None when what it is about is gone."""
    form: Form = {"eventDate": times.to_rfc3339(times.truncate_to_ms(event.event_ns))}
    if event.kind == "rejected":
        rejected = {"eventType": "ProposalRejectedEvent", "proposalId": event.proposal_id}
        reason = read_reason(event.reason)
        return rejected | form | ({} if reason is None else {"reason": reason})
    if event.kind == "agreement":
        return (
            None
            if agreement is None
            else {"eventType": "AgreementEvent", **form, "agreement": agreement}
        )
    if proposal is None:
        return None
    return {"eventType": "ProposalEvent", **form, "proposal": proposal_form(proposal)}


EVENT_TYPES: Final = {
    AgreementState.APPROVED: "AgreementApprovedEvent",
    AgreementState.REJECTED: "AgreementRejectedEvent",
    AgreementState.CANCELLED: "AgreementCancelledEvent",
    AgreementState.TERMINATED: "AgreementTerminatedEvent",
}


def agreement_event_form(event: AgreementEvent) -> Form:
    """Return one event of an agreement's log."""
    form: Form = {
        "eventDate": times.to_rfc3339(event.event_ns),
        "agreementId": event.agreement_id,
        "eventType": EVENT_TYPES[event.kind],
    }
    if event.kind is AgreementState.TERMINATED:
        form["terminator"] = event.terminator or Role.PROVIDER
        form["signature"] = ""
    if (reason := read_reason(event.reason)) is not None:
        form["reason"] = reason
    return form
