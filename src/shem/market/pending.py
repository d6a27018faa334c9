"""What the peer of a negotiation or an agreement does not have yet, and since when.

docs/protocol/market.md §8. Read from the outbox. What it has delivered and not yet ticked off is
left out where the rows tell.
"""

from typing import Final

from shem.market.agreement_outbound import APPROVAL, COMMIT, ENDING, lane_of
from shem.market.context import Context
from shem.market.proposal_outbound import COUNTER, REJECTION, negotiation_lane
from shem.market.records import AgreementEntry, AgreementRow, Pending, Proposal
from shem.market.states import AgreementInput, AgreementState
from shem.store.outbox import OutboxRow

MESSAGES: Final = {
    COUNTER: "ProposalReceived",
    REJECTION: "ProposalRejected",
    APPROVAL: "AgreementApproved",
    COMMIT: "AgreementCommitted",
}
ENDINGS: Final[dict[str, str]] = {
    AgreementInput.CANCEL: "AgreementCancelled",
    AgreementInput.REJECT: "AgreementRejected",
    AgreementInput.TERMINATE: "AgreementTerminated",
}


async def of_agreement(context: Context, row: AgreementRow | AgreementEntry) -> list[Pending]:
    """Return what the other party of an agreement lacks, oldest first."""
    rows = await context.outbox.pending(
        identity=row.identity, peer=row.peer, lane=lane_of(row.agreement_id)
    )
    return [
        _pending(item)
        for item in rows
        if item.payload.get("role") == row.role
        and (item.kind != COMMIT or row.state is AgreementState.APPROVING)
    ]


async def of_proposal(context: Context, proposal: Proposal) -> list[Pending]:
    """Return what the peer lacks of a proposal: itself, or its rejection."""
    rows = await context.outbox.pending(
        identity=proposal.identity,
        peer=proposal.peer,
        lane=negotiation_lane(proposal.offer_id, proposal.demand_id),
    )
    return [
        _pending(item)
        for item in rows
        if item.payload.get("proposalId") == proposal.proposal_id
        and (item.kind != COUNTER or proposal.delivery == "posted")
    ]


def _pending(row: OutboxRow) -> Pending:
    message = ENDINGS[row.payload["happening"]] if row.kind == ENDING else MESSAGES[row.kind]
    return Pending(message, row.created_ns, row.attempts)
