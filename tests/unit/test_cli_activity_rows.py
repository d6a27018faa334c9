"""What `shem activity` shows: a timeline in order, in words, without surprises in odd data."""

from typing import Any

import pytest

from shem.cli.activity_rows import (
    command_names,
    cut,
    happening,
    report_fields,
    report_row,
    short_time,
    timeline,
)
from shem.rest import models
from shem.sdk.absence import Absence
from shem.sdk.batch import CommandResult
from shem.sdk.errors import Ended
from shem.sdk.report import AttachReport, BatchReport

BATCH = "1234567890abcdef" * 2


def result(index: int, at: str, **changes: Any) -> CommandResult:
    fields = {"ok": True, "stdout": "out\n", "stderr": "", "message": None, "last": False}
    return CommandResult(batch_id=BATCH, index=index, at=at, **{**fields, **changes})


def report(*results: CommandResult, ended: Ended | None = None) -> AttachReport:
    return AttachReport(
        liveness="ended" if ended else "alive",
        state="Ready",
        ended=ended,
        provider_id="0xp",
        agreement_state="Approved",
        expires=None,
        due=None,
        absence=Absence(90.0, "2026-11-23T21:00:00Z", "absence-term", (), None),
        batches=(BatchReport(BATCH, "accepted", 2, results, finished=False),),
        batches_listed=True,
    )


def agreement() -> models.Agreement:
    side: dict[str, Any] = {"properties": {}, "constraints": "()"}
    return models.Agreement(
        agreement_id="a",
        demand=models.Demand(**side, demand_id="d", requestor_id="0xr"),
        offer=models.Offer(**side, offer_id="o", provider_id="0xp"),
        valid_to="2026-11-23T21:00:00Z",
        state="Approved",
        timestamp="2026-11-23T20:00:00.123456789Z",
        approved_date="2026-11-23T20:00:01Z",
    )


def entry(*script: object) -> models.Batch:
    return models.Batch(
        batch_id=BATCH,
        state="accepted",
        commands=len(script),
        created_date="2026-11-23T20:00:02Z",
        script=list(script),
    )


def test_a_timeline_is_in_the_order_of_time_whatever_it_is_made_of() -> None:
    ended = Ended("Provider", "2026-11-23T20:00:09+00:00", "enough", "X")
    run = {"run": {"entry_point": "mandel", "args": ["zoom", "a b"]}}
    found = timeline(
        agreement(),
        [entry({"deploy": {}}, run)],
        report(result(1, "2026-11-23T20:00:05Z", last=True), ended=ended),
    )
    assert [happened.what for happened in found] == [
        "agreement with 0xp proposed",
        "agreement approved",
        "batch 12345678 sent: 2 commands (accepted)",
        "batch 12345678 command 1 run mandel zoom 'a b' done (the last)",
        "ended by Provider at 2026-11-23T20:00:09+00:00: enough [X]",
    ]
    assert [happened.ok for happened in found] == [True] * 4 + [False]


def test_a_failure_says_why() -> None:
    failed = result(0, "t", ok=False, message="exited with code 3", stderr="oh\n")
    told = happening(failed)
    assert told.what == "batch 12345678 command 0 failed: exited with code 3"
    assert (told.ok, told.output) == (False, "out\noh\n")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ({"deploy": {"net": []}}, "deploy"),
        ({"start": {"args": []}}, "start"),
        ({"run": {"entry_point": "x", "args": ["1"]}}, "run x 1"),
        ({"run": {"entry_point": 5, "args": "no list"}}, "run"),
        ({"run": None}, "run"),
        (
            {
                "transfer": {
                    "from": "hash:sha3:ab12:gftp://0x00/9f3a21c0ff",
                    "to": "container:/data/x",
                }
            },
            "transfer gftp:9f3a21c0 /data/x",
        ),
        (
            {"transfer": {"from": "container:/x", "to": "https://example.org/put?a=b:c"}},
            "transfer /x https://example.org/put?a=b:c",
        ),
        ({"transfer": {"from": 5}}, "transfer"),
        ("nonsense", ""),
        ({}, ""),
    ],
)
def test_a_command_is_named_in_a_few_words(command: object, name: str) -> None:
    assert command_names([entry(command)]) == {(BATCH, 0): name}


def test_long_names_are_cut() -> None:
    run = {"run": {"entry_point": "x" * 500, "args": []}}
    names = command_names([entry(run)])
    assert len(happening(result(0, "t"), names).what) < 100 and cut("short") == "short"


def test_a_report_in_words_and_as_a_document() -> None:
    words = report_fields(report(result(0, "t")), "act", "agr")
    assert words["state"] == "Ready (alive)"
    assert words["away"] == "0:01:30, until 2026-11-23T21:00:00Z (absence-term)"
    assert words["batches"] == "1, 1 unfinished, 1 unread results"
    document = report_row(report(result(0, "t")), "act", "agr")
    assert document["absence"]["seconds"] == 90.0 and document["due"] is None
    assert document["batches"][0]["results"][0]["stdout"] == "out\n"
    ended = report_fields(report(ended=Ended("Expiry", None, "")), "act", "agr")
    assert ended["away"] is None and ended["ended"] == "by Expiry: no reason given"


def test_times_are_short() -> None:
    assert short_time("2026-11-23T20:00:00.123456789Z") == "2026-11-23 20:00:00"
