"""Error values of the market's messages: building ours and reading a peer's.

docs/protocol/market.md §5.3. Pure. An error is an enum value of the legacy nodes as a document: a
text for a bare variant, a one-key map for one with a value. Ids in it carry the letter of the side
that reports.
"""

from typing import Final

from shem.kernel.errors import PeerError, ShemError
from shem.market.states import AgreementState

TEXT_SHOWN_MAX: Final = 300
"""Characters of a peer's error that are repeated in our messages."""


class Refused(PeerError):
    """We refuse a peer's message with the error value `payload`."""

    code = "refused"

    def __init__(self, payload: object) -> None:
        super().__init__(f"refused: {payload!r}")
        self.payload = payload


def error_value(error: ShemError) -> object:
    """Return the error value of a refused message; all enums have `CallerParse`."""
    if isinstance(error, Refused):
        return error.payload
    return {"CallerParse": {"caller": "", "e": error.message[:TEXT_SHOWN_MAX]}}


def remote_proposal(error: object, proposal_id: str) -> Refused:
    """Return a CounterProposalError."""
    return Refused({"Remote": [error, proposal_id]})


def validation(error: object) -> dict[str, object]:
    return {"Validation": error}


def unauthorized(proposal_id: str, caller: str) -> dict[str, object]:
    return validation({"Unauthorized": [proposal_id, caller]})


def not_matching(new: str, previous: str, mismatches: str) -> dict[str, object]:
    detail = {"new": new, "prev": previous, "mismatches": mismatches}
    return validation({"NotMatching": {"NotMatching": detail}})


def matching_failed(new: str, previous: str, error: str) -> dict[str, object]:
    detail = {"new": new, "prev": previous, "error": error}
    return validation({"NotMatching": {"MatchingFailed": detail}})


def remote_agreement(variant: str, agreement_id: str) -> Refused:
    """Return an AgreementProtocolError or TerminateAgreementError around a RemoteAgreementError."""
    return Refused({"Remote": {variant: agreement_id}})


def remote_agreement_state(state: AgreementState, agreement_id: str) -> Refused:
    return Refused({"Remote": {"InvalidState": [agreement_id, str(state)]}})


def remote_propose(error: object, agreement_id: str) -> Refused:
    """Return a ProposeAgreementError."""
    return Refused({"Remote": [error, agreement_id]})


def remote_commit(error: object, agreement_id: str) -> Refused:
    """Return a CommitAgreementError."""
    return Refused({"Remote": [error, agreement_id]})


def find(payload: object, variant: str) -> object | None:
    """Return the value of `variant` somewhere inside a peer's error (True for a bare one)."""
    todo = [payload]
    for _ in range(64):
        if not todo:
            return None
        value = todo.pop(0)
        if value == variant:
            return True
        if isinstance(value, dict):
            if variant in value:
                found: object = value[variant]
                return True if found is None else found
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return None


def reported_state(payload: object) -> AgreementState | None:
    """Return the state that an `InvalidState` names, in either of its two shapes."""
    value = find(payload, "InvalidState")
    text = value[-1] if isinstance(value, list) and value else value
    try:
        return AgreementState(text) if isinstance(text, str) else None
    except ValueError:
        return None


_WORDS: Final = {
    "NoSubscription": "Subscription [{}] wasn't found.",
    "Unsubscribed": "Subscription [{}] was already unsubscribed.",
    "SubscriptionExpired": "Subscription [{}] expired.",
    "AlreadyCountered": (
        "Proposal [{}] already has counter proposal. Can't counter for the second time."
    ),
    "NotFound": "[{}] not found.",
    "Expired": "[{}] expired.",
    "InternalError": "Can't finish operation on Agreement [{}] due to internal error.",
    "OwnProposal": "Can't react to own Proposal [{}].",
}


def describe(payload: object) -> str:
    """Return a peer's error in words, shortened."""
    for variant, words in _WORDS.items():
        value = find(payload, variant)
        if isinstance(value, str):
            return words.format(value[:TEXT_SHOWN_MAX])
    mismatches = find(payload, "mismatches")
    text = mismatches if isinstance(mismatches, str) else repr(payload)
    return text[:TEXT_SHOWN_MAX]
