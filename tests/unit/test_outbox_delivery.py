"""Lanes, back-off, signs of life and giving up, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from shem.kernel.errors import Unreachable, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng, World
from shem.store.committer import InlineCommitter
from shem.store.lane import BACKOFF_AFTER_SIGN_OF_LIFE_S, BACKOFF_MAX_S, JITTER
from shem.store.outbox import (
    ATTEMPT_MAX_S,
    DONE,
    DONE_KEPT_NS,
    RETRIES_AT_ONCE_MAX,
    Drop,
    Outbox,
    OutboxRow,
    Outcome,
    Retry,
)
from shem.store.sqlite import SqliteStore
from shem.store.unit import PAYLOAD_SIZE_MAX
from tests.sim.virtual_time import VirtualClock, run_virtually

US = NodeId("0x" + "0" * 40)
PEER = NodeId("0x" + "1" * 40)
OTHER = NodeId("0x" + "2" * 40)


class Desk:
    """A store and its outbox, and what the peers were sent, with times."""

    def __init__(self, path: Path) -> None:
        self.world = World(clock=VirtualClock(), rng=SeededRng(1))
        self.store = SqliteStore(path / "shem.db", self.world, committer=InlineCommitter())
        self.outbox = Outbox(self.store, self.world)
        self.sent: list[tuple[str, float]] = []
        self.answer: Callable[[OutboxRow], Outcome] = lambda _: DONE

    async def deliver(self, row: OutboxRow) -> Outcome:
        self.sent.append((row.key, self.world.clock.monotonic()))
        return self.answer(row)

    async def post(self, key: str, *, lane: str = "l", peer: NodeId = PEER) -> None:
        async with self.store.unit(lane) as unit:
            unit.post(identity=US, peer=peer, lane=lane, kind="test", key=key, payload={"is": key})

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.sent]


def on_a_desk(path: Path, scenario: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        desk = Desk(path)
        await desk.store.open()
        desk.outbox.register("test", desk.deliver)
        task = asyncio.create_task(desk.outbox.run())
        try:
            await scenario(desk)
        finally:
            await desk.store.close()
            await asyncio.wait_for(task, 1000)

    run_virtually(run())


def test_a_row_is_delivered_at_once_and_settled(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        await desk.post("one")
        await asyncio.sleep(0.1)

        assert desk.sent == [("one", 0.0)]
        assert await desk.outbox.pending() == []

    on_a_desk(tmp_path, scenario)


def test_a_stuck_lane_delays_no_other(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda row: Retry("no") if row.lane == "stuck" else DONE
        await desk.post("document", lane="stuck")
        await desk.post("behind it", lane="stuck")
        await asyncio.sleep(60)
        before = len(desk.sent)
        await desk.post("terminate", lane="free")
        await asyncio.sleep(0.01)

        assert desk.keys[before:] == ["terminate"]
        assert "behind it" not in desk.keys

    on_a_desk(tmp_path, scenario)


def test_a_hanging_delivery_delays_no_other_lane_and_ends_by_itself(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        async def hang(row: OutboxRow) -> Outcome:
            await asyncio.Event().wait()
            return DONE

        desk.outbox.register("hanging", hang)
        async with desk.store.unit("x") as unit:
            unit.post(identity=US, peer=PEER, lane="x", kind="hanging", key="h", payload={})
        await desk.post("one")
        await asyncio.sleep(ATTEMPT_MAX_S + 0.1)

        assert desk.sent == [("one", 0.0)]
        [row] = await desk.outbox.pending()
        assert (row.kind, row.attempts) == ("hanging", 1)

    on_a_desk(tmp_path, scenario)


def test_failures_back_off_to_a_minute(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda _: Retry("no")
        await desk.post("one")
        await asyncio.sleep(1000)

        times = [time for _, time in desk.sent]
        waits = [after - before for before, after in pairwise(times)]
        nominal = [min(0.5 * 2**n, BACKOFF_MAX_S) for n in range(len(waits))]
        assert len(waits) > 15
        assert all(
            (1 - JITTER) * expected <= wait <= (1 + JITTER) * expected + 0.01
            for wait, expected in zip(waits, nominal, strict=True)
        )
        [row] = await desk.outbox.pending(peer=PEER, lane="l")
        assert row.attempts == len(times)

    on_a_desk(tmp_path, scenario)


def test_a_sign_of_life_of_the_peer_ends_the_waiting(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda row: Retry("away")
        await desk.post("one")
        await desk.post("other", peer=OTHER)
        await asyncio.sleep(500)
        desk.answer = lambda _: DONE
        await asyncio.sleep(BACKOFF_AFTER_SIGN_OF_LIFE_S)
        before = len(desk.sent)
        desk.outbox.peer_alive(PEER)
        desk.outbox.peer_alive(NodeId("0x" + "9" * 40))
        await asyncio.sleep(0.01)

        assert desk.keys[before:] in (["one"], [])
        assert "one" in desk.keys[-3:]
        assert [row.key for row in await desk.outbox.pending()] == ["other"]

    on_a_desk(tmp_path, scenario)


def test_a_chatty_peer_is_not_flooded_with_what_it_refuses(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda _: Retry("not this one")
        await desk.post("one")
        for _ in range(1000):
            desk.outbox.peer_alive(PEER)
            await asyncio.sleep(0.1)

        least = BACKOFF_AFTER_SIGN_OF_LIFE_S * (1 - JITTER)
        assert len(desk.sent) <= 100 / least + 4

    on_a_desk(tmp_path, scenario)


def test_a_sign_of_life_during_a_failing_attempt_is_not_lost(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda _: Retry("away")
        await desk.post("one")
        await asyncio.sleep(400)
        failing = asyncio.Event()

        async def slow(row: OutboxRow) -> Outcome:
            failing.set()
            await asyncio.sleep(5)
            raise Unreachable("gone again")

        desk.outbox._deliverers["test"] = slow
        await failing.wait()
        desk.outbox.peer_alive(PEER)
        desk.outbox._deliverers["test"] = desk.deliver
        desk.answer = lambda _: DONE
        before = len(desk.sent)
        await asyncio.sleep(5 + BACKOFF_AFTER_SIGN_OF_LIFE_S * (1 + JITTER) + 0.1)

        assert desk.keys[before:] == ["one"]

    on_a_desk(tmp_path, scenario)


def test_a_dropped_row_lets_the_lane_go_on(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda row: Drop("refused for good") if row.key == "bad" else DONE
        await desk.post("bad")
        await desk.post("good")
        await asyncio.sleep(1)

        assert desk.keys == ["bad", "good"]
        assert await desk.outbox.pending() == []
        rows = await desk.store.fetch("SELECT state, last_error FROM outbox ORDER BY id LIMIT 9")
        assert [(row["state"], row["last_error"]) for row in rows] == [
            ("dead", "refused for good"),
            ("done", None),
        ]

    on_a_desk(tmp_path, scenario)


def test_a_delivered_key_posted_again_is_not_sent_again(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        for _ in range(3):
            await desk.post("one")
            await asyncio.sleep(10)

        assert desk.keys == ["one"]

    on_a_desk(tmp_path, scenario)


def test_settled_rows_are_forgotten_after_their_time(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.answer = lambda row: Retry("no") if row.key == "waiting" else DONE
        await desk.post("done")
        await desk.post("waiting", lane="other")
        await asyncio.sleep(2 * DONE_KEPT_NS / 1e9)

        rows = await desk.store.fetch("SELECT key FROM outbox LIMIT 9")
        assert [row["key"] for row in rows] == ["waiting"]

    on_a_desk(tmp_path, scenario)


def test_messages_without_a_deliverer_wait_for_one(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        async with desk.store.unit("x") as unit:
            unit.post(identity=US, peer=PEER, lane="x", kind="late", key="1", payload={})
        await asyncio.sleep(100)
        assert len(await desk.outbox.pending(kind="late")) == 1

        desk.outbox.register("late", desk.deliver)
        await asyncio.sleep(BACKOFF_AFTER_SIGN_OF_LIFE_S)

        assert desk.keys == ["1"]

    on_a_desk(tmp_path, scenario)


def test_a_kind_has_one_deliverer(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(ValueError, match="already"):
            desk.outbox.register("test", desk.deliver)

    on_a_desk(tmp_path, scenario)


def test_a_peer_come_alive_does_not_queue_behind_many_dead_ones(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        alive = asyncio.Event()

        async def slow(row: OutboxRow) -> Outcome:
            if row.peer == PEER and alive.is_set():
                return await desk.deliver(row)
            await asyncio.sleep(100)
            return Retry("no answer")

        desk.outbox.register("slow", slow)
        for number in range(3 * RETRIES_AT_ONCE_MAX):
            peer = PEER if number == 0 else NodeId(f"0x{number:040x}")
            async with desk.store.unit("x") as unit:
                unit.post(identity=US, peer=peer, lane="x", kind="slow", key="k", payload={})
        await asyncio.sleep(3000)
        alive.set()
        start = desk.world.clock.monotonic()
        desk.outbox.peer_alive(PEER)
        await asyncio.sleep(200)

        assert desk.keys == ["k"]
        # It may have been under way when the sign came; then one attempt of 100 s ends first.
        assert desk.sent[0][1] - start <= 100 + BACKOFF_AFTER_SIGN_OF_LIFE_S * (1 + JITTER)

    on_a_desk(tmp_path, scenario)


def test_an_oversized_message_is_refused(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(UsageError, match="exceeds"):
            async with desk.store.unit("x") as unit:
                unit.post(
                    identity=US,
                    peer=PEER,
                    lane="x",
                    kind="test",
                    key="1",
                    payload="x" * PAYLOAD_SIZE_MAX,
                )
        assert await desk.outbox.pending() == []

    on_a_desk(tmp_path, scenario)


def test_pending_takes_only_known_filters(tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(TypeError):
            await desk.outbox.pending(state="done' OR 1 = 1")

    on_a_desk(tmp_path, scenario)
