"""The moments at which an ExeUnit does what it does every second."""

from hypothesis import given
from hypothesis import strategies as st

from shem.exeunit.usage import EARLY, Usage
from tests.terms import agreement_terms

PAUSES = 20


@given(
    started_s=st.floats(0, 1e7),
    period_s=st.floats(0.1, 10.0),
    late=st.lists(st.floats(-1e-9, 0.5), min_size=PAUSES, max_size=PAUSES),
)
def test_a_period_is_a_period_though_timers_are_early_or_late(
    started_s: float, period_s: float, late: list[float]
) -> None:
    now_s = started_s
    usage = Usage(agreement_terms(), lambda: now_s, {})

    for lateness in late:
        pause_s = usage.pause_s(period_s)
        assert EARLY * period_s < pause_s <= (1 + EARLY) * period_s
        now_s += pause_s + lateness * period_s


def test_a_fraction_that_is_missing_to_a_moment_is_no_pause() -> None:
    now_s = 0.0
    usage = Usage(agreement_terms(), lambda: now_s, {})
    now_s = 0.9999999999999999

    assert usage.pause_s(1.0) >= 1.0
