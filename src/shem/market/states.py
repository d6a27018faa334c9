"""State machines of proposals and agreements, as tables.

docs/protocol/market.md §6. Pure. An absent pair is a refusal. What both sides call the same state
may be reached by one side only; who may cause an input is decided before (`permissions.decide`).
"""

from enum import StrEnum
from typing import Final

from shem.kernel.errors import Conflict, Gone, ShemError


class ProposalState(StrEnum):
    """What a proposal is, for the side that keeps the row."""

    INITIAL = "Initial"
    DRAFT = "Draft"
    REJECTED = "Rejected"
    ACCEPTED = "Accepted"
    EXPIRED = "Expired"


class ProposalInput(StrEnum):
    """What can happen to a proposal."""

    COUNTER = "counter"
    REJECT = "reject"
    ACCEPT = "accept"


PROPOSAL_TRANSITIONS: Final[dict[tuple[ProposalState, ProposalInput], ProposalState]] = {
    (ProposalState.INITIAL, ProposalInput.COUNTER): ProposalState.INITIAL,
    (ProposalState.DRAFT, ProposalInput.COUNTER): ProposalState.DRAFT,
    (ProposalState.REJECTED, ProposalInput.COUNTER): ProposalState.DRAFT,
    (ProposalState.ACCEPTED, ProposalInput.COUNTER): ProposalState.ACCEPTED,
    (ProposalState.INITIAL, ProposalInput.REJECT): ProposalState.REJECTED,
    (ProposalState.DRAFT, ProposalInput.REJECT): ProposalState.REJECTED,
    (ProposalState.REJECTED, ProposalInput.REJECT): ProposalState.REJECTED,
    (ProposalState.ACCEPTED, ProposalInput.REJECT): ProposalState.REJECTED,
    (ProposalState.DRAFT, ProposalInput.ACCEPT): ProposalState.ACCEPTED,
}
"""A rejected proposal that was the initial one goes back to Initial: see `after_counter`."""


def after_counter(state: ProposalState, *, has_previous: bool) -> ProposalState:
    """Return the state of a proposal that is being countered."""
    following = PROPOSAL_TRANSITIONS[state, ProposalInput.COUNTER]
    if state is ProposalState.REJECTED and not has_previous:
        return ProposalState.INITIAL
    return following


class AgreementState(StrEnum):
    """State of an agreement; `Approving` is shown as `Pending` by REST."""

    PROPOSAL = "Proposal"
    PENDING = "Pending"
    APPROVING = "Approving"
    CANCELLED = "Cancelled"
    REJECTED = "Rejected"
    APPROVED = "Approved"
    EXPIRED = "Expired"
    TERMINATED = "Terminated"

    @property
    def shown(self) -> "AgreementState":
        return AgreementState.PENDING if self is AgreementState.APPROVING else self


class AgreementInput(StrEnum):
    """What can happen to an agreement."""

    CONFIRM = "confirm"
    """R: the provider has it; P: it was received."""
    APPROVE = "approve"
    """P: its agent approves; R: the provider's approval came."""
    COMMIT = "commit"
    """P: the commit came; R: the provider took it."""
    REVERT = "revert"
    """Both: the handshake failed, it may be approved again."""
    REJECT = "reject"
    CANCEL = "cancel"
    EXPIRE = "expire"
    TERMINATE = "terminate"


_S = AgreementState
_I = AgreementInput
AGREEMENT_TRANSITIONS: Final[dict[tuple[AgreementState, AgreementInput], AgreementState]] = {
    (_S.PROPOSAL, _I.CONFIRM): _S.PENDING,
    (_S.PROPOSAL, _I.CANCEL): _S.CANCELLED,
    (_S.PROPOSAL, _I.EXPIRE): _S.EXPIRED,
    (_S.PENDING, _I.APPROVE): _S.APPROVING,
    (_S.PENDING, _I.REJECT): _S.REJECTED,
    (_S.PENDING, _I.CANCEL): _S.CANCELLED,
    (_S.PENDING, _I.EXPIRE): _S.EXPIRED,
    (_S.APPROVING, _I.COMMIT): _S.APPROVED,
    (_S.APPROVING, _I.REVERT): _S.PENDING,
    (_S.APPROVING, _I.CANCEL): _S.CANCELLED,
    (_S.APPROVING, _I.EXPIRE): _S.EXPIRED,
    (_S.APPROVED, _I.TERMINATE): _S.TERMINATED,
}

TARGETS: Final[dict[AgreementInput, AgreementState]] = {
    _I.CONFIRM: _S.PENDING,
    _I.APPROVE: _S.APPROVING,
    _I.COMMIT: _S.APPROVED,
    _I.REVERT: _S.PENDING,
    _I.REJECT: _S.REJECTED,
    _I.CANCEL: _S.CANCELLED,
    _I.EXPIRE: _S.EXPIRED,
    _I.TERMINATE: _S.TERMINATED,
}
"""Where an input leads when it is possible: what a refusal names."""

ENDED: Final = frozenset((_S.CANCELLED, _S.REJECTED, _S.EXPIRED, _S.TERMINATED))


def after(state: AgreementState, happening: AgreementInput) -> AgreementState:
    """Return the next state, or refuse with the words and the status that clients key on."""
    following = AGREEMENT_TRANSITIONS.get((state, happening))
    if following is None:
        raise refusal(state, happening)
    return following


def refusal(state: AgreementState, happening: AgreementInput) -> ShemError:
    """Return the error of an impossible transition: 409 out of Proposal, otherwise 410."""
    message = f"Can't update Agreement state from {state} to {TARGETS[happening]}."
    return Conflict(message) if state is _S.PROPOSAL else Gone(message)


def at(state: AgreementState, valid_to_ns: int, now_ns: int) -> AgreementState:
    """Return the state at `now_ns`: what waits for the other side ends with its `validTo`.

    `Approving` is not ended by the clock here: its handshake is under way or repaired (§8.2), and
    only the provider's answer tells whether the agreement came into force.
    """
    if state in (_S.PROPOSAL, _S.PENDING) and valid_to_ns <= now_ns:
        return _S.EXPIRED
    return state
