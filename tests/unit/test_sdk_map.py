"""`golem.map`: every input computed once, through deaths of programs and providers."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import shem
from shem.kernel.errors import UsageError
from tests.rented import (
    AGREEMENT_ID,
    AWAY,
    GONE,
    HERE,
    MARKET,
    NOT_SUPPORTED_BY_YAGNA,
    WASM,
    accept_batch,
    batch_row,
    golem,
    proposal,
    rentable,
    results,
)
from tests.scripted_node import Answer, Call, ScriptedNode, ok, scripted_node

EXEC = HERE + "/*/exec"
RESULTS = HERE + "/*/exec/*"


class Results:
    """Answers polls: launches succeed; an input's batch gives its script's argument, when open."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self.open = True
        self.sent_two = asyncio.Event()
        self.scripts: dict[str, str] = {}
        node.answer("GET", "/version/get", ok({"current": {"version": "1", "name": "shem 1"}}))
        node.answer("POST", EXEC, self.execute)
        node.answer("GET", RESULTS, self.poll)

    def execute(self, call: Call) -> Answer:
        self.scripts[call.body["batchId"]] = call.body["text"]
        if len(self.inputs_sent()) >= 2:
            self.sent_two.set()
        return accept_batch(call)

    def poll(self, call: Call) -> Answer:
        text = self.scripts.get(call.path.rpartition("/")[2], "")
        if "deploy" in text:
            return ok(results("deployed", "started"))
        if not self.open:
            return ok([])
        argument = text.partition('"args":["')[2].partition('"')[0]
        return ok(results(f"out {argument}"))

    def inputs_sent(self) -> list[str]:
        sent = [call.body["text"] for call in self.node.made("POST", EXEC)]
        return [text.partition('"args":["')[2].partition('"')[0] for text in sent if "run" in text]


def script(value: int) -> shem.Run:
    return shem.Run("tool", str(value))


def rent_again(node: ScriptedNode, times: int = 20) -> None:
    """Let the market lead to an agreement as often as it is asked."""
    turns = [ok([proposal("R-1")]), ok([proposal("R-3", prev="R-2")])] * times
    node.answer("GET", f"{MARKET}/demands/*/events", *turns, ok([]))


def held(node: ScriptedNode) -> None:
    """The node knows an agreement of the earlier program."""
    node.answer("GET", f"{MARKET}/agreements", ok([{"id": AGREEMENT_ID, "timestamp": "t"} | ROLE]))


ROLE = {"role": "Requestor"}


def a_map(session: shem.Golem, directory: Path, inputs: Any = range(3), **options: Any) -> Any:
    options = {"payload": WASM, "name": "numbers", "timeout": 2.0, "state_dir": directory} | options
    return session.map(script, inputs, **options)


@pytest.fixture
def no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shem.sdk.workers.SIGN_OF_LIFE_S", 0.02)
    monkeypatch.setattr("shem.sdk.workers.RECRUIT_PAUSE_S", 0.02)


async def test_all_inputs_are_computed_and_the_worker_is_given_back(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        answers = Results(node)
        async with golem(node) as session:
            found = await a_map(session, tmp_path)

    assert [(done.input, done.result.stdout, done.kept) for done in found] == [
        (0, "out 0", False),
        (1, "out 1", False),
        (2, "out 2", False),
    ]
    assert answers.inputs_sent() == ["0", "1", "2"]
    assert node.count("DELETE", HERE + "/*") == 1
    assert node.count("POST", f"{MARKET}/agreements/*/terminate") == 1


async def test_a_finished_map_rents_nothing_and_gives_what_was_kept(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        answers = Results(node)
        async with golem(node) as session:
            await a_map(session, tmp_path)
            demands = node.count("POST", f"{MARKET}/demands")
            again = await a_map(session, tmp_path)

    assert [(done.result.stdout, done.kept) for done in again] == [
        ("out 0", True),
        ("out 1", True),
        ("out 2", True),
    ]
    assert len(answers.inputs_sent()) == 3 and node.count("POST", f"{MARKET}/demands") == demands


async def test_fresh_begins_anew(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        rent_again(node)
        answers = Results(node)
        async with golem(node) as session:
            await a_map(session, tmp_path)
            again = await a_map(session, tmp_path, fresh=True)

    assert not any(done.kept for done in again) and len(answers.inputs_sent()) == 6


async def left_in_flight(node: ScriptedNode, directory: Path) -> Results:
    """Run a map whose first input is computed and whose second hangs, and let go of it."""
    answers = Results(node)
    node.answer("GET", f"{MARKET}/agreements", ok([]))
    async with golem(node) as session, a_map(session, directory, on_exit="detach") as mapping:
        async for done in mapping:
            assert done.input == 0
            answers.open = False
            break
        await asyncio.wait_for(answers.sent_two.wait(), 5.0)
    held(node)
    return answers


async def test_the_next_program_waits_for_the_batch_in_flight(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node)
        answers = await left_in_flight(node, tmp_path)
        assert node.count("DELETE", HERE + "/*") == 0
        demands, created = node.count("POST", f"{MARKET}/demands"), node.count("POST", HERE)
        answers.open = True
        async with golem(node) as session, a_map(session, tmp_path) as mapping:
            found = {done.input: done async for done in mapping}

    assert {value: done.kept for value, done in found.items()} == {0: True, 1: False, 2: False}
    ids = [call.body["batchId"] for call in node.made("POST", EXEC) if "tool" in str(call.body)]
    assert len(ids) == 4 and ids[1] == ids[2], "the batch is sent again under its own id"
    assert len(set(ids)) == 3
    assert (node.count("POST", f"{MARKET}/demands"), node.count("POST", HERE)) == (demands, created)
    assert mapping.recomputed == ()


@pytest.mark.parametrize(("known", "recomputed"), [(True, 1), (False, 0)])
async def test_an_input_lost_with_its_activity_is_computed_again_and_said(
    tmp_path: Path, known: bool, recomputed: int
) -> None:
    async with scripted_node() as node:
        rentable(node)
        rent_again(node)
        answers = await left_in_flight(node, tmp_path)
        lost = node.made("POST", EXEC)[-1].body["batchId"]
        node.answer("GET", f"{MARKET}/agreements", ok([]))
        node.answer("GET", EXEC, ok([batch_row(lost)] if known else []))

        def poll(call: Call) -> Answer:
            return GONE if call.path.endswith(lost) else answers.poll(call)

        node.answer("GET", RESULTS, poll)
        answers.open = True
        async with golem(node) as session, a_map(session, tmp_path) as mapping:
            found = [done async for done in mapping]

    assert sorted(done.input for done in found) == [0, 1, 2] and all(done.ok for done in found)
    assert len(mapping.recomputed) == recomputed
    assert all((again.index, again.batch_id) == (1, lost) for again in mapping.recomputed)


async def test_results_that_the_node_kept_of_an_ended_activity_are_accepted(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node)
        rent_again(node)
        answers = await left_in_flight(node, tmp_path)
        node.answer("GET", f"{MARKET}/agreements", ok([]))
        answers.open = True
        async with golem(node) as session, a_map(session, tmp_path) as mapping:
            found = [done async for done in mapping]

    assert len(found) == 3 and mapping.recomputed == ()
    assert sorted(answers.inputs_sent()) == ["0", "1", "2"]


@pytest.mark.usefixtures("no_rests")
async def test_a_worker_whose_provider_is_silent_is_replaced(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        rent_again(node)
        answers = Results(node)
        silent = {"on": False}
        lost: list[str] = []

        def poll(call: Call) -> Answer:
            batch_id = call.path.rpartition("/")[2]
            if "tool" in answers.scripts[batch_id] and (not lost or batch_id in lost):
                silent["on"] = True
                lost[:] = [batch_id]
                return ok([])
            silent["on"] = False
            return answers.poll(call)

        node.answer("GET", RESULTS, poll)
        node.answer(
            "GET",
            HERE + "/*/state",
            lambda _: AWAY if silent["on"] else ok({"state": ["Ready", None]}),
        )
        node.answer("GET", EXEC, lambda _: ok([batch_row(batch) for batch in lost]))
        async with (
            golem(node) as session,
            a_map(session, tmp_path, [7], silence_s=0.1) as mapping,
        ):
            found = [done async for done in mapping]

    assert [done.result.stdout for done in found] == ["out 7"]
    assert [again.batch_id for again in mapping.recomputed] == lost
    assert "silent" in mapping.recomputed[0].why
    assert node.count("POST", HERE) == 2


async def test_an_interrupted_result_is_no_result(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        answers = Results(node)
        tries: list[str] = []

        def poll(call: Call) -> Answer:
            batch_id = call.path.rpartition("/")[2]
            if "tool" in answers.scripts[batch_id] and batch_id not in tries:
                tries.append(batch_id)
            if tries and batch_id == tries[0]:
                torn = results("", fails=True)
                torn[0]["message"] = "interrupted, outcome unknown: the ExeUnit ended"
                return ok(torn)
            return answers.poll(call)

        node.answer("GET", RESULTS, poll)
        node.answer("GET", EXEC, lambda _: ok([batch_row(batch) for batch in tries]))
        async with golem(node) as session, a_map(session, tmp_path, [1]) as mapping:
            (done,) = [done async for done in mapping]

    assert done.ok and [again.batch_id for again in mapping.recomputed] == [tries[0]]
    assert node.count("POST", HERE) == 1, "the worker itself is still good"


async def test_a_command_that_fails_is_a_result(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        answers = Results(node)
        node.answer(
            "GET",
            RESULTS,
            lambda call: (
                answers.poll(call)
                if "deploy" in answers.scripts[call.path.rpartition("/")[2]]
                else ok(results("no", fails=True))
            ),
        )
        async with golem(node) as session:
            (done,) = await a_map(session, tmp_path, [1])

    assert not done.ok and done.error is None
    with pytest.raises(shem.CommandFailed):
        done.result.check()
    assert answers.inputs_sent() == ["1"]


async def test_an_input_that_is_lost_again_and_again_is_given_up_and_said(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        answers = Results(node)
        torn = results("", fails=True)
        torn[0]["message"] = "interrupted, outcome unknown: x"

        def poll(call: Call) -> Answer:
            text = answers.scripts[call.path.rpartition("/")[2]]
            return ok(torn) if '"1"' in text else answers.poll(call)

        node.answer("GET", RESULTS, poll)
        node.answer("GET", EXEC, lambda _: ok([batch_row(batch) for batch in answers.scripts]))
        async with golem(node) as session:
            found = await a_map(session, tmp_path, attempts=2)

    assert [done.ok for done in found] == [True, False, True]
    assert "interrupted" in (found[1].error or "")
    with pytest.raises(shem.GolemError, match="input 1 has no result"):
        _ = found[1].result
    assert answers.inputs_sent().count("1") == 2


async def test_without_any_provider_the_map_says_so_and_can_go_on_later(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        node.answer("GET", f"{MARKET}/demands/*/events", ok([]))
        answers = Results(node)
        async with golem(node) as session:
            with pytest.raises(shem.NoProvider):
                await a_map(session, tmp_path, timeout=0.1)
            rent_again(node)
            assert len(await a_map(session, tmp_path)) == 3
    assert answers.inputs_sent() == ["0", "1", "2"]


async def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        Results(node)
        async with golem(node) as session, a_map(session, tmp_path) as mapping:
            async for _ in mapping:
                break

    assert node.count("POST", f"{MARKET}/agreements/*/terminate") >= 1


async def test_at_a_yagna_an_unconfirmed_batch_is_not_sent_twice_blindly(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node)
        rent_again(node)
        answers = await left_in_flight(node, tmp_path)
        node.answer("GET", EXEC, NOT_SUPPORTED_BY_YAGNA)
        node.answer("GET", HERE + "/*/absence", NOT_SUPPORTED_BY_YAGNA)
        answers.open = True
        unknown = node.made("POST", EXEC)[-1].body["batchId"]
        answers.scripts.pop(unknown)
        node.answer(
            "GET",
            RESULTS,
            lambda call: (
                Answer(404, {"message": "Not found"})
                if call.path.endswith(unknown)
                else answers.poll(call)
            ),
        )
        node.answer("GET", "/version/get", ok({"current": {"version": "0.17.6", "name": "y"}}))
        async with golem(node) as session, a_map(session, tmp_path) as mapping:
            found = [done async for done in mapping]

    assert len(found) == 3
    assert [again.batch_id for again in mapping.recomputed] == [unknown]


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 1001}, {"attempts": 0}])
async def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            with pytest.raises(UsageError, match="workers and at least one attempt"):
                a_map(session, tmp_path, **options)


async def test_a_map_without_inputs_is_finished(tmp_path: Path) -> None:
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        async with golem(node) as session:
            assert await a_map(session, tmp_path, []) == []
    assert node.count("POST", f"{MARKET}/demands") == 0


async def test_a_refusal_of_an_activity_that_is_about_to_end_is_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.sdk.workers.REFUSAL_PAUSE_S", 0.01)
    message = "Service error: the activity is ending: it is being terminated"
    refused = Answer(410, {"message": message, "code": "activity-ending"})
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        rent_again(node)
        answers = Results(node)
        ending = {"looks": 0}

        def execute(call: Call) -> Answer:
            accepted = answers.execute(call)
            if "run" in call.body["text"] and answers.inputs_sent() == ["5"]:
                ending["looks"] = 1
                del answers.scripts[call.body["batchId"]]
                return refused
            return accepted

        def poll(call: Call) -> Answer:
            known = call.path.rpartition("/")[2] in answers.scripts
            return answers.poll(call) if known else Answer(404, {"message": "Not found"})

        def state(_: Call) -> Answer:
            looks = ending["looks"]
            ending["looks"] = looks + 1 if looks else 0
            gone = 2 <= looks <= 3
            return ok({"state": ["Ready", "Terminated" if gone else None]})

        node.answer("POST", EXEC, execute)
        node.answer("GET", RESULTS, poll)
        node.answer("GET", HERE + "/*/state", state)
        async with golem(node) as session, a_map(session, tmp_path, [5]) as mapping:
            (done,) = [done async for done in mapping]

    assert done.ok and answers.inputs_sent() == ["5", "5"]
    assert mapping.recomputed == () and node.count("POST", HERE) == 2


async def test_a_script_that_is_refused_is_the_programs_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.sdk.workers.REFUSAL_PAUSE_S", 0.01)
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        answers = Results(node)

        def execute(call: Call) -> Answer:
            accepted = answers.execute(call)
            return Answer(400, {"message": "Bad request: x"}) if answers.inputs_sent() else accepted

        node.answer("POST", EXEC, execute)
        async with golem(node) as session:
            with pytest.raises(shem.NodeRefused, match="Bad request: x"):
                await a_map(session, tmp_path)


async def test_each_worker_is_rented_on_the_terms_for_its_end(tmp_path: Path) -> None:
    offers = {"golem.srv.caps.end-when": ["budget", "idle"]}
    async with scripted_node() as node:
        rentable(node).answer("GET", f"{MARKET}/agreements", ok([]))
        node.answer(
            "GET",
            f"{MARKET}/demands/*/events",
            ok([proposal("R-1", **offers)]),
            ok([proposal("R-3", prev="R-2", **offers)]),
        )
        Results(node)
        async with golem(node) as session:
            wanted = shem.EndWhen(budget=Decimal("0.5"), idle_s=600.0)
            await a_map(session, tmp_path, end_when=wanted)

        [counter] = node.made("POST", f"{MARKET}/demands/*/proposals/*")
    said = counter.body["properties"]
    assert said["golem.srv.end-when.budget"] == "0.5"
    assert said["golem.srv.end-when.idle-sec"] == 600.0


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"end_when": shem.EndWhen(batch_done=True)}, "after its first input"),
        ({"end_when": shem.EndWhen(exit="tool")}, "after its first input"),
        (
            {
                "end_when": shem.EndWhen(idle_s=9),
                "result_sink": shem.ResultSink("http://127.0.0.1/x"),
                "workers": 2,
            },
            "the same place",
        ),
    ],
)
async def test_terms_that_a_map_cannot_mean_are_refused(
    tmp_path: Path, terms: dict[str, Any], why: str
) -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            with pytest.raises(UsageError, match=why):
                a_map(session, tmp_path, **terms)
