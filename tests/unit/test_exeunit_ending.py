"""When work is due to end by its terms, and the steps of the end."""

from decimal import Decimal
from typing import Any

import pytest

from shem.activity.messages import ActivityEnding
from shem.exeunit.commands import Kind
from shem.exeunit.core import Core
from shem.exeunit.ending import (
    CONDITIONS,
    TRANSITIONS,
    End,
    Part,
    Phase,
    Sight,
    Step,
    all_record,
    due,
    due_record,
    part_record,
    quiet_record,
)
from shem.exeunit.results import Outcome
from shem.exeunit.script import parse_script
from shem.exeunit.sight import look
from shem.exeunit.usage import DURATION
from shem.kernel.errors import StorageFault, UsageError
from shem.kernel.times import NS_PER_S
from shem.rest.endwhen import (
    END_WHEN,
    SINK,
    Condition,
    EndWhen,
    ResultSink,
    parse_end_when,
    parse_sink,
)
from tests.terms import agreement_terms

ALL = EndWhen(batch_done=True, exit=True, idle_s=60, budget=Decimal(5), time_s=100)
NOTHING = Sight(
    running=True, worked=False, exits=frozenset(), idle_s=0.0, age_s=0.0, cost=Decimal(0)
)


def sight(**changes: Any) -> Sight:
    fields = {name: getattr(NOTHING, name) for name in Sight.__slots__}
    return Sight(**{**fields, **changes})


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        ({}, None),
        ({"worked": True}, None),
        ({"running": False}, None),
        ({"running": False, "worked": True}, Condition.BATCH_DONE),
        ({"exits": frozenset({"render"})}, Condition.EXIT),
        ({"running": False, "idle_s": 59.9}, None),
        ({"running": False, "idle_s": 60.0}, Condition.IDLE),
        ({"idle_s": 99.0}, None),
        ({"cost": Decimal("4.999")}, None),
        ({"cost": Decimal(5)}, Condition.BUDGET),
        ({"cost": None}, None),
        ({"age_s": 99.9}, None),
        ({"age_s": 100.0}, Condition.TIME),
        ({"age_s": 100.0, "cost": Decimal(9), "exits": frozenset({"x"})}, Condition.BUDGET),
        ({"running": False, "worked": True, "idle_s": 60.0}, Condition.BATCH_DONE),
    ],
)
def test_the_first_condition_that_holds_ends_the_work(
    seen: dict[str, Any], cause: Condition | None
) -> None:
    assert due(ALL, sight(**seen)) is cause


@pytest.mark.parametrize("stated", list(Condition))
def test_only_what_was_agreed_ends_the_work(stated: Condition) -> None:
    everything = sight(
        running=False, worked=True, exits=frozenset({"x"}), idle_s=1e9, age_s=1e9, cost=Decimal(99)
    )
    fields: dict[str, Any] = {
        "batch-done": {"batch_done": True},
        "exit": {"exit": True},
        "idle": {"idle_s": 1},
        "budget": {"budget": Decimal(1)},
        "time": {"time_s": 1},
    }

    assert due(EndWhen(**fields[stated]), everything) is stated
    assert due(EndWhen(**fields[stated]), NOTHING) is None
    assert set(CONDITIONS) == set(Condition)


def test_exit_may_wait_for_one_program() -> None:
    wanted = EndWhen(exit="render")

    assert due(wanted, sight(exits=frozenset({"note"}))) is None
    assert due(wanted, sight(exits=frozenset({"note", "render"}))) is Condition.EXIT


def core_with(*kinds: str, results: int, fails: bool = False) -> Core:
    core = Core()
    script = parse_script(
        [{kind: {"entry_point": "mandel"} if kind == "run" else {}} for kind in kinds]
    )
    record = core.accept("b", script, 10 * NS_PER_S)
    assert record is not None
    core.apply(record)
    for index in range(results):
        ok = not (fails and index == results - 1)
        core.apply(core.finish("b", index, Outcome(ok=ok), 20 * NS_PER_S))
    return core


@pytest.mark.parametrize(
    ("core", "running", "worked", "idle_s"),
    [
        (Core(), False, False, 25.0),
        (core_with("deploy", "start", results=1), True, False, 0.0),
        (core_with("deploy", "start", results=2), False, False, 10.0),
        (core_with("deploy", "start", "run", results=2), True, False, 0.0),
        (core_with("deploy", "start", "run", results=3), False, True, 10.0),
        (core_with("deploy", "start", "run", results=3, fails=True), False, True, 10.0),
        (core_with("deploy", "start", results=1, fails=True), False, False, 10.0),
    ],
)
def test_preparing_is_no_work(core: Core, running: bool, worked: bool, idle_s: float) -> None:
    found = look(
        core,
        agreement_terms(),
        {DURATION: 7.0},
        [1.0, 2.0],
        started_ns=5 * NS_PER_S,
        now_ns=30 * NS_PER_S,
    )

    assert (found.running, found.worked, found.idle_s) == (running, worked, idle_s)
    assert found.exits == (frozenset({"mandel"}) if worked else frozenset())
    assert (found.age_s, found.cost) == (7.0, Decimal("2.5"))


def test_a_process_that_came_back_is_not_idle_from_before() -> None:
    found = look(
        core_with("run", results=1),
        agreement_terms(),
        {},
        [0.0, 0.0],
        started_ns=29 * NS_PER_S,
        now_ns=30 * NS_PER_S,
    )

    assert found.idle_s == 1.0


def ended(*records: dict[str, object]) -> End:
    end = End()
    for record in records:
        end.apply(record)
    return end


DUE = due_record("budget", {"x": 1.0}, 1)
QUIET = quiet_record({"x": 2.0}, 2)


def test_the_usage_stands_still_from_the_moment_the_end_is_due() -> None:
    assert ended(DUE, QUIET).usage == {"x": 1.0}


def test_while_work_may_still_end_its_usage_counts() -> None:
    waiting = ended(due_record("absence", None, 1))

    assert waiting.usage is None
    assert waiting.phase is Phase.STOPPING
    waiting.apply(QUIET)
    assert waiting.usage == {"x": 2.0}


def test_the_whole_way_and_its_words() -> None:
    failed = part_record(Part.FILES, "no such path", 3)
    end = ended(DUE, QUIET, failed, part_record(Part.RESULTS, None, 4), all_record(5))

    assert end.phase is Phase.OVER
    assert end.text() == (
        "Finished by its terms: budget; delivered: results; not delivered: files (no such path)"
    )


@pytest.mark.parametrize(
    ("phase", "step"),
    [(phase, step) for phase in Phase for step in Step if (phase, step) not in TRANSITIONS],
)
def test_a_step_out_of_order_is_damage(phase: Phase, step: Step) -> None:
    core = Core(end=End(phase=phase))

    with pytest.raises(StorageFault):
        core.replay([{"kind": "end", "step": str(step), "at": 1}])


def test_nothing_new_is_accepted_once_the_end_is_due_but_repeats_are_answered() -> None:
    core = core_with("run", results=1)
    core.apply(DUE)

    with pytest.raises(ActivityEnding, match="Finished by its terms: budget"):
        core.accept("b2", parse_script([{"run": {"entry_point": "x"}}]), 1)
    assert core.accept("b", core.batches["b"].script, 1) is None
    assert core.batches["b"].script.commands[0].kind == Kind.RUN


def test_terms_survive_the_way_through_properties() -> None:
    assert parse_end_when(ALL.properties()) == ALL
    sink = ResultSink("https://x/r", "gftp://0x1/y", "/work")
    assert parse_sink(sink.properties()) == sink
    assert sink.schemes == {"https", "gftp"}
    assert parse_end_when({"golem.srv.comp.expiration": 1}) is None
    assert parse_sink({}) is None


@pytest.mark.parametrize(
    "demand",
    [
        {END_WHEN + "batch-done": "yes"},
        {END_WHEN + "exit": ""},
        {END_WHEN + "exit": 1},
        {END_WHEN + "idle-sec": 0},
        {END_WHEN + "idle-sec": float("nan")},
        {END_WHEN + "time-sec": True},
        {END_WHEN + "time-sec": "60"},
        {END_WHEN + "budget": "much"},
        {END_WHEN + "budget": -1},
        {END_WHEN + "budget": "Infinity"},
        {END_WHEN + "bugdet": 1},
        {SINK + "results-url": "/tmp/x"},
        {SINK + "results-url": "file:///tmp/x"},
        {SINK + "results-url": ["https://x"]},
        {SINK + "files-url": "https://x/y"},
        {SINK + "files-path": "/work"},
        {SINK + "files-url": "https://x/y", SINK + "files-path": "work"},
        {SINK + "result-url": "https://x"},
    ],
)
def test_malformed_terms_name_the_property(demand: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"golem\.srv\."):
        parse_end_when(demand)
        parse_sink(demand)
