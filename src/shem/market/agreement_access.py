"""Whose agreement it is: rows found for a caller, and the one question asked before each act.

docs/protocol/market.md §3.2. An agreement that is none of the caller's does not exist for it.
"""

from typing import Final

from shem.kernel.caller import Caller
from shem.kernel.errors import NotFound
from shem.kernel.ids import AgreementId
from shem.market.agreement_rows import load_agreement, load_agreements
from shem.market.context import Context
from shem.market.ids import Role, lettered
from shem.market.records import AgreementRow
from shem.market.states import AgreementInput, AgreementState, after, at
from shem.permissions.decide import Action, Resource, decide

READ: Final = {
    Role.REQUESTOR: Action.GET_AGREEMENT,
    Role.PROVIDER: Action.PROV_GET_AGREEMENT,
}
TERMINATE: Final = {
    Role.REQUESTOR: Action.TERMINATE_AGREEMENT,
    Role.PROVIDER: Action.PROV_TERMINATE_AGREEMENT,
}


def is_allowed(context: Context, who: Caller, row: AgreementRow, action: Action) -> bool:
    """Ask whether the caller may do `action` to the agreement."""
    resource = Resource(row.agreement_id, row.requestor, row.provider)
    return decide(who, action, resource, now_ns=context.now_ns()).allowed


async def row_for(
    context: Context, who: Caller, agreement_id: AgreementId, role: Role, action: Action
) -> AgreementRow:
    """Return our row of one role for a caller who may do `action`; else NotFound."""
    row = await load_agreement(context.store.fetch, agreement_id, role)
    if row is None or not is_allowed(context, who, row, action):
        raise NotFound(f"Agreement [{lettered(agreement_id, role)}] not found.")
    return row


async def row_of_party(context: Context, who: Caller, agreement_id: AgreementId) -> AgreementRow:
    """Return the row of the role that the caller plays in the agreement; else NotFound."""
    for row in await load_agreements(context.store.fetch, agreement_id):
        if row.identity == who.node_id and is_allowed(context, who, row, READ[row.role]):
            return row
    raise NotFound(f"Agreement [{agreement_id}] not found.")


def state_of(context: Context, row: AgreementRow) -> AgreementState:
    """Return the state now, `validTo` considered."""
    return at(row.state, row.valid_to_ns, context.now_ns())


def require_possible(context: Context, row: AgreementRow, happening: AgreementInput) -> None:
    """Refuse what the state does not allow, with the words clients key on."""
    after(state_of(context, row), happening)
