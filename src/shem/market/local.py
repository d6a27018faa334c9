"""What this node's own processes, the command line above all, ask about the market.

Bound under `/local`, so that no peer reaches it; whoever does may see and end everything of this
node, as whom it belongs to. Times are texts in UTC.
"""

from typing import Final

from shem.bus.types import Call
from shem.kernel import times
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import NotFound, ShemError, UsageError
from shem.market import agreements, pending
from shem.market.agreement_rows import load_agreements, load_log
from shem.market.agreements import Filter
from shem.market.context import Context
from shem.market.endings import Endings
from shem.market.forms import agreement_event_form, agreement_form, pending_form
from shem.market.ids import parse_agreement_id
from shem.market.properties import parse_text
from shem.market.proposal_rows import latest_proposals
from shem.market.records import DEMAND, OFFER, AgreementEntry, AgreementRow, Proposal, Subscription
from shem.market.states import AgreementState, at
from shem.market.subscription_rows import subscriptions_of_kind
from shem.permissions.decide import NODE, Action, decide

BASE: Final = "/local/shem/market"
LISTED_MAX: Final = 1_000
"""Rows of one list."""

Form = dict[str, object]


class LocalMarket:
    """Answers from the market's rows."""

    def __init__(self, context: Context, endings: Endings) -> None:
        self._context = context
        self._endings = endings
        for name, fn in (
            ("Subscriptions", self._subscriptions),
            ("Proposals", self._proposals),
            ("Agreements", self._agreements),
            ("Agreement", self._agreement),
            ("Terminate", self._terminate),
        ):
            context.bus.serve(f"{BASE}/{name}", fn, error=_error)

    async def _subscriptions(self, call: Call, body: object) -> object:
        wanted = self._read(call, body)
        kind = wanted.get("kind")
        if kind not in (OFFER, DEMAND):
            raise UsageError(f"{kind!r} is neither offer nor demand")
        found = await subscriptions_of_kind(
            self._context.store.fetch,
            str(kind),
            self._context.now_ns(),
            LISTED_MAX,
            own_only=wanted.get("all") is not True,
        )
        return [_subscription(item) for item in found]

    async def _proposals(self, call: Call, body: object) -> object:
        wanted = self._read(call, body)
        subscription_id = wanted.get("subscription")
        found = await latest_proposals(
            self._context.store.fetch,
            None if subscription_id is None else str(subscription_id),
            _limit(wanted),
        )
        return [
            _proposal(item) | pending_form(await pending.of_proposal(self._context, item))
            for item in found
        ]

    async def _agreements(self, call: Call, body: object) -> object:
        wanted = self._read(call, body)
        found = await agreements.list_of(
            self._context, None, Filter(state=_state(wanted), limit=_limit(wanted))
        )
        return [
            self._entry(item) | pending_form(await pending.of_agreement(self._context, item))
            for item in found
        ]

    async def _agreement(self, call: Call, body: object) -> object:
        wanted = self._read(call, body)
        found: list[Form] = []
        for row in await self._rows(wanted):
            events = await load_log(self._context.store.fetch, row.agreement_id, row.role)
            found.append(
                self._entry(row)
                | agreement_form(row, self._state_of(row), parse_text)
                | {"events": [agreement_event_form(event) for event in events]}
                | pending_form(await pending.of_agreement(self._context, row))
            )
        return found

    async def _terminate(self, call: Call, body: object) -> object:
        wanted = self._read(call, body)
        message = wanted.get("message")
        if not isinstance(message, str):
            raise UsageError("a termination needs a message")
        row = (await self._rows(wanted))[0]
        owner = Caller(row.identity, Assurance.LOCAL)
        await self._endings.terminate(owner, row.agreement_id, {"message": message})
        return None

    async def _rows(self, wanted: Form) -> list[AgreementRow]:
        agreement_id = parse_agreement_id(str(wanted.get("agreementId")))
        rows = await load_agreements(self._context.store.fetch, agreement_id)
        if not rows:
            raise NotFound(f"this node has no agreement {agreement_id}")
        return rows

    def _read(self, call: Call, body: object) -> Form:
        decide(call.caller, Action.NODE_CONTROL, NODE, now_ns=self._context.now_ns()).require()
        return body if isinstance(body, dict) else {}

    def _state_of(self, row: AgreementEntry | AgreementRow) -> AgreementState:
        return at(row.state, row.valid_to_ns, self._context.now_ns())

    def _entry(self, row: AgreementEntry | AgreementRow) -> Form:
        return {
            "id": row.agreement_id,
            "role": row.role,
            "identity": row.identity,
            "peer": row.peer,
            "state": self._state_of(row).shown,
            "created": times.to_rfc3339(row.created_ns),
            "approved": _moment(row.approved_ns),
            "expires": _moment(row.expires_ns),
            "session": row.app_session_id,
        }


def _subscription(item: Subscription) -> Form:
    return {
        "id": item.subscription_id,
        "identity": item.identity,
        "own": item.own,
        "created": times.to_rfc3339(item.created_ns),
        "expires": times.to_rfc3339(item.expires_ns),
        "properties": _parsed(item.properties),
        "constraints": item.constraints,
    }


def _proposal(item: Proposal) -> Form:
    return {
        "id": item.proposal_id,
        "subscription": item.subscription_id,
        "role": item.role,
        "peer": item.peer,
        "issuer": "us" if item.issuer == item.identity else "peer",
        "state": item.state,
        "created": times.to_rfc3339(item.created_ns),
        "countered": item.countered_by is not None,
    }


def _parsed(text: str) -> object:
    """Return properties as values; those of a peer may be no JSON."""
    try:
        return parse_text(text)
    except UsageError:
        return text


def _moment(ns: int | None) -> str | None:
    return None if ns is None else times.to_rfc3339(ns)


def _limit(wanted: Form) -> int:
    limit = wanted.get("limit", LISTED_MAX)
    if type(limit) is not int or not 1 <= limit <= LISTED_MAX:
        raise UsageError(f"a limit is between 1 and {LISTED_MAX}")
    return limit


def _state(wanted: Form) -> AgreementState | None:
    name = wanted.get("state")
    if name is None:
        return None
    known = {str(state).lower(): state for state in AgreementState}
    if (state := known.get(str(name).lower())) is None:
        raise UsageError(f"{name!r} is no agreement state")
    return state


def _error(error: ShemError) -> object:
    return {"message": error.message, "status": error.status}
