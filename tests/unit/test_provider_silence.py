"""How long a requestor has been silent, through all that can happen meanwhile."""

import pytest

from shem.kernel.times import NS_PER_S
from shem.provider.silence import AbsenceTerm, Sign, after, overdue, term_of
from shem.rest.terms import MAX_ABSENCE, ON_ABSENCE

TERM = AbsenceTerm(60.0, "terminate")
L, S, U = Sign.LIFE, Sign.SILENCE, Sign.UNKNOWN


@pytest.mark.parametrize(
    ("signs", "end_s"),
    [
        ([(0, L), (30, L), (60, L), (90, L)], None),
        ([(0, S), (30, S), (59, S)], None),
        ([(0, S), (30, S), (60, S)], 60),
        ([(0, L), (30, S), (60, S), (90, S)], 90),
        ([(0, S), (59, L), (60, S), (119, S)], None),
        ([(0, S), (30, U), (60, U), (90, U)], None),
        ([(0, S), (30, U), (90, S)], 90),
        ([(0, U), (600, U)], None),
        ([(0, U), (600, S), (630, S)], None),
        ([(0, S), (30, U), (90, L), (91, S)], None),
    ],
)
def test_only_silence_for_the_whole_term_is_too_long(
    signs: list[tuple[int, Sign]], end_s: int | None
) -> None:
    since_ns = found = None
    for at_s, sign in signs:
        since_ns = after(since_ns, sign, at_s * NS_PER_S)
        if found is None and overdue(since_ns, sign, TERM, at_s * NS_PER_S):
            found = at_s

    assert found == end_s


@pytest.mark.parametrize("value", [None, 0, -5, "60", True, 1.5])
def test_without_a_usable_number_there_is_no_term(value: object) -> None:
    assert term_of({MAX_ABSENCE: value}) is None


def test_a_term_says_what_happens_then() -> None:
    assert term_of({MAX_ABSENCE: 60}) == TERM
    assert term_of({MAX_ABSENCE: 60.0, ON_ABSENCE: "finish"}) == AbsenceTerm(60.0, "finish")
