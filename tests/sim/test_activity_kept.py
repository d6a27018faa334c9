"""Results that outlive their ExeUnit: handed over, kept, told to the entitled, dropped in time."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import structlog

from shem.activity.keeper import NO_ROOM, RETENTION_OVER, Keeper
from shem.activity.keptrows import Keeping, load_total, save_keeping
from shem.bus.types import LOCAL_CALLER, GsbError, RemoteError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import NotFound, ShemError, TimedOut
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.rest.terms import RETENTION_DEFAULT_S
from shem.wire.flexbuffers import pack
from tests.sim.activity_town import (
    PROVIDER,
    RUN,
    STRANGER,
    THREE,
    ExeUnit,
    Node,
    Play,
    Town,
    requests,
)
from tests.sim.virtual_time import VirtualClock


async def ask(node: Node, path: str, body: dict[str, Any], *, timeout_s: float = 5) -> Any:
    caller = Caller(node.node_id, Assurance.LOCAL)
    address = f"/from/{node.node_id}/to/{PROVIDER}/{path}"
    return await node.bus.request(caller, address, body, timeout_s=timeout_s)


async def tell(town: Town, name: str, body: dict[str, Any]) -> Any:
    address = f"/local/activity/{name}"
    return await town.provider.bus.request(LOCAL_CALLER, address, body, timeout_s=5)


async def promise(town: Town, activity: str) -> None:
    state = {"state": ["Ready", None]}
    await tell(town, "SetActivityState", {"activityId": activity, "state": state, "keeps": True})


def batch_body(unit: ExeUnit, batch_id: str, first: int = 0) -> dict[str, Any]:
    batch = unit.batches[batch_id]
    return {
        "activityId": unit.activity_id,
        "batchId": batch_id,
        "position": list(unit.batches).index(batch_id),
        "acceptedNs": 1,
        "script": batch.script,
        "from": first,
        "results": batch.results[first:],
    }


async def all_told(town: Town, activity: str, batches: int) -> Any:
    return await tell(town, "KeptAll", {"activityId": activity, "batches": batches, "lost": None})


async def hand_over(town: Town) -> None:
    """Do as the agent does, after the end of the only ExeUnit."""
    unit = town.agent.unit
    for batch_id in unit.batches:
        await tell(town, "KeepBatch", batch_body(unit, batch_id))
    await all_told(town, unit.activity_id, len(unit.batches))


async def ended_unread(town: Town, *, text: str = RUN) -> tuple[str, str]:
    """Run a batch that ends while its requestor is away, and end its ExeUnit."""
    activity = await town.create()
    await promise(town, activity)
    town.agent.unit.auto = False
    batch = await town.exec(activity, text)
    town.cut()
    town.agent.unit.finish_all(batch)
    await town.agent._end(activity)
    return activity, batch


def test_results_are_read_after_the_end_of_their_exeunit(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town, text=THREE)
        await hand_over(town)
        town.join()

        found = await town.results(activity, batch, timeout_s=60)

        assert [entry["stdout"] for entry in found] == ["out0\n", "out1\n", "out2\n"]
        assert found[-1]["isBatchFinished"]

    play(story)


def test_a_restarted_provider_node_still_has_them(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        await hand_over(town)
        await town.provider.restart()
        town.join()
        [entry] = await town.results(activity, batch, timeout_s=60)
        assert entry["stdout"] == "out0\n"

    play(story)


def test_what_is_promised_is_waited_for_and_not_called_lost(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        town.join()
        assert await town.results(activity, batch, timeout_s=600) == []
        body = {"activityId": activity, "batchId": "f" * 32}
        with pytest.raises(RemoteError) as undecided:
            await ask(town.requestor, f"exeunit/{activity}/ResolveBatch", body, timeout_s=9)
        assert undecided.value.payload == "timeout"

        await hand_over(town)

        [entry] = await town.results(activity, batch, timeout_s=60)
        assert (entry["result"], entry["stdout"]) == ("Ok", "out0\n")

    play(story)


def test_an_empty_answer_for_an_exeunit_that_restarts_is_no_proof_of_acceptance(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await town.create(), "b" * 32
        await promise(town, activity)
        town.requestor.net.drops = requests("Exec")
        with pytest.raises(TimedOut):
            await town.exec(activity, batch_id=batch, timeout_s=1)
        town.requestor.net.drops = requests()
        town.agent.unit.unbind()  # it died before it noted the batch, and is being started again

        await asyncio.sleep(100)
        assert (await town.batches(activity))[batch]["state"] == "unknown"
        town.agent.unit.bind()

        assert (await town.batches(activity))[batch]["state"] == "never"
        assert town.agent.unit.ran == []

    play(story)


def test_a_promise_that_cannot_be_kept_is_taken_back(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        lost = {"activityId": activity, "batches": 0, "lost": "the disk is gone"}
        await tell(town, "KeptAll", lost)
        town.join()
        [entry] = await town.results(activity, batch, timeout_s=60)
        assert entry["message"].startswith("interrupted, outcome unknown")

    play(story)


@pytest.mark.parametrize(
    "message",
    [
        "Exec",
        "GetExecBatchResults",
        "ListBatches",
        "ResolveBatch",
        "GetRunningCommand",
        "GetActivityState",
        "GetActivityUsage",
    ],
)
def test_a_stranger_is_told_nothing_of_what_is_kept(play: Play, message: str) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        await hand_over(town)
        body = {"activityId": activity, "batchId": batch, "exeScript": []}
        with pytest.raises(RemoteError) as refused:
            await ask(town.stranger, f"exeunit/{activity}/{message}", body)
        assert "forbidden" in refused.value.payload

    play(story)


def test_a_stranger_gets_no_stream_of_what_is_kept(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        await hand_over(town)
        items = await streamed(town.stranger, activity, batch)
        assert len(items) == 1
        assert b"forbidden" in items[0]

    play(story)


async def streamed(node: Node, activity: str, batch: str) -> list[bytes]:
    address = f"/transfer/from/{node.node_id}/to/{PROVIDER}/exeunit/{activity}"
    body = pack({"activity_id": activity, "batch_id": batch})
    caller = Caller(node.node_id, Assurance.LOCAL)
    stream = node.bus.stream(caller, f"{address}/StreamExecBatchResults", body, timeout_s=5)
    return [item async for item in stream]


def test_every_message_but_a_new_exec_has_the_exeunits_own_answer(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        await hand_over(town)
        town.join()
        at = f"exeunit/{activity}/"
        one = {"activityId": activity, "batchId": batch}
        script = town.agent.unit.batches[batch].script

        again = await ask(town.requestor, f"{at}Exec", {**one, "exeScript": script})
        listed = await ask(town.requestor, f"{at}ListBatches", {"activityId": activity})
        known = await ask(town.requestor, f"{at}ResolveBatch", one)
        other = await ask(town.requestor, f"{at}ResolveBatch", {**one, "batchId": "e" * 32})
        state = await ask(town.requestor, f"{at}GetActivityState", one)
        events = await streamed(town.requestor, activity, batch)

        assert again == batch
        assert (known, other) == ({"accepted": True}, {"accepted": False})
        assert listed["total"] == 1
        assert listed["batches"][0]["batchId"] == batch
        assert state["state"] == ["Terminated", None]
        assert len(events) == 3
        refusals = {
            "Exec": ({**one, "exeScript": []}, "badRequest"),
            "GetRunningCommand": (one, "notFound"),
            "GetExecBatchResults": ({**one, "batchId": "e" * 32}, "notFound"),
        }
        for message, (body, kind) in refusals.items():
            with pytest.raises(RemoteError) as refused:
                await ask(town.requestor, at + message, body)
            assert kind in refused.value.payload
        with pytest.raises(GsbError, match="endpoint address not found"):
            await ask(town.requestor, f"{at}Exec", {**one, "batchId": "e" * 32, "exeScript": []})
        assert town.agent.unit.ran == [f"{batch}:0"]

    play(story)


def test_the_hand_over_may_be_repeated_and_cut_anywhere(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town, text=THREE)
        unit = town.agent.unit
        whole = batch_body(unit, batch)
        with pytest.raises(RemoteError):
            await all_told(town, activity, 1)
        with pytest.raises(RemoteError):
            await tell(town, "KeepBatch", batch_body(unit, batch, first=1))
        await tell(town, "KeepBatch", {**whole, "results": whole["results"][:2]})
        await town.provider.restart()
        await tell(town, "KeepBatch", batch_body(unit, batch, first=1))
        await tell(town, "KeepBatch", whole)
        with pytest.raises(RemoteError):
            await tell(town, "KeepBatch", {**whole, "script": [{"sign": {}}], "results": []})
        await hand_over(town)
        await hand_over(town)
        town.join()
        assert len(await town.results(activity, batch, timeout_s=60)) == 3

    play(story)


@pytest.mark.parametrize(
    "wrong",
    [
        {"results": [{"index": 0}]},
        {"results": "none"},
        {"from": -1},
        {"position": 10_000},
        {"script": {}},
        {"acceptedNs": None},
        {"batchId": 7},
    ],
)
def test_what_is_no_batch_is_refused(play: Play, wrong: dict[str, Any]) -> None:
    async def story(town: Town) -> None:
        _, batch = await ended_unread(town)
        body = {**batch_body(town.agent.unit, batch), **wrong}
        with pytest.raises((RemoteError, GsbError)):
            await tell(town, "KeepBatch", body)
        assert await load_total(town.provider.store.fetch) == (1, 0)

    play(story)


def test_only_processes_of_the_node_hand_results_over(play: Play) -> None:
    async def story(town: Town) -> None:
        _, batch = await ended_unread(town)
        town.join()
        body = batch_body(town.agent.unit, batch)
        for path in ("local/activity/KeepBatch", "activity/KeepBatch"):
            with pytest.raises(GsbError, match="endpoint address not found"):
                await ask(town.requestor, path, body)
        with pytest.raises(RemoteError, match="NotFound"):
            await tell(town, "KeepBatch", {**body, "activityId": "d" * 32})

    play(story)


class Later(VirtualClock):
    """A clock that is ahead."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_ns = int(ahead_s * NS_PER_S)

    def wall_ns(self) -> int:
        return super().wall_ns() + self._ahead_ns


async def left_after(town: Town, seconds: float) -> int:
    """Clean up as in so many seconds from now; return how many activities are left."""
    world = World(clock=Later(seconds), rng=town.world.rng)
    await Keeper(town.provider.store, town.provider.market, world).clean_up()
    return (await load_total(town.provider.store.fetch))[0]


def test_they_are_kept_for_the_agreements_life_and_the_retention_after_it(play: Play) -> None:
    async def story(town: Town) -> None:
        await ended_unread(town)
        await hand_over(town)
        assert await left_after(town, 100 * RETENTION_DEFAULT_S) == 1, "the agreement lives"

        town.provider.market.end()

        assert await left_after(town, RETENTION_DEFAULT_S - 60) == 1
        with structlog.testing.capture_logs() as told:
            assert await left_after(town, RETENTION_DEFAULT_S + 60) == 0
        [dropped] = [line for line in told if line["event"] == "results.dropped"]
        assert dropped["reason"] == RETENTION_OVER
        assert (await load_total(town.provider.store.fetch)) == (0, 0)

    play(story)


def test_an_agreed_retention_counts(play: Play) -> None:
    async def story(town: Town) -> None:
        await ended_unread(town)
        await hand_over(town)
        rows = town.provider.market.rows
        offer = '{"golem.srv.offline.result-retention-sec":3600}'
        for key, row in rows.items():
            rows[key] = replace(row, offer_properties=offer)
        town.provider.market.end()
        assert await left_after(town, 3_000) == 1
        assert await left_after(town, 4_000) == 0

    play(story)


def test_a_clean_up_that_was_cut_short_is_finished(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        await hand_over(town)
        async with town.provider.store.unit(activity) as unit:
            save_keeping(unit, activity, Keeping.DROPPING)
        town.join()
        body = {"activityId": activity, "batchId": batch}
        with pytest.raises(GsbError, match="endpoint address not found"):
            await ask(town.requestor, f"exeunit/{activity}/GetExecBatchResults", body)
        assert await left_after(town, 0) == 0

    play(story)


def test_when_there_is_no_room_the_oldest_go_first_and_it_is_said(play: Play) -> None:
    async def story(town: Town) -> None:
        activities = []
        for _ in range(3):
            activity, _ = await ended_unread(town)
            await hand_over(town)
            activities.append(activity)
            town.agent.units.clear()
            town.join()
        _, size = await load_total(town.provider.store.fetch)
        keeper = Keeper(
            town.provider.store, town.provider.market, town.world, size_max=size * 2 // 3
        )
        with structlog.testing.capture_logs() as told:
            await keeper.clean_up()

        dropped = [line for line in told if line["event"] == "results.dropped"]
        assert [(line["activity"], line["reason"]) for line in dropped] == [
            (activities[0], NO_ROOM)
        ]
        assert (await load_total(town.provider.store.fetch))[0] == 2

    play(story)


def test_what_was_dropped_is_answered_as_by_a_node_that_never_kept_it(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, batch = await ended_unread(town)
        await hand_over(town)
        keeper = Keeper(town.provider.store, town.provider.market, town.world, activities_max=0)
        await keeper.clean_up()
        town.join()
        with pytest.raises(GsbError, match="endpoint address not found"):
            body = {"activityId": activity, "batchId": batch}
            await ask(town.requestor, f"exeunit/{activity}/ResolveBatch", body)
        [entry] = await town.results(activity, batch, timeout_s=60)
        assert entry["message"].startswith("interrupted, outcome unknown")

    play(story)


def test_the_running_command_of_an_ended_activity_is_none(play: Play) -> None:
    async def story(town: Town) -> None:
        activity, _ = await ended_unread(town)
        await hand_over(town)
        town.join()
        service, caller = town.requestor.service, town.requestor.caller
        with pytest.raises(NotFound, match="No running command"):
            await service.running_command(caller, activity, 5)
        with pytest.raises(ShemError):
            await town.stranger.service.running_command(
                Caller(STRANGER, Assurance.LOCAL), activity, 5
            )

    play(story)
