"""Two nodes, create to destroy, with the failures of docs/protocol/activity-exeunit.md §5.5."""

import asyncio
from typing import Any

import pytest

from shem.activity.messages import EndpointGone
from shem.activity.results import INTERRUPTED
from shem.activity.watch import GRACE_S
from shem.kernel.errors import Conflict, NotFound, TimedOut, Unreachable, UsageError
from shem.kernel.ids import BatchId
from tests.sim.activity_town import AGREEMENT, RUN, THREE, Play, Town, replies, requests

BATCH = BatchId("0123456789abcdef" * 2)


def outputs(results: list[dict[str, Any]]) -> list[str]:
    return [entry["stdout"] for entry in results]


def test_create_exec_results_destroy(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        assert await town.state(activity) == ["Initialized", None]

        batch = await town.exec(activity, THREE)
        results = await town.results(activity, batch)

        assert outputs(results) == ["out0\n", "out1\n", "out2\n"]
        assert [entry["isBatchFinished"] for entry in results] == [False, False, True]
        await town.destroy(activity)
        await town.destroy(activity)
        assert await town.state(activity) == ["Terminated", None]
        assert await town.state(activity, town.provider) == ["Terminated", None]
        assert outputs(await town.results(activity, batch)) == ["out0\n", "out1\n", "out2\n"]

    play(story)


def test_results_come_one_by_one_while_a_batch_runs(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, THREE)

        assert await town.results(activity, batch, timeout_s=1) == []
        town.agent.unit.finish(batch)
        assert outputs(await town.results(activity, batch, index=0)) == ["out0\n"]
        with pytest.raises(TimedOut):
            await town.results(activity, batch, timeout_s=1, index=1)
        town.agent.unit.finish(batch)
        town.agent.unit.finish(batch)
        second = await town.results(activity, batch, index=1)
        assert outputs(second) == [None, "out1\n"]
        assert second[-1]["isBatchFinished"]
        assert len(await town.results(activity, batch)) == 3

    play(story)


def test_a_batch_that_fails_early_is_told_at_once(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, THREE)
        clock = town.world.clock

        started = clock.monotonic()
        town.agent.unit.finish(batch, ok=False)
        results = await town.results(activity, batch, timeout_s=60)

        assert [entry["result"] for entry in results] == ["Error"]
        assert results[-1]["isBatchFinished"]
        assert clock.monotonic() - started < 2

    play(story)


def test_an_empty_script_is_finished_at_once(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        batch = await town.exec(activity, "[]")
        assert await town.results(activity, batch, timeout_s=60) == []
        assert (await town.batches(activity))[batch]["isFinished"] is True

    play(story)


def test_a_lost_exec_reply_is_repeated_and_runs_once(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.provider.net.drops = replies("Exec", times=2)

        batch = await town.exec(activity, batch_id=BATCH)

        assert batch == BATCH
        assert town.agent.unit.ran == [f"{BATCH}:0"]
        assert town.provider.net.lost == ["Exec", "Exec"]

    play(story)


def test_a_lost_exec_reply_of_a_legacy_exeunit_is_accepted_by_its_refusal_of_the_repeat(
    play_legacy: Play,
) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.provider.net.drops = replies("Exec", times=1)

        batch = await town.exec(activity)

        assert town.agent.unit.ran == [f"{batch}:0"]
        assert (await town.batches(activity))[batch]["state"] == "accepted"

    play_legacy(story)


def test_an_exec_without_any_answer_is_unknown_and_then_told_truly_as_accepted(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.provider.net.drops = replies("Exec")
        with pytest.raises(TimedOut) as error:
            await town.exec(activity, batch_id=BATCH)
        assert error.value.code == "timeout"
        town.provider.net.drops = replies()

        listed = await town.batches(activity)

        assert listed[BATCH]["state"] == "accepted"
        assert outputs(await town.results(activity, BATCH)) == ["out0\n"]
        assert town.agent.unit.ran == [f"{BATCH}:0"]

    play(story)


def test_an_exec_that_never_arrived_is_told_truly_as_never(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=BATCH)
        town.requestor.net.drops = requests()

        with pytest.raises(NotFound) as error:
            await town.results(activity, BATCH)

        assert error.value.code == "batch-never"
        assert (await town.batches(activity))[BATCH]["state"] == "never"
        with pytest.raises(Conflict) as again:
            await town.exec(activity, batch_id=BATCH)
        assert again.value.code == "batch-never"
        assert town.agent.unit.ran == []

    play(story)


def test_a_create_that_comes_as_another_is_answered_makes_its_own_activity(play: Play) -> None:
    async def story(town: Town) -> None:
        store = town.requestor.store
        first = asyncio.create_task(town.create())
        while not await store.fetch("SELECT 1 FROM activity_intent"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        async with store.unit(AGREEMENT):
            second = asyncio.create_task(town.create())
            await asyncio.sleep(1)  # the answer is there, and not noted yet

        assert await first != await second

    play(story)


def test_an_exec_after_a_lost_answer_of_never_is_told_to_take_another_id(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=BATCH)
        town.requestor.net.drops = requests()
        town.provider.net.drops = replies("ResolveBatch")
        assert (await town.batches(activity))[BATCH]["state"] == "unknown"
        town.provider.net.drops = replies()

        with pytest.raises(Conflict) as error:
            await town.exec(activity, batch_id=BATCH)

        assert error.value.code == "batch-never"
        assert (await town.batches(activity))[BATCH]["state"] == "never"
        assert town.agent.unit.ran == []

    play(story)


def test_a_node_killed_between_intent_and_answer_does_not_know_and_asks(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        task = asyncio.create_task(town.exec(activity, batch_id=BATCH))
        await asyncio.sleep(1)
        assert (await town.batches(activity))[BATCH]["state"] == "intent"
        task.cancel()
        await asyncio.wait((task,))
        await town.requestor.restart()
        town.cut()
        assert (await town.batches(activity))[BATCH]["state"] == "unknown"
        town.join()

        assert (await town.batches(activity))[BATCH]["state"] == "never"
        assert town.agent.unit.ran == []

    play(story)


def test_an_error_proves_nothing_about_a_batch_that_was_sent_before(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        task = asyncio.create_task(town.exec(activity, batch_id=BATCH))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait((task,))
        await town.requestor.restart()
        await asyncio.sleep(GRACE_S)
        town.agent.unit.unbind()

        with pytest.raises(TimedOut, match="endpoint address not found"):
            await town.exec(activity, batch_id=BATCH)

        assert (await town.batches(activity))[BATCH]["state"] == "unknown"
        other = BatchId("f" * 32)
        with pytest.raises(EndpointGone):
            await town.exec(activity, batch_id=other)
        assert (await town.batches(activity))[other]["state"] == "never"

    play(story)


def test_a_refusal_of_what_was_sent_before_is_told_as_no_answer(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec", times=1)
        town.agent.unit.refuses = "No space left on device"

        with pytest.raises(TimedOut, match=r"at first, then: .*No space left"):
            await town.exec(activity, batch_id=BATCH)

        assert (await town.batches(activity))[BATCH]["state"] == "never"  # it was asked
        other = BatchId("f" * 32)
        with pytest.raises(UsageError, match="No space left"):
            await town.exec(activity, batch_id=other)
        assert (await town.batches(activity))[other]["state"] == "refused"

    play(story)


def test_a_batch_that_found_no_exeunit_is_told_again_as_one_that_never_ran(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await asyncio.sleep(GRACE_S)
        town.agent.unit.unbind()
        with pytest.raises(EndpointGone):  # an answer that its program may not have read
            await town.exec(activity, batch_id=BATCH)

        with pytest.raises(Conflict) as again:
            await town.exec(activity, batch_id=BATCH)

        assert again.value.code == "batch-never"
        assert (await town.batches(activity))[BATCH]["state"] == "never"

    play(story)


def test_an_unknown_batch_stays_unknown_while_the_provider_is_away(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=BATCH)
        town.requestor.net.drops = requests()
        town.cut()

        assert (await town.batches(activity))[BATCH]["state"] == "unknown"
        assert await town.results(activity, BATCH, timeout_s=2) == []

    play(story)


def test_at_a_legacy_provider_an_unanswered_batch_that_is_not_there_stays_unknown(
    play_legacy: Play,
) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=BATCH)
        town.requestor.net.drops = requests()

        assert (await town.batches(activity))[BATCH]["state"] == "unknown"

        await town.exec(activity, batch_id=BATCH)
        assert town.agent.unit.ran == [f"{BATCH}:0"]

    play_legacy(story)


def test_the_same_batch_again_is_answered_again_and_another_script_is_refused(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        for _ in range(3):
            assert await town.exec(activity, batch_id=BATCH) == BATCH
        with pytest.raises(UsageError, match=f"Bad request: Batch {BATCH} already exists"):
            await town.exec(activity, THREE, batch_id=BATCH)
        assert town.agent.unit.ran == [f"{BATCH}:0"]

    play(story)


def test_an_unreachable_provider_delays_an_exec_within_its_time(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.cut()
        asyncio.get_running_loop().call_later(3, town.join)

        batch = await town.exec(activity, timeout_s=5)

        assert town.agent.unit.ran == [f"{batch}:0"]

    play(story)


def test_a_lost_create_reply_is_repeated_and_makes_one_activity(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity", times=1)

        activity = await town.create(timeout_s=20)

        assert list(town.agent.units) == [activity]
        assert town.agent.events == ["CreateActivity"]

    play(story)


def test_a_create_without_any_answer_is_taken_up_by_the_next_call(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")
        with pytest.raises(TimedOut, match="Timeout"):
            await town.create(timeout_s=3)
        town.provider.net.drops = replies()

        activity = await town.create()

        assert list(town.agent.units) == [activity]

    play(story)


def test_a_create_survives_the_restart_of_the_requestor_before_it_was_sent(play: Play) -> None:
    async def story(town: Town) -> None:
        town.requestor.net.drops = requests("CreateActivity")
        with pytest.raises(TimedOut):
            await town.create(timeout_s=3)
        await town.requestor.restart()

        first = await town.create()
        second = await town.create()

        assert first != second
        assert list(town.agent.units) == [first, second]

    play(story)


def test_a_lost_create_at_a_legacy_provider_is_reported(play_legacy: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")

        with pytest.raises(TimedOut, match="terminate agreement") as error:
            await town.create(timeout_s=3)

        assert error.value.code == "create-unknown"
        assert town.provider.net.lost == ["CreateActivity"]

    play_legacy(story)


def test_an_intent_of_the_client_is_sent_once_to_a_legacy_provider(play_legacy: Play) -> None:
    async def story(town: Town) -> None:
        service, caller = town.requestor.service, town.requestor.caller
        town.provider.net.drops = replies("CreateActivity", times=1)
        for _ in range(2):
            with pytest.raises(TimedOut) as error:
                await service.create(caller, AGREEMENT, intent_id="1" * 32, timeout_s=3)
            assert error.value.code == "create-unknown"
        assert town.agent.events == ["CreateActivity"]

        activity = await town.create()

        assert town.agent.events == ["CreateActivity", "CreateActivity"]
        assert list(town.agent.units)[1] == activity

    play_legacy(story)


def test_an_intent_of_the_client_names_one_activity_for_ever(play: Play) -> None:
    async def story(town: Town) -> None:
        service, caller = town.requestor.service, town.requestor.caller
        first = await service.create(caller, AGREEMENT, intent_id="1" * 32, timeout_s=3)
        await town.requestor.restart()
        service = town.requestor.service
        assert await service.create(caller, AGREEMENT, intent_id="1" * 32, timeout_s=3) == first
        assert await service.create(caller, AGREEMENT, intent_id="2" * 32, timeout_s=3) != first

    play(story)


def test_nothing_is_sent_before_it_is_known_what_the_provider_understands(play: Play) -> None:
    async def story(town: Town) -> None:
        town.requestor.net.drops = requests("Hello")
        with pytest.raises(Unreachable):
            await town.create(timeout_s=3)
        assert town.agent.events == []

    play(story)


def test_a_create_that_does_not_start_in_time_is_destroyed(play: Play) -> None:
    async def story(town: Town) -> None:
        town.agent.starts = False

        with pytest.raises(TimedOut):
            await town.create(timeout_s=3)

        await asyncio.sleep(1)
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]

    play(story)


def test_an_agreement_that_is_not_approved_makes_no_activity(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.market.end()

        words = f"Bad request: Agreement {AGREEMENT} is not Approved. Current state: Terminated"
        with pytest.raises(UsageError, match=words):
            await town.create()
        assert town.agent.events == []

    play(story)


def test_gap_17_scenario_1_2_the_requestor_daemon_restarts_while_a_batch_runs(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.auto = False
        batch = await town.exec(activity, THREE)
        unit.finish(batch)
        await town.results(activity, batch, index=0)

        await town.requestor.stop()
        unit.finish(batch)
        unit.finish(batch)
        await town.requestor.start()

        assert outputs(await town.results(activity, batch)) == ["out0\n", "out1\n", "out2\n"]
        assert await town.exec(activity, RUN) != batch

    play(story)


def test_gap_17_scenario_1_3_the_network_breaks_while_a_batch_runs(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.auto = False
        batch = await town.exec(activity, THREE)
        unit.finish(batch)
        await town.results(activity, batch, index=0)

        town.cut()
        unit.finish(batch)
        unit.finish(batch)
        assert outputs(await town.results(activity, batch, timeout_s=2)) == ["out0\n"]
        with pytest.raises(Unreachable, match="GSB error"):
            await town.state(activity)
        town.join()

        assert len(await town.results(activity, batch, timeout_s=60)) == 3

    play(story)


def test_results_are_pulled_without_a_program_and_outlive_the_exeunit(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        batch = await town.exec(activity, THREE)
        await asyncio.sleep(1)
        assert (await town.batches(activity))[batch]["resultsStored"] == 3

        await town.agent._end(activity)

        assert len(await town.results(activity, batch)) == 3
        with pytest.raises(EndpointGone, match=r"GSB error: .*endpoint address not found"):
            await town.exec(activity)

    play(story)


def test_a_batch_cut_short_by_the_end_of_its_activity_says_so_and_ends(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, THREE)
        town.agent.unit.finish(batch)
        await town.results(activity, batch, index=0)

        await town.agent._end(activity)
        results = await town.results(activity, batch, timeout_s=60)

        assert [entry["result"] for entry in results] == ["Ok", "Error"]
        assert results[-1]["message"].startswith(INTERRUPTED)
        assert results[-1]["isBatchFinished"]

    play(story)


def test_destroy_is_accepted_while_the_provider_is_away_and_pulls_results_first(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.auto = False
        batch = await town.exec(activity, RUN)
        town.cut()
        unit.finish(batch)

        await town.destroy(activity)
        with pytest.raises(EndpointGone):
            await town.exec(activity)
        assert town.agent.events == ["CreateActivity"]
        await town.requestor.restart()
        town.join()
        await asyncio.sleep(60)
        assert await town.state(activity) == ["Terminated", None]

        assert not unit.alive
        assert outputs(await town.results(activity, batch)) == ["out0\n"]

    play(story)


def test_destroy_fetches_results_that_the_puller_has_not_got_yet(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("GetExecBatchResults", times=1)
        batch = await town.exec(activity, THREE)
        await asyncio.sleep(0.1)
        assert (await town.batches(activity))[batch]["resultsStored"] == 0

        await town.destroy(activity)

        assert outputs(await town.results(activity, batch)) == ["out0\n", "out1\n", "out2\n"]

    play(story)


def test_a_sign_of_life_after_a_long_outage_is_enough(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, RUN)
        town.cut()
        town.agent.unit.finish(batch)
        await asyncio.sleep(600)
        town.join()

        assert await town.state(activity) == ["Initialized", None]

        assert len(await town.results(activity, batch, timeout_s=1)) == 1

    play(story)


def test_a_batch_of_an_exeunit_that_vanished_ends_with_its_agreement(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit, town.agent.ends = town.agent.unit, False
        unit.auto = False
        batch = await town.exec(activity, RUN)
        await asyncio.sleep(GRACE_S)
        unit.alive = False
        unit.unbind()
        assert await town.results(activity, batch, timeout_s=60) == []
        assert await town.state(activity) == ["Unresponsive", None]

        town.requestor.market.end()
        results = await town.results(activity, batch, timeout_s=60)

        assert results[0]["message"].startswith(INTERRUPTED)

    play(story)


def test_results_of_an_unanswered_batch_are_not_lost_when_nobody_asks_in_time(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.provider.net.drops = replies("Exec")
        task = asyncio.create_task(town.exec(activity, batch_id=BATCH))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait((task,))
        await town.requestor.restart()
        await asyncio.sleep(5)

        await town.agent._end(activity)

        assert (await town.batches(activity))[BATCH]["state"] == "accepted"
        assert outputs(await town.results(activity, BATCH)) == ["out0\n"]

    play(story)


def test_a_batch_that_never_arrived_stays_unknown_until_somebody_asks(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=BATCH)
        town.requestor.net.drops = requests()
        await asyncio.sleep(100)

        assert await town.exec(activity, batch_id=BATCH) == BATCH
        assert outputs(await town.results(activity, BATCH, timeout_s=2)) == ["out0\n"]

    play(story)


def test_destroy_settles_an_unanswered_batch_before_its_exeunit_is_gone(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=BATCH)
        town.requestor.net.drops = requests()

        await town.destroy(activity)

        assert (await town.batches(activity))[BATCH]["state"] == "never"

    play(story)


def test_destroy_with_a_silent_agent_is_a_timeout(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.ends = False
        with pytest.raises(TimedOut):
            await town.destroy(activity, timeout_s=2)
        assert await town.state(activity) == ["Initialized", None]

    play(story)


def test_the_final_usage_is_read_at_the_end(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await town.agent.unit.report_usage(7.0, 8.0)
        service, caller = town.requestor.service, town.requestor.caller
        await town.destroy(activity)
        usage = await service.usage(caller, activity, 5)
        assert usage["currentUsage"] in ([7.0, 8.0], [1.0, 2.0])

    play(story)


def test_the_running_command_comes_from_the_exeunit(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        service, caller = town.requestor.service, town.requestor.caller
        command = await service.running_command(caller, activity, 5)
        assert command == [{"command": "Run", "progress": None, "params": []}]

    play(story)
