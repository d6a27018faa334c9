"""Statements on proposals and on the queues of negotiation events."""

from shem.kernel.ids import NodeId, ProposalId, SubscriptionId
from shem.market.ids import Role, negotiation_hash, proposal_id
from shem.market.records import Proposal, negotiation_topic, values_of
from shem.market.states import ProposalState
from shem.store.unit import Fetch, Row, Unit


async def load_proposal(fetch: Fetch, wanted: str) -> Proposal | None:
    rows = await fetch("SELECT * FROM proposal WHERE proposal_id = :id LIMIT 1", id=wanted)
    return _proposal(rows[0]) if rows else None


async def latest_proposals(fetch: Fetch, subscription_id: str | None, most: int) -> list[Proposal]:
    """Return the proposals of a subscription, or of all, the latest first."""
    condition = "" if subscription_id is None else " WHERE subscription_id = :subscription_id"
    rows = await fetch(
        f"SELECT * FROM proposal{condition} ORDER BY created_ns DESC LIMIT :most",
        most=most,
        **({} if subscription_id is None else {"subscription_id": subscription_id}),
    )
    return [_proposal(row) for row in rows]


async def pair_is_known(fetch: Fetch, offer_id: str, demand_id: str) -> bool:
    """Say whether the requestor's side has proposed this pair before."""
    rows = await fetch(
        "SELECT proposal_id FROM proposal WHERE offer_id = :offer AND demand_id = :demand"
        " AND role = 'Requestor' LIMIT 1",
        offer=offer_id,
        demand=demand_id,
    )
    return bool(rows)


async def free_proposal_id(
    fetch: Fetch,
    role: Role,
    offer_id: SubscriptionId,
    demand_id: SubscriptionId,
    now_ns: int,
    *taken: str,
) -> tuple[ProposalId, int]:
    """Return an id nobody has yet and the creation time that makes it.

    Times are hashed without their seconds, so two proposals of one pair can meet.
    """
    while True:
        found = proposal_id(role, negotiation_hash(offer_id, demand_id, now_ns))
        if found not in taken and await load_proposal(fetch, found) is None:
            return found, now_ns
        now_ns += 1


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


def update_proposal(unit: Unit, changed: str, state: ProposalState, reason: str | None) -> None:
    unit.execute(
        "UPDATE proposal SET state = :state, reason = :reason WHERE proposal_id = :id",
        expect=1,
        id=changed,
        state=state,
        reason=reason,
    )


def mark_countered(unit: Unit, countered: str, by: str | None, state: ProposalState) -> None:
    """Name the one counter of a proposal; None frees it for another."""
    unit.execute(
        "UPDATE proposal SET countered_by = :by, state = :state WHERE proposal_id = :id",
        expect=1,
        id=countered,
        by=by,
        state=state,
    )


def mark_delivery(unit: Unit, sent: str, delivery: str) -> None:
    unit.execute(
        "UPDATE proposal SET delivery = :delivery WHERE proposal_id = :id",
        id=sent,
        delivery=delivery,
    )


def acted_on(unit: Unit, *, proposal: str | None = None, agreement_id: str | None = None) -> None:
    """Acknowledge the event that told of what the program now answers."""
    column, value = (
        ("agreement_id", agreement_id) if proposal is None else ("proposal_id", proposal)
    )
    kind = "agreement" if proposal is None else "proposal"
    unit.execute(
        f"DELETE FROM negotiation_event WHERE {column} = :value AND kind = '{kind}'", value=value
    )


async def count_events(fetch: Fetch, subscription_id: str) -> int:
    rows = await fetch(
        "SELECT COUNT(*) AS pending FROM negotiation_event WHERE subscription_id = :id LIMIT 1",
        id=subscription_id,
    )
    return int(rows[0]["pending"])


def queue_event(
    unit: Unit,
    *,
    identity: NodeId,
    subscription_id: SubscriptionId,
    kind: str,
    now_ns: int,
    proposal: str | None = None,
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
        proposal_id=proposal,
        agreement_id=agreement_id,
        reason=reason,
        now_ns=now_ns,
    )
    unit.notify(negotiation_topic(subscription_id))
