"""Delivery of commits and endings to the other party.

docs/protocol/market.md §6.5, §8. Called by the outbox, at least once per message. A shem node takes
a repeat as the same; a legacy node answers one with an error, and is then asked for its own view.
"""

from typing import Final

import structlog

from shem.bus.types import GsbError, RemoteError
from shem.kernel.errors import PeerError, ShemError, TimedOut, Unreachable
from shem.kernel.ids import AgreementId
from shem.kernel.times import NS_PER_S
from shem.market.agreement_rows import load_agreement, log_event, move_agreement
from shem.market.context import Context
from shem.market.ids import Role, lettered
from shem.market.messages import (
    NO_SIGNATURE,
    NOT_SIGNED,
    PROVIDER_AGREEMENT,
    REQUESTOR_AGREEMENT,
    AgreementApproved,
    AgreementCancelled,
    AgreementCommitted,
    AgreementRejected,
    AgreementTerminated,
    GetAgreement,
    Reason,
)
from shem.market.records import AgreementRow
from shem.market.refusals import describe, find, reported_state
from shem.market.states import ENDED, TARGETS, AgreementInput, AgreementState
from shem.store.outbox import DONE, Drop, OutboxRow, Outcome, Retry
from shem.store.unit import Unit

log = structlog.get_logger()

COMMIT: Final = "market.commit"
APPROVAL: Final = "market.approval"
ENDING: Final = "market.ending"
ANSWER_LEAVES_S: Final = 0.05
"""A commit waits so long for our answer to the approval, which ought to leave before it."""
UNEXPECTED_ATTEMPTS_MAX: Final = 20
"""Then an error that is no answer counts as a refusal."""
ENDING_TOLD_NS: Final = 90 * 24 * 3600 * NS_PER_S
"""How long a peer is tried: as long as legacy nodes keep agreements."""
_WORDS: Final = {
    AgreementInput.CANCEL: ("approving", "Approve"),
    AgreementInput.REJECT: ("approving", "Approve"),
    AgreementInput.TERMINATE: ("terminating", "Terminate"),
}
"""The words of the real daemon, which misnames cancelling and rejecting."""
_IN_FORCE: Final = (AgreementState.APPROVED, AgreementState.TERMINATED)


def post_commit(unit: Unit, row: AgreementRow, approved_ns: int, now_ns: int) -> None:
    """Leave the commit that an approval calls for; one that comes again calls for another."""
    _post(unit, row, COMMIT, f"{row.agreement_id}:{approved_ns}:{now_ns}", {})


def post_ending(
    unit: Unit, row: AgreementRow, happening: AgreementInput, reason: Reason | None, now_ns: int
) -> None:
    """Leave the message that tells the other party of an ending."""
    payload: dict[str, object] = {"happening": happening, "reason": reason, "at_ns": now_ns}
    _post(unit, row, ENDING, f"{row.agreement_id}:{row.role}:{happening}", payload)


def post_approval(unit: Unit, row: AgreementRow, now_ns: int) -> None:
    """Leave an approval for a requestor who seems not to know that it committed."""
    _post(unit, row, APPROVAL, f"{row.agreement_id}:{row.approved_ns}:{now_ns}", {})


def lane_of(agreement_id: AgreementId) -> str:
    """Return the lane in which the messages about an agreement go out, one after another."""
    return f"agreement:{agreement_id}"


def approval_answer(agreement_id: AgreementId) -> str:
    """Return the key under which our answer to an approval leaves."""
    return f"approval:{agreement_id}"


def answer_key(row: AgreementRow, happening: AgreementInput) -> str:
    return f"{row.role}:{row.agreement_id}:{happening}"


def _post(unit: Unit, row: AgreementRow, kind: str, key: str, payload: dict[str, object]) -> None:
    unit.post(
        identity=row.identity,
        peer=row.peer,
        lane=lane_of(row.agreement_id),
        kind=kind,
        key=key,
        payload={"agreementId": row.agreement_id, "role": row.role, **payload},
    )


class AgreementOutbound:
    """Deliverers of the outbox, and the question for the peer's view."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.outbox.register(COMMIT, self._deliver_commit)
        context.outbox.register(APPROVAL, self._deliver_approval)
        context.outbox.register(ENDING, self._deliver_ending)

    async def state_at_peer(self, row: AgreementRow) -> AgreementState | None:
        """Return the state that the other party reports; None when it says nothing usable."""
        message = GetAgreement(row.agreement_id, row.role.other)
        try:
            answer = await self._context.ask(row.identity, row.peer, "/market", message)
        except ShemError:
            return None
        state = answer.get("state") if isinstance(answer, dict) else None
        return AgreementState(state) if state in set(AgreementState) else None

    # --- commit ---

    async def _deliver_commit(self, row: OutboxRow) -> Outcome:
        agreement = await self._load(row)
        if agreement is None or agreement.state is not AgreementState.APPROVING:
            return DONE  # settled otherwise
        await self._context.answers.has_left(
            approval_answer(agreement.agreement_id), ANSWER_LEAVES_S
        )
        message = AgreementCommitted(lettered(agreement.agreement_id, Role.REQUESTOR), NO_SIGNATURE)
        refusal: object | None = None
        try:
            await self._context.ask(agreement.identity, agreement.peer, PROVIDER_AGREEMENT, message)
        except RemoteError as error:
            if find(error.payload, "Unexpected") and row.attempts < UNEXPECTED_ATTEMPTS_MAX:
                return Retry(describe(error.payload))
            refusal = error.payload
        await self._settle_commit(agreement, refusal)
        return DONE

    async def _settle_commit(self, sent: AgreementRow, refusal: object | None) -> None:
        """Follow the provider: in force, or back to where it can be approved again."""
        in_force = refusal is None or reported_state(refusal) in _IN_FORCE
        happening = AgreementInput.COMMIT if in_force else AgreementInput.REVERT
        if find(refusal, "Expired") is not None:
            happening = AgreementInput.EXPIRE
        if not in_force:
            log.info(
                "market.commit_refused",
                agreement=sent.agreement_id,
                peer=sent.peer,
                reason=describe(refusal),
            )
        async with self._context.store.unit(sent.agreement_id) as unit:
            row = await load_agreement(unit.fetch, sent.agreement_id, sent.role)
            if row is None or row.state is not AgreementState.APPROVING:
                return
            if happening is AgreementInput.REVERT and row.approved_ns != sent.approved_ns:
                return  # approved anew meanwhile: the next commit decides
            if happening is AgreementInput.COMMIT:
                move_agreement(unit, row, happening, committed_signature=NO_SIGNATURE)
                log_event(unit, row, AgreementState.APPROVED, now_ns=self._context.now_ns())
            else:
                move_agreement(unit, row, happening)

    async def _deliver_approval(self, row: OutboxRow) -> Outcome:
        agreement = await self._load(row)
        if agreement is None or agreement.state is not AgreementState.APPROVED:
            return DONE  # settled otherwise
        if agreement.approved_ns is None:
            return Drop("it was never approved")
        name = lettered(agreement.agreement_id, Role.PROVIDER)
        message = AgreementApproved(name, NO_SIGNATURE, agreement.approved_ns)
        try:
            await self._context.ask(
                agreement.identity, agreement.peer, REQUESTOR_AGREEMENT, message
            )
        except RemoteError as error:
            log.info(
                "market.approval_refused",
                agreement=agreement.agreement_id,
                peer=agreement.peer,
                reason=describe(error.payload),
            )
        return DONE

    # --- endings ---

    async def _deliver_ending(self, row: OutboxRow) -> Outcome:
        agreement = await self._load(row)
        if agreement is None:
            return Drop("the agreement is gone")
        if self._context.now_ns() - row.created_ns > ENDING_TOLD_NS:
            return Drop("the peer could not be told for too long")
        happening = AgreementInput(row.payload["happening"])
        path = REQUESTOR_AGREEMENT if agreement.role is Role.PROVIDER else PROVIDER_AGREEMENT
        message = _ending(agreement, happening, row.payload["reason"], row.payload["at_ns"])
        refusal: object | None = None
        try:
            await self._context.ask(agreement.identity, agreement.peer, path, message)
        except RemoteError as error:
            refusal = error.payload
            if not await self._has_ended(agreement, refusal):
                return Retry(describe(refusal))
        self._context.answers.settle(answer_key(agreement, happening), None)
        return DONE

    async def tell_ending(
        self, row: AgreementRow, happening: AgreementInput, reason: Reason | None
    ) -> None:
        """Tell the other party at once, or fail as yagna does (§8.3)."""
        doing, act = _WORDS[happening]
        name = lettered(row.agreement_id, row.role)
        words = f"Protocol error while {doing}:"
        path = REQUESTOR_AGREEMENT if row.role is Role.PROVIDER else PROVIDER_AGREEMENT
        message = _ending(row, happening, reason, self._context.now_ns())
        try:
            await self._context.ask(row.identity, row.peer, path, message)
        except RemoteError as error:
            if reported_state(error.payload) is TARGETS[happening]:
                return
            raise PeerError(f"{words} Remote error: {describe(error.payload)}") from error
        except (Unreachable, GsbError, TimedOut) as error:
            raise Unreachable(
                f"{words} {act} Agreement [{name}] GSB error: {error.message}"
            ) from error

    async def _has_ended(self, row: AgreementRow, refusal: object) -> bool:
        """Tell whether a refused ending is known at the peer, or can never be."""
        if find(refusal, "NotFound") is not None or find(refusal, "Expired") is not None:
            return True
        state = reported_state(refusal) or await self.state_at_peer(row)
        return state in ENDED

    async def _load(self, row: OutboxRow) -> AgreementRow | None:
        agreement_id = AgreementId(row.payload["agreementId"])
        return await load_agreement(
            self._context.store.fetch, agreement_id, Role(row.payload["role"])
        )


def _ending(
    row: AgreementRow, happening: AgreementInput, reason: Reason | None, at_ns: int
) -> AgreementCancelled | AgreementRejected | AgreementTerminated:
    if happening is AgreementInput.CANCEL:
        return AgreementCancelled(lettered(row.agreement_id, row.role), reason, at_ns)
    if happening is AgreementInput.REJECT:
        return AgreementRejected(lettered(row.agreement_id, row.role), reason, at_ns)
    # Of all messages, this one carries the receiver's letter (§2.3).
    receiver = lettered(row.agreement_id, row.role.other)
    return AgreementTerminated(receiver, reason, NOT_SIGNED, at_ns)
