"""How long a requestor has been silent, and whether that is too long. Pure.

Silence begins with the first question that stays without an answer, and ends with the first answer.
While this provider itself is off the network nobody can say who is silent: nothing begins, nothing
ends, and nothing is done about it. A provider that was down takes up where it was: a requestor that
was silent before and is silent still was silent all along; one that was there gets its whole time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shem.kernel.times import NS_PER_S
from shem.provider.verdicts import whole
from shem.rest.terms import MAX_ABSENCE, ON_ABSENCE


class Sign(StrEnum):
    """What came of a question to the requestor's node."""

    LIFE = "life"
    SILENCE = "silence"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class AbsenceTerm:
    """What an agreement says about the absence of its requestor."""

    max_s: float
    action: str


def term_of(offer: Mapping[str, Any]) -> AbsenceTerm | None:
    """Read the term from the provider's side of an agreement; None when there is none."""
    seconds = whole(offer.get(MAX_ABSENCE))
    if seconds is None or seconds <= 0:
        return None
    return AbsenceTerm(float(seconds), str(offer.get(ON_ABSENCE, "terminate")))


def after(since_ns: int | None, sign: Sign, now_ns: int) -> int | None:
    """Return since when the requestor is silent, after one more sign; None: it is not."""
    if sign is Sign.LIFE:
        return None
    if sign is Sign.SILENCE and since_ns is None:
        return now_ns
    return since_ns


def overdue(since_ns: int | None, sign: Sign, term: AbsenceTerm, now_ns: int) -> bool:
    """Whether a requestor that was silent just now has been so for longer than agreed."""
    if since_ns is None or sign is not Sign.SILENCE:
        return False
    return now_ns - since_ns >= term.max_s * NS_PER_S
