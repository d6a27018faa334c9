"""Agreement messages of peers.

docs/protocol/market.md §6.5. Every message is bound to the caller as the net proved it and decided
by `permissions.decide`; to anyone but the entitled party the agreement does not exist. A message
that comes again is answered Ok again and changes nothing.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from functools import partial
from typing import Final

from shem.bus.typed import Serve, typed
from shem.bus.types import Call, Reply
from shem.market.agreement_access import TERMINATE, is_allowed, state_of
from shem.market.agreement_outbound import approval_answer, post_commit
from shem.market.agreement_rows import (
    load_agreement,
    log_event,
    move_agreement,
    new_agreement,
    proposal_has_agreement,
    save_agreement,
    set_agreement,
)
from shem.market.context import Context
from shem.market.endings import Endings
from shem.market.ids import Role, bare, for_role, lettered, negotiation_hash
from shem.market.messages import (
    NO_SIGNATURE,
    PROVIDER_AGREEMENT,
    REQUESTOR_AGREEMENT,
    AgreementApproved,
    AgreementCancelled,
    AgreementCommitted,
    AgreementReceived,
    AgreementRejected,
    AgreementTerminated,
    Reason,
    decode,
)
from shem.market.proposal_rows import load_proposal, queue_event, update_proposal
from shem.market.records import AgreementRow, Proposal
from shem.market.refusals import (
    error_value,
    remote_agreement,
    remote_agreement_state,
    remote_commit,
    remote_propose,
)
from shem.market.states import (
    AGREEMENT_TRANSITIONS,
    PROPOSAL_TRANSITIONS,
    TARGETS,
    AgreementInput,
    AgreementState,
    ProposalInput,
)
from shem.permissions.decide import Action
from shem.store.unit import Unit

APPROVAL_MARGIN_NS: Final = 30_000_000
"""An agreement that is valid for less is too late to be approved."""
_S = AgreementState
_NOT_SAVED: Final = {"Unexpected": {"public_msg": "Failed to save Agreement.", "original_msg": ""}}


class AgreementInbound:
    """Serves the two agreement addresses."""

    def __init__(self, context: Context, endings: Endings) -> None:
        self._context = context
        self._endings = endings
        provider, requestor = f"/public{PROVIDER_AGREEMENT}", f"/public{REQUESTOR_AGREEMENT}"
        for address, fn in (
            (f"{provider}/AgreementReceived", self._received),
            (f"{provider}/AgreementCommitted", self._committed),
            (f"{provider}/AgreementCancelled", self._cancelled),
            (f"{provider}/AgreementTerminated", self._terminated(Role.PROVIDER)),
            (f"{requestor}/AgreementRejected", self._rejected),
            (f"{requestor}/AgreementTerminated", self._terminated(Role.REQUESTOR)),
        ):
            context.bus.serve(address, fn, error=error_value)
        context.bus.attach(f"{requestor}/AgreementApproved", self._answer_approval)

    # --- served as the provider ---

    async def _received(self, call: Call, body: object) -> object:
        message = decode(AgreementReceived, body)
        name = for_role(message.agreement_id, Role.PROVIDER)
        promoted_id = for_role(message.proposal_id, Role.PROVIDER)
        async with self._context.store.unit(f"market.proposal:{promoted_id}") as unit:
            promoted = await load_proposal(unit.fetch, promoted_id)
            if promoted is None or call.caller.node_id != promoted.requestor:
                raise remote_propose({"NotFound": promoted_id}, name)
            expected = negotiation_hash(promoted.offer_id, promoted.demand_id, message.created_ns)
            if name[2:] != expected:
                raise remote_propose({"InvalidId": name}, name)
            if await _is_repeat(unit, message, promoted):
                return None
            answered = await _answered(unit, promoted, name)
            accepted = PROPOSAL_TRANSITIONS.get((promoted.state, ProposalInput.ACCEPT))
            if accepted is None or await proposal_has_agreement(
                unit.fetch, Role.PROVIDER, promoted_id
            ):
                raise remote_propose(_NOT_SAVED, name)
            row = new_agreement(
                agreement_id=bare(name),
                role=Role.PROVIDER,
                answered=answered,
                promoted=promoted,
                state=_S.PENDING,
                created_ns=message.created_ns,
                valid_to_ns=message.valid_to_ns,
                signature=message.signature,
            )
            save_agreement(unit, row)
            update_proposal(unit, promoted_id, accepted, promoted.reason)
            queue_event(
                unit,
                identity=row.identity,
                subscription_id=row.offer_id,
                kind="agreement",
                now_ns=self._context.now_ns(),
                agreement_id=row.agreement_id,
            )
        return None

    async def _committed(self, call: Call, body: object) -> object:
        message = decode(AgreementCommitted, body)
        name = for_role(message.agreement_id, Role.PROVIDER)
        async with self._context.store.unit(bare(name)) as unit:
            row = await self._load(unit, call, name, Role.PROVIDER, Action.CONFIRM_AGREEMENT)
            if row is None:
                raise remote_commit("NotFound", name)
            state = state_of(self._context, row)
            if state in (_S.APPROVED, _S.TERMINATED):
                return None
            if (state, AgreementInput.COMMIT) not in AGREEMENT_TRANSITIONS:
                ended = state in (_S.CANCELLED, _S.EXPIRED)
                raise remote_commit(str(state) if ended else {"InvalidState": str(state)}, name)
            move_agreement(unit, row, AgreementInput.COMMIT, committed_signature=message.signature)
            log_event(unit, row, _S.APPROVED, now_ns=self._context.now_ns())
        return None

    async def _cancelled(self, call: Call, body: object) -> object:
        message = decode(AgreementCancelled, body)
        name = for_role(message.agreement_id, Role.PROVIDER)
        await self._end(
            call,
            name,
            Role.PROVIDER,
            Action.CANCEL_AGREEMENT,
            AgreementInput.CANCEL,
            reason=message.reason,
        )
        return None

    # --- served as the requestor ---

    async def _answer_approval(self, call: Call) -> AsyncGenerator[Reply, None]:
        """Take an approval; the commit that it calls for waits until our answer has left."""
        with ExitStack() as answered:
            handler = typed(partial(self._approved, answered), error_value)
            yield Reply(await handler(call), final=True)

    async def _approved(self, answered: ExitStack, call: Call, body: object) -> object:
        message = decode(AgreementApproved, body)
        name = for_role(message.agreement_id, Role.REQUESTOR)
        async with self._context.store.unit(bare(name)) as unit:
            row = await self._load(unit, call, name, Role.REQUESTOR, Action.PROV_APPROVE_AGREEMENT)
            if row is None:
                raise remote_agreement("NotFound", name)
            leaving = self._context.answers.leaving(approval_answer(row.agreement_id))
            answered.enter_context(leaving)
            state = state_of(self._context, row)
            if state in (_S.APPROVING, _S.APPROVED) and row.approved_ns == message.approved_ns:
                return None
            is_open = state in (_S.PENDING, _S.APPROVING) or (state is _S.PROPOSAL and row.is_sent)
            if state is _S.EXPIRED or (
                is_open and row.valid_to_ns <= self._context.now_ns() + APPROVAL_MARGIN_NS
            ):
                raise remote_agreement("Expired", name)
            if not is_open:
                raise remote_agreement_state(state, name)
            # In `Proposal` the provider's approval overtook its answer to our confirmation; in
            # `Approving` the provider gave its first approval up and approves anew.
            set_agreement(
                unit,
                row,
                state=_S.APPROVING,
                approved_ns=message.approved_ns,
                approved_signature=NO_SIGNATURE,
            )
            post_commit(unit, row, message.approved_ns, self._context.now_ns())
        return None

    async def _rejected(self, call: Call, body: object) -> object:
        message = decode(AgreementRejected, body)
        name = for_role(message.agreement_id, Role.REQUESTOR)
        await self._end(
            call,
            name,
            Role.REQUESTOR,
            Action.PROV_REJECT_AGREEMENT,
            AgreementInput.REJECT,
            reason=message.reason,
        )
        return None

    # --- both ---

    def _terminated(self, role: Role) -> Serve:
        async def terminated(call: Call, body: object) -> object:
            message = decode(AgreementTerminated, body)
            name = for_role(message.agreement_id, role)
            await self._end(
                call,
                name,
                role,
                TERMINATE[role.other],
                AgreementInput.TERMINATE,
                reason=message.reason,
            )
            return None

        return terminated

    async def _end(
        self,
        call: Call,
        name: str,
        role: Role,
        action: Action,
        happening: AgreementInput,
        *,
        reason: Reason | None,
    ) -> None:
        """Take the other party's word that the agreement has ended."""
        async with self._context.store.unit(bare(name)) as unit:
            row = await self._load(unit, call, name, role, action)
            if row is None:
                raise remote_agreement("NotFound", name)
            if row.state is TARGETS[happening]:
                return
            seen_as = _seen_as(row, state_of(self._context, row), happening)
            if (seen_as, happening) not in AGREEMENT_TRANSITIONS:
                raise remote_agreement_state(seen_as, name)
            if seen_as is _S.APPROVED and row.state is _S.APPROVING:
                log_event(unit, row, _S.APPROVED, now_ns=self._context.now_ns())
            terminator = role.other if happening is AgreementInput.TERMINATE else None
            await self._endings.apply(
                unit, row, happening, reason=reason, terminator=terminator, seen_as=seen_as
            )

    async def _load(
        self, unit: Unit, call: Call, name: str, role: Role, action: Action
    ) -> AgreementRow | None:
        """Return the agreement when the caller may do `action` to it."""
        row = await load_agreement(unit.fetch, bare(name), role)
        if row is None or not is_allowed(self._context, call.caller, row, action):
            return None
        return row


def _seen_as(row: AgreementRow, state: AgreementState, happening: AgreementInput) -> AgreementState:
    """Return the state that the provider's word proves the agreement to have reached.

    It cannot reject what it has not received, nor terminate what we have not committed to: our own
    row may merely lag behind, because an answer of the provider was lost.
    """
    if row.role is Role.REQUESTOR:
        if state is _S.PROPOSAL and row.is_sent and happening is AgreementInput.REJECT:
            return _S.PENDING
        if state is _S.APPROVING and happening is AgreementInput.TERMINATE:
            return _S.APPROVED
    return state


async def _answered(unit: Unit, promoted: Proposal, name: str) -> Proposal:
    """Return the requestor's proposal that the promoted one answers."""
    if promoted.issuer != promoted.identity:
        raise remote_propose({"RequestorOwn": promoted.proposal_id}, name)
    if promoted.prev_proposal_id is None:
        raise remote_propose({"NoNegotiations": promoted.proposal_id}, name)
    if promoted.countered_by is not None:
        raise remote_propose({"AlreadyCountered": promoted.proposal_id}, name)
    answered = await load_proposal(unit.fetch, promoted.prev_proposal_id)
    if answered is None:
        raise remote_propose({"NotFound": promoted.prev_proposal_id}, name)
    return answered


async def _is_repeat(unit: Unit, message: AgreementReceived, promoted: Proposal) -> bool:
    known = await load_agreement(unit.fetch, bare(message.agreement_id), Role.PROVIDER)
    if known is None:
        return False
    if (known.proposal_id, known.valid_to_ns) != (promoted.proposal_id, message.valid_to_ns):
        raise remote_propose(_NOT_SAVED, lettered(known.agreement_id, Role.PROVIDER))
    return True
