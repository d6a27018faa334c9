"""What an ended ExeUnit left: read from its journal, handed over, or told by the agent itself."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.bus.types import Call, GsbError, RemoteError
from shem.exeunit.core import Core
from shem.exeunit.estate import PART_SIZE_MAX, parts, read_estate
from shem.exeunit.journal import Journal
from shem.exeunit.results import Outcome
from shem.exeunit.script import parse_script
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import GsbAddress
from shem.kernel.errors import Conflict, Denied, ShemError, StorageFault
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.provider.handover import hand_over
from shem.provider.records import AgreementRecord, AgreementState, Records
from shem.provider.stand_in import StandIn
from shem.store.open import open_store

ME = NodeId("0x" + "11" * 20)
ANNA = NodeId("0x" + "aa" * 20)
EVE = NodeId("0x" + "ee" * 20)
ACTIVITY = "a" * 32
DEPLOY: list[dict[str, Any]] = [{"deploy": {}}]
TWO = [{"deploy": {}}, {"start": {}}]


def journal_with(path: Path, *, finished: int, size: int = 3) -> None:
    """Write the journal of a process that died in the second command of its second batch."""
    journal, core = Journal(path), Core()
    journal.open()

    def note(record: dict[str, object] | None) -> None:
        assert record is not None
        journal.append(record)
        core.apply(record)

    for batch_id in ("first", "second"):
        note(core.accept(batch_id, parse_script(DEPLOY if batch_id == "first" else TWO), 7))
        for index in range(1 if batch_id == "first" else finished):
            note(core.finish(batch_id, index, Outcome(ok=True, stdout="x" * size), 8))
    journal.close()


def test_what_a_dead_process_left_is_ended_once_and_durably(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal_with(path, finished=1)

    first, second = read_estate(path, 9)
    again = read_estate(path, 99)

    assert [len(first.results), len(second.results)] == [1, 2]
    assert (second.results[-1].outcome.message or "").startswith("interrupted, outcome unknown")
    assert [batch.results for batch in again] == [first.results, second.results]


def test_a_journal_that_is_open_damaged_or_missing_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(StorageFault, match="not there"):
        read_estate(path, 9)
    journal_with(path, finished=1)
    living = Journal(path)
    living.open()
    with pytest.raises(Conflict):
        read_estate(path, 9)
    living.close()
    path.write_bytes(b"????" + path.read_bytes()[4:])
    with pytest.raises(StorageFault, match="damaged"):
        read_estate(path, 9)


def test_large_results_go_in_parts_that_follow_each_other(tmp_path: Path) -> None:
    journal_with(tmp_path / "journal", finished=2, size=PART_SIZE_MAX // 2 + 1)

    told = list(parts(read_estate(tmp_path / "journal", 9)))

    assert [(part.position, part.first, len(part.results)) for part in told] == [
        (0, 0, 1),
        (1, 0, 1),
        (1, 1, 1),
    ]


# --- at a node ------------------------------------------------------------------------------------


class Node:
    """A bus with a socket; `kept` is what it was handed over, if it takes that."""

    def __init__(self, path: Path, *, keeps: bool) -> None:
        self.bus = Bus()
        self.kept: list[str] = []
        self.url = f"unix:{path}"
        self._address = GsbAddress(path=path)
        if keeps:
            self.bus.serve("/local/activity/KeptAll", self._all, error=lambda e: {"badRequest": ""})
            self.bus.serve("/local/activity/KeepBatch", self._batch)

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Node"]:
        caller = Caller(ME, Assurance.LOCAL)
        async with SocketServer(self.bus, self._address, world=World(), caller=caller):
            yield self

    async def _all(self, _call: Call, body: Any) -> object:
        if body["lost"] is None and len(set(self.kept)) != body["batches"]:
            raise Conflict("some are missing")
        self.kept.append("lost" if body["lost"] else "all")
        return None

    async def _batch(self, _call: Call, body: Any) -> object:
        self.kept.append(body["batchId"])
        return None

    async def ask(self, caller: NodeId, message: str, body: dict[str, Any]) -> object:
        address = f"/public/exeunit/{ACTIVITY}/{message}"
        who = Caller(caller, Assurance.LOCAL)
        return await self.bus.request(who, address, body, timeout_s=5)


@pytest.fixture
def short(short_dir: Path) -> Path:
    journal_with(short_dir / "journal", finished=1)
    return short_dir


async def test_a_node_that_keeps_results_is_given_all_of_them(short: Path) -> None:
    async with Node(short / "s", keeps=True).up() as node:
        assert await hand_over(ACTIVITY, short, node.url, World())
    assert node.kept == ["first", "second", "all"]


async def test_a_node_is_told_of_a_journal_that_cannot_be_read(short: Path) -> None:
    (short / "journal").unlink()
    async with Node(short / "s", keeps=True).up() as node:
        assert await hand_over(ACTIVITY, short, node.url, World())
    assert node.kept == ["lost"]


async def test_a_node_that_does_not_keep_results_leaves_them_to_the_agent(short: Path) -> None:
    async with Node(short / "s", keeps=False).up() as node:
        assert not await hand_over(ACTIVITY, short, node.url, World())


@asynccontextmanager
async def standing_in(folder: Path, node: Node) -> AsyncIterator[tuple[StandIn, Records]]:
    async with AsyncExitStack() as stack:
        store = await open_store(folder / "agent.db", world=World(), migrations="agent")
        stack.push_async_callback(store.close)
        records = Records(store, World(), ME)
        scope = await stack.enter_async_context(TaskScope())
        stand_in = StandIn(records, node.url, World(), scope)
        await stand_in.resume()
        yield stand_in, records


def agreement(expires_in_s: float, retention_s: int = 60) -> AgreementRecord:
    offer = {"golem.srv.offline.result-retention-sec": retention_s}
    body = {
        "agreement": {
            "demand": {"requestorId": ANNA, "properties": {}},
            "offer": {"properties": offer},
        }
    }
    expires_ns = World().clock.wall_ns() + int(expires_in_s * NS_PER_S)
    return AgreementRecord("b" * 64, AgreementState.APPROVED, None, body, expires_ns, 0)


async def answered(node: Node, caller: NodeId, message: str, body: dict[str, Any]) -> object:
    """Ask until somebody is there: the address is taken in the background."""
    while True:
        try:
            return await node.ask(caller, message, body)
        except GsbError:
            await World().clock.sleep(0.02)


async def test_the_agent_answers_and_so_does_the_next_one(short: Path) -> None:
    one = {"activityId": ACTIVITY, "batchId": "second"}
    async with Node(short / "s", keeps=False).up() as node:
        async with standing_in(short, node) as (stand_in, _):
            await stand_in.take_over(ACTIVITY, short, agreement(60))
            first = await answered(node, ANNA, "GetExecBatchResults", one)
        async with standing_in(short, node):
            again = await answered(node, ANNA, "GetExecBatchResults", one)
            listed = await node.ask(ANNA, "ListBatches", {"activityId": ACTIVITY})
            known = await node.ask(ANNA, "ResolveBatch", one)
            never = await node.ask(ANNA, "ResolveBatch", {**one, "batchId": "third"})
            for caller, message, problem in (
                (EVE, "GetExecBatchResults", "forbidden"),
                (ANNA, "GetRunningCommand", "notFound"),
            ):
                with pytest.raises(RemoteError) as refused:
                    await node.ask(caller, message, one)
                assert problem in str(refused.value.payload)
            with pytest.raises(GsbError, match="endpoint address not found"):
                await node.ask(ANNA, "Exec", {**one, "exeScript": []})
    assert first == again
    assert isinstance(first, list) and len(first) == 2
    assert isinstance(listed, dict) and listed["total"] == 2
    assert (known, never) == ({"accepted": True}, {"accepted": False})


async def test_when_its_time_is_over_nobody_answers_any_more(short: Path) -> None:
    async with Node(short / "s", keeps=False).up() as node:
        async with standing_in(short, node) as (stand_in, records):
            await stand_in.take_over(ACTIVITY, short, agreement(-10, retention_s=5))
        async with standing_in(short, node) as (_, records):
            while await records.settings("stand-in:"):
                await World().clock.sleep(0.02)
            with pytest.raises((GsbError, Denied, ShemError)):
                await node.ask(ANNA, "ListBatches", {"activityId": ACTIVITY})
