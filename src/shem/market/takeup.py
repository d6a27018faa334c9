"""A new machine takes up an agreement of its identity, of which it has no copy.

docs/adr/0008-who-is-right-about-an-agreement.md. A program that holds a ticket names agreement and
provider, so nothing is taken from a provider that nobody asked for. The provider's copy is fetched
with the question that every node answers (`GetAgreement`), and kept when it is one of ours with
that provider and its id is the hash of what it says. It is kept as in force; whether it has ended
meanwhile the usual comparison tells, with reason and terminator.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import structlog

from shem.bus.types import RemoteError
from shem.kernel import times
from shem.kernel.caller import Caller
from shem.kernel.errors import Conflict, NotFound, PeerError, ShemError
from shem.kernel.ids import AgreementId, NodeId, parse_node_id
from shem.market.agreement_access import READ, is_allowed
from shem.market.agreement_rows import load_agreement, log_event, save_agreement
from shem.market.agreement_states import ADDRESS
from shem.market.context import Context
from shem.market.ids import Role, negotiation_hash, parse_subscription_id, proposal_id
from shem.market.messages import GetAgreement
from shem.market.properties import Json, flat_text
from shem.market.records import AgreementRow
from shem.market.refusals import describe, find
from shem.market.states import AgreementState
from shem.market.terms import Terms

log = structlog.get_logger()

IN_FORCE: Final = frozenset({AgreementState.APPROVED, AgreementState.TERMINATED})
"""States that say it has been in force."""
ASK_TIMEOUT_S: Final = 5.0
"""The activity is asked for after it, and one call has to answer for both."""
TIME_MAX_NS: Final = (1 << 63) - 1

Compare = Callable[[NodeId], Awaitable[None]]


async def take_up(
    context: Context, who: Caller, agreement_id: AgreementId, provider: NodeId, compare: Compare
) -> AgreementRow:
    """Return the requestor's copy, fetched from the provider when there is none yet."""
    known = await load_agreement(context.store.fetch, agreement_id, Role.REQUESTOR)
    if known is None:
        row = _read(await _ask(context, who.node_id, agreement_id, provider), agreement_id)
        if (row.requestor, row.provider) != (who.node_id, provider):
            raise Conflict(
                f"agreement {agreement_id} is of requestor {row.requestor}"
                f" with provider {row.provider}: not of this identity with {provider}"
            )
        await _keep(context, row)
        await compare(provider)
        known = await load_agreement(context.store.fetch, agreement_id, Role.REQUESTOR)
        assert known is not None
    if known.provider != provider or not is_allowed(context, who, known, READ[Role.REQUESTOR]):
        raise NotFound(f"Agreement [{agreement_id}] not found.")
    return known


async def _ask(
    context: Context, own: NodeId, agreement_id: AgreementId, provider: NodeId
) -> dict[str, Any]:
    try:
        answer = await context.ask(
            own,
            provider,
            ADDRESS,
            GetAgreement(agreement_id, Role.PROVIDER),
            timeout_s=ASK_TIMEOUT_S,
        )
    except RemoteError as error:
        if find(error.payload, "notFound") is not None:
            words = f"provider {provider} knows no agreement {agreement_id} of this identity"
            raise NotFound(words) from error
        raise PeerError(f"the provider refused: {describe(error.payload)}") from error
    if not isinstance(answer, dict):
        raise PeerError("an Agreement is a map")
    return answer


async def _keep(context: Context, row: AgreementRow) -> None:
    async with context.store.unit(row.agreement_id) as unit:
        if await load_agreement(unit.fetch, row.agreement_id, Role.REQUESTOR) is None:
            save_agreement(unit, row)
            log_event(unit, row, AgreementState.APPROVED, now_ns=context.now_ns())
            log.info("market.taken_up", agreement=row.agreement_id, peer=row.provider)


def _read(answer: dict[str, Any], agreement_id: AgreementId) -> AgreementRow:
    """Return the row that the provider's words make, or refuse them."""
    try:
        row = _row(answer, agreement_id)
    except (PeerError, Conflict):
        raise
    except (KeyError, TypeError, ValueError, ShemError) as error:
        raise PeerError(f"the provider's agreement cannot be read: {error!r}") from error
    if negotiation_hash(row.offer_id, row.demand_id, row.created_ns) != agreement_id:
        raise PeerError(f"what the provider told is not agreement {agreement_id}")
    return row


def _row(answer: dict[str, Any], agreement_id: AgreementId) -> AgreementRow:
    demand, offer = answer["demand"], answer["offer"]
    state = AgreementState(answer["state"])
    if state not in IN_FORCE:
        raise Conflict(f"agreement {agreement_id} is {state} at the provider: not in force")
    offer_properties, demand_properties = _properties(offer), _properties(demand)
    terms = Terms.of(offer_properties, demand_properties)
    requestor = parse_node_id(demand["requestorId"])
    created_ns = _time(answer["timestamp"])
    return AgreementRow(
        agreement_id=agreement_id,
        role=Role.REQUESTOR,
        identity=requestor,
        requestor=requestor,
        provider=parse_node_id(offer["providerId"]),
        recipient=requestor,
        acceptor=requestor,
        payer=requestor,
        state=AgreementState.APPROVED,
        is_sent=True,
        proposal_id=proposal_id(Role.REQUESTOR, agreement_id),
        offer_id=parse_subscription_id(_text(offer["offerId"])),
        demand_id=parse_subscription_id(_text(demand["demandId"])),
        offer_properties=offer_properties,
        offer_constraints=_text(offer["constraints"]),
        demand_properties=demand_properties,
        demand_constraints=_text(demand["constraints"]),
        created_ns=created_ns,
        valid_to_ns=_time(answer["validTo"]),
        approved_ns=_time(answer.get("approvedDate") or answer["timestamp"]),
        app_session_id=None,
        proposed_signature=_signature(answer, "proposedSignature"),
        approved_signature=_signature(answer, "approvedSignature"),
        committed_signature=_signature(answer, "committedSignature"),
        platform=terms.platform,
        payee_address=terms.payee_address,
        payer_address=terms.payer_address,
        pricing_model=terms.pricing_model,
        pricing_coeffs=terms.pricing_coeffs,
        usage_vector=terms.usage_vector,
        expires_ns=terms.expires_ns,
    )


def _properties(side: dict[str, Any]) -> str:
    return flat_text(cast("Json", side["properties"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PeerError(f"a text was expected, not {type(value).__name__}")
    return value


def _time(value: str) -> int:
    moment_ns = times.parse(value)
    if moment_ns > TIME_MAX_NS:
        raise PeerError(f"{value} is too far away")
    return moment_ns


def _signature(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return None if value is None else _text(value)
