"""Agreements created and listed, and their events read.

docs/protocol/market.md §3.4. How they come into force is in `handshake`, how they end in `endings`.
"""

from dataclasses import dataclass
from typing import Final

from shem.kernel.caller import Caller
from shem.kernel.errors import Conflict, UsageError
from shem.kernel.ids import AgreementId, NodeId, ProposalId
from shem.market.agreement_rows import (
    free_agreement_id,
    list_entries,
    load_events,
    new_agreement,
    proposal_has_agreement,
    save_agreement,
)
from shem.market.context import Context
from shem.market.ids import Role
from shem.market.proposal_rows import acted_on, load_proposal, update_proposal
from shem.market.records import AgreementEntry, AgreementEvent, Proposal, agreements_topic
from shem.market.states import PROPOSAL_TRANSITIONS, AgreementState, ProposalInput, ProposalState
from shem.permissions.decide import NODE, Action, decide
from shem.store.unit import Fetch

LISTED_MAX: Final = 10_000
"""Agreements in one list, the latest first."""


SHOWN_AS: Final[dict[AgreementState, str]] = {
    AgreementState.PROPOSAL: "state = 'Proposal' AND valid_to_ns > :now_ns",
    AgreementState.PENDING: (
        "(state = 'Approving' OR (state = 'Pending' AND valid_to_ns > :now_ns))"
    ),
    AgreementState.EXPIRED: (
        "(state = 'Expired' OR (state IN ('Proposal', 'Pending') AND valid_to_ns <= :now_ns))"
    ),
    **{
        state: f"state = '{state}'"
        for state in (
            AgreementState.CANCELLED,
            AgreementState.REJECTED,
            AgreementState.APPROVED,
            AgreementState.TERMINATED,
        )
    },
}
"""Which rows show a state now, by the rule of `states.at`."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which agreements a list shows."""

    state: AgreementState | None = None
    before_ns: int | None = None
    after_ns: int | None = None
    app_session_id: str | None = None
    oldest_first: bool = False
    limit: int = LISTED_MAX


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
        acted_on(unit, proposal=promoted)
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


async def list_of(
    context: Context, identity: NodeId | None, wanted: Filter
) -> list[AgreementEntry]:
    """Return the agreements of an identity (None: of all), in either role."""
    conditions, params = _conditions(wanted, context.now_ns())
    if identity is not None:
        conditions.append("identity = :identity")
        params["identity"] = identity
    return await list_entries(
        context.store.fetch,
        f"{' AND '.join(conditions) or '1 = 1'}"
        f" ORDER BY created_ns {'ASC' if wanted.oldest_first else 'DESC'} LIMIT :most",
        most=min(wanted.limit, LISTED_MAX),
        **params,
    )


def _conditions(wanted: Filter, now_ns: int) -> tuple[list[str], dict[str, object]]:
    conditions: list[str] = []
    params: dict[str, object] = {}
    if wanted.before_ns is not None:
        conditions.append("created_ns < :before_ns")
        params["before_ns"] = wanted.before_ns
    if wanted.after_ns is not None:
        conditions.append("created_ns > :after_ns")
        params["after_ns"] = wanted.after_ns
    if wanted.app_session_id is not None:
        conditions.append("app_session_id = :app_session_id")
        params["app_session_id"] = wanted.app_session_id
    if wanted.state is not None:
        conditions.append(SHOWN_AS[wanted.state])
        if ":now_ns" in SHOWN_AS[wanted.state]:
            params["now_ns"] = now_ns
    return conditions, params


async def events_after(
    context: Context,
    identity: NodeId,
    *,
    after_ns: int,
    session: str | None,
    timeout_s: float,
    most: int,
) -> list[AgreementEvent]:
    """Return an identity's agreement events after a cursor, waiting for the first."""
    topics = context.store.topics
    topic = agreements_topic(identity)
    deadline = context.world.clock.monotonic() + timeout_s
    while True:
        version = topics.version(topic)
        events = await load_events(context.store.fetch, identity, after_ns, session, most)
        left = deadline - context.world.clock.monotonic()
        if events or left <= 0 or not await topics.changed(topic, version, left):
            return events
