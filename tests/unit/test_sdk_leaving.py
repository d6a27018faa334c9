"""What a rental asks for the time in which nobody watches, and which offers can do it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from shem.kernel.errors import UsageError
from shem.rest.endwhen import EndWhen, ResultSink, parse_end_when, parse_sink
from shem.sdk.demand import CHOSEN_PLATFORM, write_demand
from shem.sdk.leaving import Leaving
from tests.rented import REQUESTOR, WASM, offer

ABLE: dict[str, Any] = {
    "golem.srv.caps.end-when": ["batch-done", "exit", "idle", "budget", "time"],
    "golem.srv.caps.result-sink": ["http", "https", "gftp"],
    "golem.srv.caps.on-absence": ["terminate", "finish"],
    "golem.srv.offline.max-absence-sec": 3_600,
}
SINK = ResultSink("https://example.org/r")


def test_everything_is_said_in_the_counter_and_only_there() -> None:
    leaving = Leaving(EndWhen(batch_done=True, budget=Decimal("0.1")), SINK, timedelta(hours=1))
    demand = write_demand(
        WASM,
        subnet="s",
        requestor=REQUESTOR,
        app="a",
        expires_ms=1,
        platforms=("erc20-hoodi-tglm",),
        leaving=leaving,
    )

    said = demand.counter(offer(**ABLE))

    assert parse_end_when(said) == leaving.end_when
    assert parse_sink(said) == SINK
    assert said["golem.srv.offline.max-absence-sec"] == 3_600
    assert said["golem.srv.offline.on-absence"] == "terminate"
    assert said[CHOSEN_PLATFORM] == "erc20-hoodi-tglm"
    assert not [name for name in demand.properties if "sink" in name or "end-when" in name]


@pytest.mark.parametrize(
    ("leaving", "lacks", "words"),
    [
        (Leaving(EndWhen(exit=True)), "golem.srv.caps.end-when", "cannot end when: exit"),
        (Leaving(EndWhen(exit=True), SINK), "golem.srv.caps.result-sink", "deliver over: https"),
        (
            Leaving(max_absence=timedelta(minutes=1)),
            "golem.srv.caps.on-absence",
            "cannot on our absence: terminate",
        ),
    ],
)
def test_a_provider_that_has_not_said_it_can_is_not_taken(
    leaving: Leaving, lacks: str, words: str
) -> None:
    legacy = {name: value for name, value in ABLE.items() if name != lacks}

    assert leaving.refusal(ABLE) is None
    assert words in (leaving.refusal(legacy) or "")
    assert Leaving().refusal(legacy) is None


def test_a_longer_absence_than_offered_is_not_asked_for() -> None:
    wanted = Leaving(max_absence=timedelta(seconds=3_601))

    assert "3600 s at most" in (wanted.refusal(ABLE) or "")


def test_results_are_asked_to_be_kept_as_long_as_the_provider_keeps_them() -> None:
    able = {**ABLE, "golem.srv.offline.result-retention-max-sec": 3_600}
    wanted = Leaving(keep_results=timedelta(hours=1))

    assert wanted.properties() == {"golem.srv.offline.result-retention-sec": 3_600}
    assert wanted.refusal(able) is None
    assert "does not keep results for" in (wanted.refusal(ABLE) or "")
    longer = Leaving(keep_results=timedelta(hours=2))
    assert "does not keep results for 2:00:00" in (longer.refusal(able) or "")


@pytest.mark.parametrize(
    "fields",
    [
        {"keep_results": timedelta(seconds=-1)},
        {"end_when": EndWhen()},
        {"end_when": EndWhen(idle_s=0)},
        {"end_when": EndWhen(budget=Decimal(-1))},
        {"sink": SINK},
        {"sink": ResultSink(), "end_when": EndWhen(batch_done=True)},
        {"sink": ResultSink("ftp://x/y"), "end_when": EndWhen(batch_done=True)},
        {"sink": ResultSink(files_url="https://x/y"), "end_when": EndWhen(batch_done=True)},
        {"sink": SINK, "max_absence": timedelta(hours=1)},
        {"max_absence": timedelta(0)},
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Leaving(**fields)
