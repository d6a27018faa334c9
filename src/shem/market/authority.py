"""Which side's word counts when the two copies of an agreement differ.

docs/adr/0008-who-is-right-about-an-agreement.md. Pure. The requestor decides whether it commits,
and whether it takes an agreement back; the provider decides whether it approves. An agreement is in
force only when both say so; that it has ended is believed of either.
"""

from enum import Enum
from typing import Final

from shem.market.ids import Role
from shem.market.states import AgreementInput, AgreementState

_S = AgreementState
_I = AgreementInput


class Unknown(Enum):
    """What a party says of an agreement that it does not have."""

    UNKNOWN = "unknown"


class Again(Enum):
    """What is done besides a change of state."""

    APPROVE = "approve again"
    """Say the approval once more: the requestor may still commit."""


PeerState = AgreementState | Unknown
Verdict = AgreementInput | Again | None

UNKNOWN: Final = Unknown.UNKNOWN

REQUESTORS_COPY: Final[dict[AgreementState, dict[PeerState, Verdict]]] = {
    _S.PROPOSAL: {
        _S.PENDING: _I.CONFIRM,
        _S.APPROVING: _I.CONFIRM,
        _S.REJECTED: _I.REJECT,
        _S.CANCELLED: _I.CANCEL,
        _S.EXPIRED: _I.EXPIRE,
        _S.TERMINATED: _I.CANCEL,
    },
    _S.PENDING: {
        _S.REJECTED: _I.REJECT,
        _S.CANCELLED: _I.CANCEL,
        _S.EXPIRED: _I.EXPIRE,
        _S.TERMINATED: _I.CANCEL,
        UNKNOWN: _I.REJECT,
    },
    _S.APPROVING: {},
    _S.APPROVED: {
        _S.PENDING: _I.TERMINATE,
        _S.APPROVING: _I.TERMINATE,
        _S.REJECTED: _I.TERMINATE,
        _S.CANCELLED: _I.TERMINATE,
        _S.EXPIRED: _I.TERMINATE,
        _S.TERMINATED: _I.TERMINATE,
        UNKNOWN: _I.TERMINATE,
    },
}
"""Ours x the provider's. `Approving` is left to the commit that is on its way."""

_ENDED_BEFORE_FORCE: Final[dict[PeerState, Verdict]] = {
    _S.CANCELLED: _I.CANCEL,
    _S.REJECTED: _I.CANCEL,
    _S.TERMINATED: _I.CANCEL,
    _S.EXPIRED: _I.EXPIRE,
    UNKNOWN: _I.CANCEL,
}
PROVIDERS_COPY: Final[dict[AgreementState, dict[PeerState, Verdict]]] = {
    _S.PENDING: _ENDED_BEFORE_FORCE,
    _S.APPROVING: _ENDED_BEFORE_FORCE,
    _S.APPROVED: {
        _S.PROPOSAL: Again.APPROVE,
        _S.PENDING: Again.APPROVE,
        _S.CANCELLED: _I.TERMINATE,
        _S.REJECTED: _I.TERMINATE,
        _S.EXPIRED: _I.TERMINATE,
        _S.TERMINATED: _I.TERMINATE,
    },
}
"""Ours x the requestor's. One that does not know an agreement in force is as good as away: it may
be a new machine with the key alone, which takes the agreement up again (`takeup`)."""
COPIES: Final = {Role.REQUESTOR: REQUESTORS_COPY, Role.PROVIDER: PROVIDERS_COPY}

HAVE_BEEN: Final[dict[tuple[AgreementState, AgreementInput], AgreementState]] = {
    (_S.PROPOSAL, _I.REJECT): _S.PENDING,
    (_S.PENDING, _I.COMMIT): _S.APPROVING,
    (_S.PENDING, _I.TERMINATE): _S.APPROVED,
}
"""A verdict that skips a state proves that our copy lagged behind it."""


def verdict(role: Role, ours: AgreementState, theirs: PeerState, *, had_approval: bool) -> Verdict:
    """Return what has to happen to our copy; None when the copies can stay as they are.

    `had_approval`: the requestor has taken an approval before, so that it did commit.
    """
    if role is Role.REQUESTOR and ours is _S.PENDING and had_approval:
        if theirs is _S.APPROVED:
            return _I.COMMIT
        if theirs is _S.TERMINATED:
            return _I.TERMINATE
    return COPIES[role].get(ours, {}).get(theirs)
