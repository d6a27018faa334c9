"""Messages and their errors against what yagna 0.17.6 and prototypes said."""

import json
from pathlib import Path
from typing import Any

import pytest

from shem.activity import messages
from shem.activity.batches import Coverage
from shem.activity.messages import (
    ActivityEnding,
    EndpointGone,
    ProviderTimedOut,
    error_of,
    error_payload,
)
from shem.activity.results import fresh_results, interrupted, parse_results, shown
from shem.activity.script import parse_script
from shem.activity.states import TRANSITIONS, ActivityState, State, advance, parse_state
from shem.activity.stream import encode_event
from shem.activity.watch import GRACE_S, Verdict, Watch
from shem.bus.types import GsbError, NoSuchEndpoint, RemoteError
from shem.kernel.errors import (
    Conflict,
    Denied,
    NotFound,
    PeerError,
    ShemError,
    TimedOut,
    Unreachable,
    UsageError,
)
from shem.wire.errors import WireError
from shem.wire.flexbuffers import Blob, unpack

VECTORS = json.loads(
    (Path(__file__).parent.parent / "vectors" / "activity_messages.json").read_text()
)["messages"]


def vectors(name: str, kind: str) -> list[dict[str, Any]]:
    return [row for row in VECTORS if row["message"] == name and row["type"] == kind]


def plain(value: object) -> object:
    """Return a value as FlexBuffers carry it: bytes are vectors of numbers."""
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_create_activity_is_built_as_yagna_builds_it() -> None:
    for row in vectors("CreateActivity", "request"):
        value = row["value"]
        key = value["requestorPubKey"]
        built = messages.create_activity(
            value["agreementId"],
            value["providerId"],
            value["timeout"],
            None if key is None else bytes(key).hex(),
            "11" * 16,
        )
        assert built.pop("intentId") == "11" * 16
        assert plain(built) == unpack(bytes.fromhex(row["hex"]))


def test_destroy_exec_and_results_are_built_as_yagna_builds_them() -> None:
    for row in vectors("DestroyActivity", "request"):
        value = row["value"]
        assert (
            messages.destroy_activity(value["agreementId"], value["activityId"], value["timeout"])
            == value
        )
    for row in vectors("GetExecBatchResults", "request"):
        value = row["value"]
        assert (
            messages.get_results(
                value["activityId"], value["batchId"], value["timeout"], value["commandIndex"]
            )
            == value
        )
    for row in vectors("Exec", "request"):
        value = row["value"]
        script = parse_script(json.dumps(value["exeScript"]))
        built = messages.exec_batch(
            value["activityId"], value["batchId"], script.commands, value["timeout"]
        )
        assert built == value


def test_replies_are_read() -> None:
    assert messages.parse_created("00ff") == "00ff"
    assert messages.parse_created({"activityId": "00ff", "credentials": {}}) == "00ff"
    usage = vectors("GetActivityUsage", "reply")[0]["value"]["Ok"]
    assert messages.parse_usage(usage).vector == tuple(usage["currentUsage"])
    assert messages.parse_usage({"timestamp": 5}) == messages.Usage(None, 5)
    for row in vectors("GetActivityState", "reply"):
        if "Ok" in row["value"]:
            assert parse_state(row["value"]["Ok"]).wire() == row["value"]["Ok"]


@pytest.mark.parametrize("reply", [None, 5, "", {"activityId": 5}, {}, "x" * 1000])
def test_a_create_reply_without_an_id_is_malformed(reply: object) -> None:
    with pytest.raises(WireError):
        messages.parse_created(reply)


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        ("timeout", 408, "Timeout"),
        ({"badRequest": "b"}, 400, "Bad request: b"),
        ({"forbidden": "f"}, 403, "Forbidden: f"),
        ({"notFound": "n"}, 404, "Not found: n"),
        ({"service": "s"}, 500, "Service error: s"),
        ({"activity": "a"}, 500, "Service error: a"),
        (
            {"activity": "the activity is ending: a"},
            410,
            "Service error: the activity is ending: a",
        ),
        ({"usageLimitExceeded": "u"}, 500, "Service error: u"),
    ],
)
def test_errors_have_yagnas_words_and_status(payload: object, status: int, message: str) -> None:
    error = error_of(payload)
    assert (error.status, error.message) == (status, message)


@pytest.mark.parametrize("payload", [None, 5, {}, {"odd": "x"}, {"service": 5}, ["timeout"]])
def test_a_peers_nonsense_is_a_peer_error(payload: object) -> None:
    assert isinstance(error_of(payload), PeerError)


def test_errors_survive_the_wire() -> None:
    for error in (
        Denied("Forbidden: f"),
        NotFound("Not found: n"),
        UsageError("Bad request: b"),
        PeerError("Service error: s"),
        ActivityEnding("Service error: the activity is ending: a"),
    ):
        back = error_of(error_payload(error))
        assert (type(back), back.message) == (type(error), error.message)
    assert isinstance(error_of(error_payload(TimedOut("Timeout"))), ProviderTimedOut)


@pytest.mark.parametrize(
    ("failure", "kind", "code", "words"),
    [
        (
            NoSuchEndpoint(),
            EndpointGone,
            "endpoint-gone",
            "GSB error: Remote service at `/net/0x/exeunit/a/Exec` error: GSB failure: "
            "Bad request: endpoint address not found",
        ),
        (
            Unreachable("away"),
            Unreachable,
            "peer-unreachable",
            "GSB error: Remote service at `/net/0x/exeunit/a/Exec` error: away",
        ),
        (TimedOut("Timeout calling"), TimedOut, "timeout", "Timeout"),
        (RemoteError("timeout"), ProviderTimedOut, "timeout", "Timeout"),
        (
            GsbError("GSB failure: x"),
            PeerError,
            "peer-unreachable",
            "GSB error: Remote service at `/net/0x/exeunit/a/Exec` error: GSB failure: x",
        ),
        (
            GsbError("Bad content: y"),
            PeerError,
            "peer-error",
            "GSB error: Remote service at `/net/0x/exeunit/a/Exec` error: GSB failure: "
            "Bad content: y",
        ),
    ],
)
def test_failed_calls_have_the_words_that_sdks_look_for(
    failure: ShemError, kind: type[ShemError], code: str, words: str
) -> None:
    error = messages.translate(failure, "/net/0x/exeunit/a/Exec")
    assert isinstance(error, kind)
    assert (error.code, error.message) == (code, words)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"state": "Ready"},
        {"state": ["Ready"]},
        {"state": ["Odd", None]},
        {"state": [None, None]},
        {"state": ["Ready", None], "reason": 5},
    ],
)
def test_a_malformed_state_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        parse_state(value)


def test_the_state_table() -> None:
    for before in State:
        for after in State:
            old, new = ActivityState(before), ActivityState(after)
            if (before, after) in TRANSITIONS:
                assert advance(old, new) == new
            else:
                with pytest.raises(Conflict):
                    advance(old, new)
    ended = ActivityState(State.TERMINATED, None, "first")
    assert advance(ended, ActivityState(State.TERMINATED, None, "second")) is ended
    assert {after for before, after in TRANSITIONS if before is State.TERMINATED} == {
        State.TERMINATED
    }
    assert (State.READY, State.NEW) not in TRANSITIONS


def entry(index: int, result: str = "Ok") -> dict[str, Any]:
    return {
        "index": index,
        "result": result,
        "stdout": f"o{index}",
        "stderr": None,
        "message": None,
        "isBatchFinished": False,
        "eventDate": "2026-11-23T20:00:00.123456Z",
    }


def test_results_are_read_as_yagna_relays_them() -> None:
    for row in vectors("GetExecBatchResults", "reply"):
        if "Ok" in row["value"]:
            said = row["value"]["Ok"]
            finished = [dict(item, isBatchFinished=False) for item in said]
            assert parse_results(said, None) == finished
            assert shown(parse_results(said, None), len(said), None) == said


def test_binary_output_may_come_as_a_blob() -> None:
    assert parse_results([{**entry(0), "stdout": Blob(b"\x01\xff")}], 1)[0]["stdout"] == [1, 255]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [None],
        [{**entry(0), "index": 1}],
        [{**entry(0), "index": None}],
        [{**entry(0), "result": "Fine"}],
        [{**entry(0), "stdout": 5}],
        [{**entry(0), "stdout": [256]}],
        [{**entry(0), "stdout": [True]}],
        [{**entry(0), "message": 5}],
        [{**entry(0), "eventDate": "yesterday"}],
        [{**entry(0), "eventDate": None}],
        [entry(0), entry(1), entry(2)],
    ],
)
def test_malformed_results_are_refused(value: object) -> None:
    with pytest.raises(WireError):
        parse_results(value, 2)


def test_only_what_continues_the_stored_results_is_fresh() -> None:
    entries = [entry(0), entry(1), entry(2)]
    assert fresh_results(Coverage(3, 1, False), entries, None) == entries[1:]
    assert fresh_results(Coverage(3, 1, False), entries[:2], 1) == [entries[1]]
    assert fresh_results(Coverage(3, 2, False), entries[:2], 1) == []
    assert fresh_results(Coverage(3, 0, False), entries[:2], 1) == []
    assert fresh_results(Coverage(3, 3, False), entries, None) == []
    failing = [entry(0), entry(1, "Error"), entry(2)]
    assert fresh_results(Coverage(3, 0, False), failing, None) == failing[:2]
    assert fresh_results(Coverage(3, 1, True), entries, None) == []


def test_a_poll_for_one_command_mutes_the_others() -> None:
    found = shown([entry(0), entry(1), entry(2)], 3, 1)
    assert [item["stdout"] for item in found] == [None, "o1"]
    assert [item["isBatchFinished"] for item in found] == [False, True]
    assert [item["isBatchFinished"] for item in shown([entry(0)], 3, None)] == [False]


def test_an_interrupted_command_says_that_nobody_knows() -> None:
    last = interrupted(1, "the activity ended", 0)
    assert last["result"] == "Error"
    assert last["message"] == "interrupted, outcome unknown: the activity ended"


def test_a_coverage_knows_when_a_poll_need_not_wait() -> None:
    assert Coverage(0, 0, False).finished
    assert not Coverage(2, 1, False).satisfies(None)
    assert Coverage(2, 1, False).satisfies(0)
    assert Coverage(2, 1, True).satisfies(None)
    assert not Coverage(2, 1, False).satisfies(1)


def test_an_event_frame_has_yagnas_bytes() -> None:
    event = {
        "kind": {"stdout": "hi\n"},
        "timestamp": "2026-11-23T20:00:00.123456",
        "index": 0,
        "batch_id": "818d",
    }
    assert encode_event(3, event) == (
        b'event: runtime\ndata: {"batch_id":"818d","index":0,"timestamp":'
        b'"2026-11-23T20:00:00.123456","kind":{"stdout":"hi\\n"}}\nid: 3\n\n'
    )
    with pytest.raises(WireError):
        encode_event(0, {"kind": {}})


def test_silence_is_judged_by_the_clock_alone() -> None:
    watch = Watch(started=100.0)
    assert watch.verdict("a", 200.0) is Verdict.FINE
    assert watch.verdict("a", 205.0) is Verdict.FINE
    assert watch.verdict("a", 205.1) is Verdict.UNRESPONSIVE
    assert watch.verdict("a", 210.1) is Verdict.DEAD
    assert watch.condemn("a")
    assert not watch.condemn("a")
    assert watch.is_dead("a", 210.2)
    watch.hear("a", 211.0)
    assert not watch.is_dead("a", 300.0), "it was heard again"
    assert watch.verdict("a", 212.0) is Verdict.FINE
    assert watch.condemn("a")
    watch.forget_all_but(set())
    assert watch.condemn("a")


def test_while_the_node_itself_stood_still_nobody_was_silent() -> None:
    watch = Watch(started=0.0)
    watch.hear("a", 100.0)
    watch.look(100.5)
    watch.look(145.0)  # 44.5 s later, not one
    assert watch.verdict("a", 145.0) is Verdict.FINE
    for second in range(146, 149):
        watch.look(float(second))
    assert watch.verdict("a", 148.4) is Verdict.FINE
    assert watch.verdict("a", 148.6) is Verdict.UNRESPONSIVE
    assert watch.verdict("a", 153.6) is Verdict.DEAD, "it never came back"


def test_a_node_that_is_always_late_still_finds_the_dead() -> None:
    watch = Watch(started=0.0)
    watch.hear("a", 0.0)
    for look in range(12):
        watch.look(look * 4.0)
    assert watch.verdict("a", 44.0) is Verdict.DEAD


def test_a_grace_is_not_shortened_by_standing_still() -> None:
    watch = Watch(started=100.0)
    watch.adopt("a")
    watch.look(100.0)
    watch.look(110.0)
    assert watch.verdict("a", 100.0 + GRACE_S) is Verdict.FINE


def test_an_adopted_activity_has_the_grace_of_a_start() -> None:
    watch = Watch(started=100.0)
    watch.adopt("a")
    assert watch.verdict("a", 100.0 + GRACE_S) is Verdict.FINE
    assert watch.verdict("a", 100.0 + GRACE_S + 0.1) is Verdict.UNRESPONSIVE
    assert watch.in_grace(100.0 + GRACE_S - 1)
    assert not watch.in_grace(100.0 + GRACE_S)
