"""Batches: sent exactly once, read completely, whatever happens to the connection."""

from typing import Any

import pytest

import shem
from shem.kernel.errors import UsageError
from tests.rented import (
    AWAY,
    GONE,
    HERE,
    MARKET,
    NOT_SUPPORTED_BY_YAGNA,
    WASM,
    accept_batch,
    agreement,
    batch_row,
    golem,
    rentable,
    results,
)
from tests.scripted_node import LOST, Answer, Call, ScriptedNode, ok, scripted_node

EXEC = HERE + "/*/exec"
RESULTS = HERE + "/*/exec/*"


def sent_ids(node: ScriptedNode) -> list[str]:
    """Batch ids of the execs after the deploy."""
    return [call.body["batchId"] for call in node.made("POST", EXEC)[1:]]


def list_it(node: ScriptedNode, state: str) -> Any:
    return lambda _call: ok([batch_row(node.made("POST", EXEC)[-1].body["batchId"], state)])


NOBODY_THERE = Answer(
    500, {"message": "GSB failure: Bad request: endpoint address not found", "code": None}
)
"""The answer of a provider whose ExeUnit is not running."""


async def test_an_accepted_batch_whose_answer_was_lost_is_not_sent_again() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, LOST)
            node.answer("GET", EXEC, list_it(node, "accepted"))

            batch = await activity.submit(shem.Run("mandel"))

        assert sent_ids(node) == [batch.id]


async def test_a_batch_the_node_never_noted_is_sent_again_under_the_same_id() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, LOST, accept_batch)
            node.answer("GET", EXEC, ok([batch_row("0" * 32)]))

            batch = await activity.submit(shem.Run("mandel"))

        assert sent_ids(node) == [batch.id, batch.id]


async def test_an_unknown_batch_is_asked_for_until_the_node_knows() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, AWAY)
            node.answer("GET", EXEC, list_it(node, "unknown"), list_it(node, "accepted"))

            batch = await activity.submit(shem.Run("mandel"))

        assert sent_ids(node) == [batch.id]
        assert node.count("GET", EXEC) == 2


async def test_a_batch_that_stays_unknown_is_reported_with_its_id() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node, patience=0.3) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, AWAY)
            node.answer("GET", EXEC, list_it(node, "unknown"))

            with pytest.raises(shem.BatchUnknown, match="do not submit it again") as caught:
                await activity.submit(shem.Run("mandel"))

        assert sent_ids(node) == [caught.value.batch_id]


async def test_a_batch_that_provably_never_ran_is_sent_under_a_new_id() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, LOST, accept_batch)
            node.answer("GET", EXEC, list_it(node, "never"))

            batch = await activity.submit(shem.Run("mandel"))

        first, second = sent_ids(node)
        assert first != second == batch.id


async def test_a_repeat_that_is_told_never_is_sent_under_a_new_id() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            never = Answer(409, {"message": "never ran", "code": "batch-never"})
            node.answer("POST", EXEC, LOST, never, accept_batch)
            node.answer("GET", EXEC, ok([]))

            batch = await activity.submit(shem.Run("mandel"))

        first, repeated, renewed = sent_ids(node)
        assert first == repeated != renewed == batch.id


async def test_an_exe_unit_that_is_being_started_again_is_waited_for() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, NOBODY_THERE, NOBODY_THERE, accept_batch)

            batch = await activity.submit(shem.Run("mandel"))

        assert sent_ids(node)[-1] == batch.id
        assert len(set(sent_ids(node))) == 3


async def test_an_activity_that_is_just_ending_has_ended_for_who_sends_to_it() -> None:
    why = "Service error: the activity is ending: Finished by its terms: budget"
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, Answer(410, {"message": why, "code": "activity-ending"}))

            with pytest.raises(shem.ActivityGone, match="Finished by its terms: budget") as told:
                await activity.submit(shem.Run("mandel"))

        assert told.value.ended.by == "Provider"
        assert len(sent_ids(node)) == 1


async def test_a_batch_id_of_the_caller_is_refused_where_nobody_is() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, NOBODY_THERE)

            with pytest.raises(shem.NodeRefused) as caught:
                await activity.submit(shem.Run("mandel"), batch_id="1" * 32)

        assert caught.value.code == "endpoint-gone"
        assert sent_ids(node) == ["1" * 32]


async def test_a_batch_id_of_the_caller_is_never_replaced() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, LOST)
            node.answer("GET", EXEC, list_it(node, "never"))

            with pytest.raises(shem.NodeRefused, match="never ran and never will"):
                await activity.submit(shem.Run("mandel"), batch_id="1" * 32)

        assert sent_ids(node) == ["1" * 32]


async def test_at_a_yagna_an_unanswered_exec_stays_unknown_and_is_not_repeated() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, LOST)
            node.answer("GET", EXEC, NOT_SUPPORTED_BY_YAGNA)

            with pytest.raises(shem.BatchUnknown):
                await activity.submit(shem.Run("mandel"))

        assert len(sent_ids(node)) == 1


async def test_at_a_yagna_the_daemons_own_batch_id_is_used() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, ok("2" * 32))
            node.answer("GET", HERE + "/*/exec/" + "2" * 32, ok(results("done")))

            batch = await activity.submit(shem.Run("mandel"))

        assert batch.id == "2" * 32


async def test_results_come_one_by_one_and_an_outage_is_sat_out() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            batch = await activity.submit([shem.Run("mandel"), shem.Run("mandel")])
            node.answer(
                "GET",
                RESULTS,
                ok([]),
                LOST,
                AWAY,
                ok(results("one", of=2)),
                Answer(408, {"message": "Timeout"}),
                ok(results("one", "two")),
            )

            seen = [(result.index, result.stdout) async for result in batch.results()]

        assert seen == [(0, "one"), (1, "two")]


async def test_results_can_be_read_from_an_index_and_again() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("GET", RESULTS, ok(results("one", "two", "three")))
            batch = activity.batch("3" * 32)

            assert [r.stdout async for r in batch.results(from_index=1)] == ["two", "three"]
            assert [r.stdout for r in await batch.wait()] == ["one", "two", "three"]


async def test_a_failed_command_ends_the_batch_and_check_raises() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("GET", RESULTS, ok(results("half", fails=True, of=3)))

            result = await activity.run("mandel", "zoom")
            with pytest.raises(shem.CommandFailed, match="exited with code 3") as caught:
                await activity.run("mandel", "zoom", check=True)

        assert not result.ok and result.stdout == "half"
        assert caught.value.result.index == 0


async def test_a_batch_that_takes_too_long_runs_on() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            batch = await activity.submit(shem.Run("mandel"))
            node.answer("GET", RESULTS, ok([]))

            with pytest.raises(shem.BatchTimeout, match="it runs on"):
                await batch.wait(timeout_s=0.2)


async def test_a_batch_that_does_not_exist() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("GET", RESULTS, Answer(404, {"message": "Not found: batch_id = x"}))

            with pytest.raises(shem.BatchUnknown, match="has no batch"):
                await activity.batch("4" * 32).wait()


async def test_an_activity_that_is_gone_says_who_ended_it_and_why() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, GONE)
            node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Terminated")))
            node.answer(
                "GET",
                f"{MARKET}/agreements/*/terminate/reason",
                ok(
                    {
                        "eventType": "AgreementTerminatedEvent",
                        "eventDate": "2026-11-23T20:10:07Z",
                        "agreementId": "x",
                        "terminator": "Provider",
                        "reason": {"message": "shutting down", "golem.provider.code": "Shutdown"},
                    }
                ),
            )

            with pytest.raises(shem.AgreementEnded, match=r"Provider .* shutting down"):
                await activity.run("mandel")


async def test_an_activity_that_died_under_its_agreement() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, GONE)
            state = {"state": ["Terminated", None], "errorMessage": "out of memory"}
            node.answer("GET", HERE + "/*/state", ok(state))

            with pytest.raises(shem.ActivityGone, match="out of memory") as caught:
                await activity.run("mandel")

        assert not isinstance(caught.value, shem.AgreementEnded)


async def test_waiting_for_a_batch_ends_when_the_activity_does() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            batch = await activity.submit(shem.Run("mandel"))
            node.answer("GET", RESULTS, ok([]))
            node.answer("GET", HERE + "/*/state", ok({"state": ["Terminated", None]}))

            with pytest.raises(shem.ActivityGone):
                await batch.wait()


async def test_a_refused_script_is_told_as_the_node_tells_it() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("POST", EXEC, Answer(400, {"message": "Bad request: unknown variant"}))

            with pytest.raises(shem.NodeRefused, match="unknown variant") as caught:
                await activity.submit(shem.Run("mandel"))

        assert caught.value.status == 400


@pytest.mark.parametrize("script", [[], "run", [{"run": {}}], [shem.Run("x"), None]])
async def test_a_script_is_made_of_commands(script: Any) -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            with pytest.raises(UsageError):
                await activity.submit(script)

        assert sent_ids(node) == []


async def test_binary_output_becomes_text() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            (one,) = results("x")
            node.answer("GET", RESULTS, ok([{**one, "stdout": [104, 105], "stderr": "e"}]))

            result = await activity.run("mandel")

        assert (result.stdout, result.stderr) == ("hi", "e")


async def test_an_exec_before_the_node_is_back_waits_for_it() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:

            def accept(call: Call) -> Answer:
                return ok(call.body["batchId"])

            node.answer("POST", EXEC, LOST, LOST, accept)
            node.answer("GET", EXEC, LOST, ok([]))

            await activity.submit(shem.Run("mandel"))

        assert len(set(sent_ids(node))) == 1
