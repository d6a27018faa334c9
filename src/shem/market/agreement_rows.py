"""Statements on agreements and their logs."""

from dataclasses import fields
from typing import Final

from shem.kernel import times
from shem.kernel.ids import AgreementId, NodeId, SubscriptionId
from shem.market.ids import Role, negotiation_hash
from shem.market.records import (
    IN_FORCE_TOPIC,
    AgreementEntry,
    AgreementEvent,
    AgreementRow,
    Proposal,
    agreement_topic,
    agreements_topic,
    values_of,
)
from shem.market.states import AgreementInput, AgreementState, after
from shem.market.terms import Terms
from shem.store.unit import Fetch, Row, Unit

EVENT_STEP_NS: Final = 1_000
"""Agreement events are dated in microseconds: clients parse no more."""


def _agreement(row: Row) -> AgreementRow:
    return AgreementRow(
        **{
            **row,
            "role": Role(row["role"]),
            "state": AgreementState(row["state"]),
            "is_sent": bool(row["is_sent"]),
        }
    )


async def load_agreements(fetch: Fetch, agreement_id: str) -> list[AgreementRow]:
    """Return the rows of both roles, as far as this node plays them."""
    rows = await fetch(
        "SELECT * FROM agreement WHERE agreement_id = :id ORDER BY role LIMIT 2", id=agreement_id
    )
    return [_agreement(row) for row in rows]


async def load_agreement(fetch: Fetch, agreement_id: str, role: Role) -> AgreementRow | None:
    found = await load_agreements(fetch, agreement_id)
    return next((row for row in found if row.role is role), None)


async def list_agreements(fetch: Fetch, where: str, **params: object) -> list[AgreementRow]:
    """Return agreements by a condition of this package; the caller bounds it with a LIMIT."""
    return [
        _agreement(row) for row in await fetch(f"SELECT * FROM agreement WHERE {where}", **params)
    ]


async def list_entries(fetch: Fetch, where: str, **params: object) -> list[AgreementEntry]:
    """Return the short form of agreements, by a condition of this package with its LIMIT."""
    names = ", ".join(field.name for field in fields(AgreementEntry))
    rows = await fetch(f"SELECT {names} FROM agreement WHERE {where}", **params)
    return [
        AgreementEntry(**{**row, "role": Role(row["role"]), "state": AgreementState(row["state"])})
        for row in rows
    ]


_LIVE: Final = (
    "state IN ('Proposal', 'Pending', 'Approving', 'Approved')"
    " AND (state <> 'Proposal' OR is_sent = 1)"
)
"""What a peer may have a copy of, and that has not ended."""
LIVE_MAX: Final = 1_000
"""Live agreements with one peer that are compared with its copies, the latest first."""


async def live_with(fetch: Fetch, peer: NodeId) -> list[AgreementEntry]:
    """Return the live agreements with a peer, those of one identity and role together."""
    found: list[AgreementEntry] = []
    for role, column in ((Role.REQUESTOR, "provider"), (Role.PROVIDER, "requestor")):
        found += await list_entries(
            fetch,
            f"{_LIVE} AND {column} = :peer AND role = :role"
            " ORDER BY identity, created_ns DESC LIMIT :most",
            peer=peer,
            role=role,
            most=LIVE_MAX,
        )
    return found


async def live_peers(fetch: Fetch, most: int) -> list[NodeId]:
    """Return the peers with whom agreements live."""
    rows = await fetch(
        "SELECT DISTINCT CASE WHEN role = 'Requestor' THEN provider ELSE requestor END AS peer"
        f" FROM agreement WHERE {_LIVE} LIMIT :most",
        most=most,
    )
    return [row["peer"] for row in rows]


async def proposal_has_agreement(fetch: Fetch, role: Role, proposal_id: str) -> bool:
    rows = await fetch(
        "SELECT agreement_id FROM agreement WHERE role = :role AND proposal_id = :proposal LIMIT 1",
        role=role,
        proposal=proposal_id,
    )
    return bool(rows)


async def free_agreement_id(
    fetch: Fetch, offer_id: SubscriptionId, demand_id: SubscriptionId, now_ns: int
) -> tuple[AgreementId, int]:
    """Return an id nobody has yet and the creation time that makes it."""
    while True:
        found = AgreementId(negotiation_hash(offer_id, demand_id, now_ns))
        if not await load_agreements(fetch, found):
            return found, now_ns
        now_ns += 1


def new_agreement(
    *,
    agreement_id: AgreementId,
    role: Role,
    answered: Proposal,
    promoted: Proposal,
    state: AgreementState,
    created_ns: int,
    valid_to_ns: int,
    signature: str | None,
) -> AgreementRow:
    """Return an agreement on the provider's `promoted` proposal and what it answers."""
    terms = Terms.of(promoted.properties, answered.properties)
    return AgreementRow(
        agreement_id=agreement_id,
        role=role,
        identity=promoted.identity,
        requestor=promoted.requestor,
        provider=promoted.provider,
        recipient=promoted.requestor,
        acceptor=promoted.requestor,
        payer=promoted.requestor,
        state=state,
        is_sent=role is Role.PROVIDER,
        proposal_id=promoted.proposal_id,
        offer_id=promoted.offer_id,
        demand_id=promoted.demand_id,
        offer_properties=promoted.properties,
        offer_constraints=promoted.constraints,
        demand_properties=answered.properties,
        demand_constraints=answered.constraints,
        created_ns=created_ns,
        valid_to_ns=valid_to_ns,
        approved_ns=None,
        app_session_id=None,
        proposed_signature=signature,
        approved_signature=None,
        committed_signature=None,
        platform=terms.platform,
        payee_address=terms.payee_address,
        payer_address=terms.payer_address,
        pricing_model=terms.pricing_model,
        pricing_coeffs=terms.pricing_coeffs,
        usage_vector=terms.usage_vector,
        expires_ns=terms.expires_ns,
    )


def save_agreement(unit: Unit, item: AgreementRow) -> None:
    names = [field.name for field in fields(item)]
    unit.execute(
        f"INSERT INTO agreement ({', '.join(names)})"
        f" VALUES ({', '.join(':' + name for name in names)})",
        **values_of(item),
    )
    _notify_agreement(unit, item)


def move_agreement(
    unit: Unit,
    row: AgreementRow,
    happening: AgreementInput,
    *,
    seen_as: AgreementState | None = None,
    **columns: object,
) -> AgreementState:
    """Let `happening` happen to the agreement, or refuse; further columns change with it.

    `seen_as` is the state the agreement is known to be in when the row lags behind.
    """
    following = after(seen_as or row.state, happening)
    set_agreement(unit, row, state=following, **columns)
    return following


def set_agreement(unit: Unit, row: AgreementRow, **columns: object) -> None:
    unit.execute(
        f"UPDATE agreement SET {', '.join(f'{name} = :{name}' for name in columns)}"
        " WHERE agreement_id = :agreement_id AND role = :role AND state = :old_state",
        expect=1,
        agreement_id=row.agreement_id,
        role=row.role,
        old_state=row.state,
        **columns,
    )
    _notify_agreement(unit, row)


def _notify_agreement(unit: Unit, row: AgreementRow) -> None:
    unit.notify(agreement_topic(row.agreement_id))


def log_event(
    unit: Unit,
    row: AgreementRow,
    kind: AgreementState,
    *,
    now_ns: int,
    terminator: Role | None = None,
    reason: str | None = None,
    app_session_id: str | None = None,
) -> None:
    """Append to the agreement's log; its date exceeds all earlier ones of the identity."""
    unit.serialise(agreements_topic(row.identity))
    unit.execute(
        "INSERT INTO agreement_event (agreement_id, role, seq, identity, kind, event_ns,"
        " app_session_id, terminator, reason) SELECT :agreement_id, :role,"
        " (SELECT COALESCE(MAX(seq), 0) + 1 FROM agreement_event"
        "  WHERE agreement_id = :agreement_id AND role = :role),"
        " :identity, :kind,"
        " CASE WHEN last_ns >= :now_ns THEN last_ns + :step_ns ELSE :now_ns END,"
        " :app_session_id, :terminator, :reason"
        " FROM (SELECT COALESCE(MAX(event_ns), 0) AS last_ns FROM agreement_event"
        "  WHERE identity = :identity) AS latest"
        " WHERE TRUE ON CONFLICT (agreement_id, role, kind) DO NOTHING",
        agreement_id=row.agreement_id,
        role=row.role,
        identity=row.identity,
        kind=kind,
        now_ns=times.truncate_to_us(now_ns),
        step_ns=EVENT_STEP_NS,
        app_session_id=app_session_id or row.app_session_id,
        terminator=terminator,
        reason=reason,
    )
    unit.notify(agreements_topic(row.identity))
    if kind is AgreementState.APPROVED:
        unit.notify(IN_FORCE_TOPIC)


async def load_events(
    fetch: Fetch, identity: NodeId, after_ns: int, session: str | None, most: int
) -> list[AgreementEvent]:
    """Return an identity's agreement events after a cursor, oldest first."""
    condition = "" if session is None else " AND app_session_id = :session"
    rows = await fetch(
        "SELECT * FROM agreement_event WHERE identity = :identity AND event_ns > :after_ns"
        f"{condition} ORDER BY event_ns LIMIT :most",
        identity=identity,
        after_ns=after_ns,
        most=most,
        **({} if session is None else {"session": session}),
    )
    return [_agreement_event(row) for row in rows]


async def load_log(fetch: Fetch, agreement_id: str, role: Role) -> list[AgreementEvent]:
    rows = await fetch(
        "SELECT * FROM agreement_event WHERE agreement_id = :id AND role = :role"
        " ORDER BY seq LIMIT 100",
        id=agreement_id,
        role=role,
    )
    return [_agreement_event(row) for row in rows]


def _agreement_event(row: Row) -> AgreementEvent:
    return AgreementEvent(
        **{
            **row,
            "role": Role(row["role"]),
            "kind": AgreementState(row["kind"]),
            "terminator": None if row["terminator"] is None else Role(row["terminator"]),
        }
    )
