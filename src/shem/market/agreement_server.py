"""What parties may ask about agreements over the bus: `GetAgreement`, `ListAgreements`.

docs/protocol/market.md §5.3. A process of this node is told everything; another node only of the
agreements it is a party to, and to it the others do not exist.
"""

from typing import Final

from shem.bus.types import Call
from shem.kernel import times
from shem.kernel.errors import NotFound, ShemError, UsageError
from shem.market.agreement_access import READ, is_allowed, state_of
from shem.market.agreement_rows import list_agreements, load_agreement
from shem.market.context import Context
from shem.market.forms import agreement_entry, agreement_form
from shem.market.ids import Role, parse_agreement_id
from shem.market.messages import PUBLIC, GetAgreement, decode
from shem.market.properties import parse_text
from shem.market.states import AgreementState

LISTED_MAX: Final = 1_000
_PARTY: Final = "(requestor = :party OR provider = :party)"


def serve(context: Context) -> None:
    """Bind the public endpoints."""

    async def get(call: Call, body: object) -> object:
        request = decode(GetAgreement, body)
        agreement_id = parse_agreement_id(request.agreement_id)
        role = _role(request.role)
        row = await load_agreement(context.store.fetch, agreement_id, role)
        allowed = row is not None and (
            call.caller.is_local
            or is_allowed(context, call.caller, row, READ[Role.REQUESTOR])
            or is_allowed(context, call.caller, row, READ[Role.PROVIDER])
        )
        if row is None or not allowed:
            raise NotFound(request.agreement_id)
        return agreement_form(row, state_of(context, row), parse_text)

    async def list_(call: Call, body: object) -> object:
        wanted = body if isinstance(body, dict) else {}
        state = _state(wanted.get("state"))
        before_ns, after_ns = _time(wanted.get("beforeDate")), _time(wanted.get("afterDate"))
        session = wanted.get("appSessionId")
        rows = await list_agreements(
            context.store.fetch,
            f"{'1 = 1' if call.caller.is_local else _PARTY} ORDER BY created_ns DESC LIMIT :most",
            most=LISTED_MAX,
            **({} if call.caller.is_local else {"party": call.caller.node_id}),
        )
        return [
            agreement_entry(row)
            for row in rows
            if (state is None or state_of(context, row).shown is state)
            and (before_ns is None or row.created_ns < before_ns)
            and (after_ns is None or row.created_ns > after_ns)
            and session in (None, row.app_session_id)
        ]

    context.bus.serve(f"{PUBLIC}/GetAgreement", get, error=_error)
    context.bus.serve(f"{PUBLIC}/ListAgreements", list_, error=_error)


def _error(error: ShemError) -> object:
    name = {400: "badRequest", 403: "forbidden", 404: "notFound"}.get(error.status, "market")
    return {name: error.message}


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no role") from error


def _state(value: object) -> AgreementState | None:
    if value is None:
        return None
    if value not in set(AgreementState):
        raise UsageError(f"{value!r} is no agreement state")
    return AgreementState(str(value))


def _time(value: object) -> int | None:
    return None if value is None else times.parse(str(value))
