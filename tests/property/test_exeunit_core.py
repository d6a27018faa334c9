"""The ExeUnit's rules: nothing runs twice, results never move, a replay is the same again."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.activity.messages import ActivityEnding
from shem.exeunit import core as core_module
from shem.exeunit.commands import Kind
from shem.exeunit.core import INTERRUPTED, Begin, Core, Refuse, State
from shem.exeunit.journal import Record
from shem.exeunit.results import Outcome, failure
from shem.exeunit.script import parse_script
from shem.kernel.errors import Conflict, NotFound, StorageFault, UsageError

NOW = 1_795_465_792_000_000_000
DEPLOY: dict[str, object] = {"deploy": {}}
START: dict[str, object] = {"start": {"args": []}}
RUN: dict[str, object] = {"run": {"entry_point": "mandel", "args": []}}
TERMINATE: dict[str, object] = {"terminate": {}}
SIGN: dict[str, object] = {"sign": {}}
OK = Outcome(ok=True, stdout="out")


class Unit:
    """A core with its journal, as the engine drives it."""

    def __init__(self) -> None:
        self.core = Core()
        self.records: list[Record] = []
        self.begun: list[tuple[str, int]] = []

    def write(self, record: Record) -> None:
        self.records.append(copy.deepcopy(record))
        self.core.apply(record)

    def exec(self, batch_id: str, *commands: dict[str, object]) -> bool:
        record = self.core.accept(batch_id, parse_script(list(commands)), NOW)
        if record is not None:
            self.write(record)
        return record is not None

    def begin(self, batch_id: str) -> Begin | Refuse | None:
        step = self.core.next(batch_id)
        if isinstance(step, Begin):
            self.core.begin(batch_id, step)
            self.begun.append((batch_id, step.index))
        return step

    def finish(self, batch_id: str, index: int, outcome: Outcome = OK) -> None:
        self.write(self.core.finish(batch_id, index, outcome, NOW))

    def run(self, batch_id: str) -> None:
        while (step := self.begin(batch_id)) is not None:
            self.finish(batch_id, step.index, OK if isinstance(step, Begin) else step.outcome)

    def messages(self, batch_id: str) -> list[str | None]:
        return [result.outcome.message for result in self.core.batch(batch_id).results]

    def replayed(self) -> Core:
        again = Core()
        again.replay(copy.deepcopy(self.records))
        return again


def ready() -> Unit:
    unit = Unit()
    unit.exec("setup", DEPLOY, START)
    unit.run("setup")
    assert unit.core.state is State.READY
    return unit


def test_deploy_start_run_lead_to_ready() -> None:
    unit = Unit()
    unit.exec("b", DEPLOY, START, RUN)

    unit.run("b")

    assert unit.core.state is State.READY
    assert unit.messages("b") == [None, None, None]


def test_pending_state_shows_while_a_command_runs() -> None:
    unit = Unit()
    unit.exec("b", DEPLOY)

    unit.begin("b")
    assert (unit.core.state, unit.core.pending) == (State.INITIALIZED, State.DEPLOYED)
    unit.finish("b", 0)

    assert (unit.core.state, unit.core.pending) == (State.DEPLOYED, None)


@pytest.mark.parametrize(
    ("before", "command"),
    [((), RUN), ((), START), ((DEPLOY,), RUN), ((DEPLOY,), DEPLOY), ((DEPLOY, START), START)],
)
def test_command_out_of_order_fails_with_a_state_error(
    before: tuple[dict[str, object], ...], command: dict[str, object]
) -> None:
    unit = Unit()
    unit.exec("before", *before)
    unit.run("before")
    state = unit.core.state

    unit.exec("b", command)
    unit.run("b")

    [message] = unit.messages("b")
    assert message is not None
    assert "State error" in message
    assert unit.core.state is state


def test_a_failed_command_ends_its_batch_and_keeps_the_state() -> None:
    unit = Unit()
    unit.exec("b", DEPLOY, START)
    unit.begin("b")

    unit.finish("b", 0, failure("no image"))

    assert unit.core.batch("b").ended
    assert unit.begin("b") is None
    assert unit.core.state is State.INITIALIZED


def test_another_batch_is_busy_while_one_runs() -> None:
    unit = ready()
    unit.exec("long", RUN)
    unit.begin("long")

    unit.exec("other", RUN)
    step = unit.begin("other")

    assert isinstance(step, Refuse)
    assert "Busy" in (step.outcome.message or "")
    unit.finish("long", 0)
    unit.exec("third", RUN)
    assert isinstance(unit.begin("third"), Begin)


def test_terminate_needs_no_turn_and_holds_everything_else_up() -> None:
    unit = ready()
    unit.exec("long", RUN, RUN)
    unit.begin("long")
    unit.exec("end", TERMINATE)

    assert isinstance(unit.begin("end"), Begin)
    unit.finish("long", 0)
    refused = unit.begin("long")
    assert isinstance(refused, Refuse)
    unit.finish("long", 1, refused.outcome)
    unit.finish("end", 0)

    assert unit.core.state is State.INITIALIZED
    unit.exec("again", DEPLOY)
    unit.run("again")
    assert unit.core.state is State.DEPLOYED


def test_repeated_exec_is_accepted_once() -> None:
    unit = ready()

    assert unit.exec("b", RUN) is True
    assert unit.exec("b", RUN) is False
    unit.run("b")
    assert unit.exec("b", RUN) is False

    assert unit.begun.count(("b", 0)) == 1


def test_other_script_under_a_known_id_is_refused() -> None:
    unit = ready()
    unit.exec("b", RUN)

    with pytest.raises(Conflict, match="Batch b already exists"):
        unit.exec("b", RUN, RUN)


def test_a_batch_resolved_as_never_accepted_stays_so() -> None:
    unit = ready()
    accepted, record = unit.core.resolve("b", NOW)
    assert not accepted
    assert record is not None
    unit.write(record)

    with pytest.raises(Conflict, match="never accepted"):
        unit.exec("b", RUN)
    assert unit.core.resolve("b", NOW) == (False, None)
    assert unit.replayed().resolve("b", NOW) == (False, None)


def test_a_batch_that_was_accepted_is_resolved_as_such() -> None:
    unit = ready()
    unit.exec("b", RUN)

    assert unit.core.resolve("b", NOW) == (True, None)


def test_empty_script_has_ended_when_it_is_accepted() -> None:
    unit = Unit()
    unit.exec("b")

    assert unit.core.batch("b").ended
    assert unit.begin("b") is None


def test_what_ran_when_the_process_died_is_interrupted_and_not_run_again() -> None:
    unit = ready()
    unit.exec("b", RUN, RUN, RUN)
    unit.begin("b")
    unit.finish("b", 0)
    unit.begin("b")

    after = unit.replayed()
    for record in after.recover(NOW):
        after.apply(record)

    results = after.batch("b").results
    assert [result.outcome.message for result in results] == [None, INTERRUPTED]
    assert after.next("b") is None
    assert after.state is State.READY
    assert after.recover(NOW) == []


@pytest.mark.parametrize("batch_id", ["", "a b", "../x", "ü", "x" * 65, "a\n"])
def test_what_is_no_id_is_refused(batch_id: str) -> None:
    with pytest.raises(UsageError):
        Core().accept(batch_id, parse_script([]), NOW)


def test_unknown_batch_is_not_found() -> None:
    with pytest.raises(NotFound, match="batch_id = nobatch"):
        Core().batch("nobatch")


def test_terminated_unit_accepts_nothing() -> None:
    unit = ready()
    unit.write({"kind": "state", "state": "Terminated"})

    with pytest.raises(ActivityEnding, match="terminated"):
        unit.exec("b", RUN)


@pytest.mark.parametrize(
    "records",
    [
        [{"kind": "later"}],
        [{"kind": "result", "batch": "b", "index": 0}],
        [{"kind": "state", "state": "Sleeping"}],
        [{"kind": "accepted", "batch": "b", "digest": "0", "script": []}],
        [{"kind": "usage", "values": []}],
    ],
)
def test_impossible_journals_are_refused(records: list[Record]) -> None:
    with pytest.raises(StorageFault):
        Core().replay(records)


def test_output_of_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "BATCH_OUTPUT_SIZE_MAX", 10)
    unit = ready()
    unit.exec("b", RUN, RUN)
    for index in range(2):
        unit.begin("b")
        unit.finish("b", index, Outcome(ok=True, stdout="123456"))

    first, second = unit.core.batch("b").results
    assert first.outcome.stdout == "123456"
    assert second.outcome.stdout is None
    assert "dropped" in (second.outcome.message or "")
    assert second.outcome.ok


def test_activity_that_holds_too_much_output_takes_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_module, "OUTPUT_SIZE_MAX", 10)
    unit = ready()
    unit.exec("b", RUN)
    unit.begin("b")
    unit.finish("b", 0, Outcome(ok=True, stdout=b"x" * 10))

    with pytest.raises(Conflict, match="bytes"):
        unit.exec("c", RUN)


COMMANDS = st.lists(st.sampled_from([DEPLOY, START, RUN, TERMINATE, SIGN]), max_size=4)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["exec", "begin", "finish", "resolve", "crash"]),
        st.sampled_from(["b0", "b1", "b2", "b3"]),
        COMMANDS,
        st.booleans(),
    ),
    max_size=40,
)


def step_once(unit: Unit, open_steps: dict[str, Begin | Refuse], step: tuple) -> None:  # type: ignore[type-arg]
    verb, batch_id, commands, ok = step
    if verb == "exec":
        try:
            unit.exec(batch_id, *commands)
        except Conflict:
            assert batch_id in unit.core.batches or batch_id in unit.core.refused
    elif verb == "resolve":
        _, record = unit.core.resolve(batch_id, NOW)
        if record is not None:
            unit.write(record)
    elif verb == "begin" and batch_id in unit.core.batches and batch_id not in open_steps:
        begun = unit.begin(batch_id)
        if begun is not None:
            open_steps[batch_id] = begun
    elif verb == "finish" and batch_id in open_steps:
        begun = open_steps.pop(batch_id)
        good = ok and isinstance(begun, Begin) and begun.command.kind is not Kind.SIGN
        unit.finish(batch_id, begun.index, OK if good else failure("failed"))
    elif verb == "crash":
        open_steps.clear()
        unit.core = unit.replayed()
        for record in unit.core.recover(NOW):
            unit.write(record)


@given(STEPS)
def test_whatever_happens_nothing_runs_twice_and_a_replay_is_the_same(steps: list) -> None:  # type: ignore[type-arg]
    unit = Unit()
    open_steps: dict[str, Begin | Refuse] = {}
    for step in steps:
        before = {key: list(batch.results) for key, batch in unit.core.batches.items()}

        step_once(unit, open_steps, step)

        for key, results in before.items():
            assert unit.core.batches[key].results[: len(results)] == results
        assert not set(unit.core.batches) & unit.core.refused
    assert len(unit.begun) == len(set(unit.begun))
    again = unit.replayed()
    assert (again.state, again.batches, again.refused) == (
        unit.core.state,
        unit.core.batches,
        unit.core.refused,
    )
