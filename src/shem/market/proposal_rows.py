"""Statements on proposals and on the queues of negotiation events."""

from shem.kernel.ids import NodeId, SubscriptionId
from shem.market.ids import Role
from shem.market.records import Proposal, negotiation_topic, values_of
from shem.market.states import ProposalState
from shem.store.unit import Fetch, Row, Unit


async def load_proposal(fetch: Fetch, proposal_id: str) -> Proposal | None:
    rows = await fetch("SELECT * FROM proposal WHERE proposal_id = :id LIMIT 1", id=proposal_id)
    return _proposal(rows[0]) if rows else None


async def pair_is_known(fetch: Fetch, offer_id: str, demand_id: str) -> bool:
    """Say whether the requestor's side has proposed this pair before."""
    rows = await fetch(
        "SELECT proposal_id FROM proposal WHERE offer_id = :offer AND demand_id = :demand"
        " AND role = 'Requestor' LIMIT 1",
        offer=offer_id,
        demand=demand_id,
    )
    return bool(rows)


def _proposal(row: Row) -> Proposal:
    return Proposal(**{**row, "role": Role(row["role"]), "state": ProposalState(row["state"])})


def save_proposal(unit: Unit, item: Proposal) -> None:
    unit.execute(
        "INSERT INTO proposal (proposal_id, identity, role, subscription_id, offer_id, demand_id,"
        " requestor, provider, issuer, prev_proposal_id, countered_by, state, reason, delivery,"
        " properties, constraints, created_ns, expires_ns) VALUES (:proposal_id, :identity, :role,"
        " :subscription_id, :offer_id, :demand_id, :requestor, :provider, :issuer,"
        " :prev_proposal_id, :countered_by, :state, :reason, :delivery, :properties, :constraints,"
        " :created_ns, :expires_ns)",
        **values_of(item),
    )


def update_proposal(unit: Unit, proposal_id: str, state: ProposalState, reason: str | None) -> None:
    unit.execute(
        "UPDATE proposal SET state = :state, reason = :reason WHERE proposal_id = :id",
        expect=1,
        id=proposal_id,
        state=state,
        reason=reason,
    )


def mark_countered(unit: Unit, proposal_id: str, by: str | None, state: ProposalState) -> None:
    """Name the one counter of a proposal; None frees it for another."""
    unit.execute(
        "UPDATE proposal SET countered_by = :by, state = :state WHERE proposal_id = :id",
        expect=1,
        id=proposal_id,
        by=by,
        state=state,
    )


def mark_delivery(unit: Unit, proposal_id: str, delivery: str) -> None:
    unit.execute(
        "UPDATE proposal SET delivery = :delivery WHERE proposal_id = :id",
        id=proposal_id,
        delivery=delivery,
    )


def queue_event(
    unit: Unit,
    *,
    identity: NodeId,
    subscription_id: SubscriptionId,
    kind: str,
    now_ns: int,
    proposal_id: str | None = None,
    agreement_id: str | None = None,
    reason: str | None = None,
) -> None:
    """Append to a subscription's queue and wake its collectors."""
    unit.serialise(negotiation_topic(subscription_id))
    unit.execute(
        "INSERT INTO negotiation_event (identity, subscription_id, kind, proposal_id,"
        " agreement_id, reason, event_ns) VALUES (:identity, :subscription_id, :kind,"
        " :proposal_id, :agreement_id, :reason, :now_ns)",
        identity=identity,
        subscription_id=subscription_id,
        kind=kind,
        proposal_id=proposal_id,
        agreement_id=agreement_id,
        reason=reason,
        now_ns=now_ns,
    )
    unit.notify(negotiation_topic(subscription_id))
