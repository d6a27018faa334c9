"""Agreements created, read and listed.

docs/protocol/market.md §3.4. How they come into force is in `handshake`, how they end in `endings`.
"""

from dataclasses import dataclass
from typing import Final

from shem.kernel.caller import Caller
from shem.kernel.errors import Conflict, UsageError
from shem.kernel.ids import AgreementId, ProposalId
from shem.market.agreement_access import state_of
from shem.market.agreement_rows import (
    free_agreement_id,
    list_agreements,
    new_agreement,
    proposal_has_agreement,
    save_agreement,
)
from shem.market.context import Context
from shem.market.ids import Role
from shem.market.proposal_rows import load_proposal, update_proposal
from shem.market.records import AgreementRow, Proposal
from shem.market.states import PROPOSAL_TRANSITIONS, AgreementState, ProposalInput, ProposalState
from shem.permissions.decide import NODE, Action, decide
from shem.store.unit import Fetch

LISTED_MAX: Final = 10_000
"""Agreements in one list, the latest first."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which agreements a list shows."""

    state: AgreementState | None = None
    before_ns: int | None = None
    after_ns: int | None = None
    app_session_id: str | None = None


async def create(
    context: Context, who: Caller, promoted: ProposalId, valid_to_ns: int
) -> AgreementId:
    """Promote the provider's last proposal to an agreement; nothing is sent yet."""
    decide(who, Action.NODE_NEGOTIATE, NODE, now_ns=context.now_ns()).require()
    async with context.store.unit(f"market.proposal:{promoted}") as unit:
        proposal, answered = await _promotable(unit.fetch, who, promoted)
        agreement_id, created_ns = await free_agreement_id(
            unit.fetch, proposal.offer_id, proposal.demand_id, context.now_ns()
        )
        row = new_agreement(
            agreement_id=agreement_id,
            role=Role.REQUESTOR,
            answered=answered,
            promoted=proposal,
            state=AgreementState.PROPOSAL,
            created_ns=created_ns,
            valid_to_ns=valid_to_ns,
            signature=None,
        )
        save_agreement(unit, row)
        accepted = PROPOSAL_TRANSITIONS[proposal.state, ProposalInput.ACCEPT]
        update_proposal(unit, promoted, accepted, proposal.reason)
    return agreement_id


async def _promotable(fetch: Fetch, who: Caller, promoted: ProposalId) -> tuple[Proposal, Proposal]:
    """Return the proposal and the one it answers, or say why there can be no agreement."""
    words = f"Can't create Agreement for Proposal [{promoted}]."
    proposal = await load_proposal(fetch, promoted)
    if proposal is None or proposal.identity != who.node_id or proposal.role is not Role.REQUESTOR:
        raise UsageError(f"{words} Proposal [{promoted}] not found.")
    if proposal.issuer == proposal.identity:
        raise UsageError(
            f"Can't create Agreement for an own Proposal [{promoted}]. "
            "You can promote only provider's Proposals to Agreement."
        )
    if proposal.prev_proposal_id is None:
        raise UsageError(
            f"{words} No negotiation with Provider took place. "
            "(You should counter Proposal at least one time)"
        )
    if await proposal_has_agreement(fetch, Role.REQUESTOR, promoted):
        raise Conflict(f"Can't create second Agreement for Proposal [{promoted}].")
    if proposal.state is ProposalState.REJECTED:
        raise UsageError(f"Can't create Agreement for rejected Proposal [{promoted}].")
    if proposal.countered_by is not None:
        raise UsageError(f"Can't create Agreement for already countered Proposal [{promoted}].")
    answered = await load_proposal(fetch, proposal.prev_proposal_id)
    if answered is None:
        raise UsageError(f"{words} Proposal [{proposal.prev_proposal_id}] not found.")
    return proposal, answered


async def list_of(context: Context, who: Caller, wanted: Filter) -> list[AgreementRow]:
    """Return the agreements of an identity, in either role."""
    rows = await list_agreements(
        context.store.fetch,
        "identity = :identity ORDER BY created_ns DESC LIMIT :most",
        identity=who.node_id,
        most=LISTED_MAX,
    )
    return [row for row in rows if _is_wanted(context, row, wanted)]


def _is_wanted(context: Context, row: AgreementRow, wanted: Filter) -> bool:
    return (
        (wanted.state is None or state_of(context, row).shown is wanted.state)
        and (wanted.before_ns is None or row.created_ns < wanted.before_ns)
        and (wanted.after_ns is None or row.created_ns > wanted.after_ns)
        and wanted.app_session_id in (None, row.app_session_id)
    )
