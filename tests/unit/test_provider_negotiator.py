"""The agent's event loop: an event is acknowledged by the next poll, so nothing may be lost by it.

The node's REST API is scripted, the agent's store is slow, and everything else is the real thing.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S, to_rfc3339
from shem.kernel.world import Clock, SystemClock, World
from shem.provider import negotiator as negotiator_module
from shem.provider.activities import Activities
from shem.provider.agreements import Agreements
from shem.provider.config import ProviderConfig
from shem.provider.exeunits import Processes
from shem.provider.hardware import Capacity, Resources
from shem.provider.negotiator import Negotiator
from shem.provider.offer import OfferText
from shem.provider.records import Records
from shem.provider.verdicts import Limits
from shem.rest.client import RestClient
from shem.store.committer import InlineCommitter
from shem.store.sqlite import SqliteStore
from tests.rented import MARKET, PROVIDER, agreement, proposal
from tests.scripted_node import APP_KEY, LOST, Answer, Call, ScriptedNode, ok, scripted_node

EVENTS = f"{MARKET}/offers/sub/events"
COUNTER = f"{MARKET}/offers/sub/proposals/*"
SLOW_S = 0.1
SYSTEM_CLOCK = SystemClock()
PLATFORM = "erc20-hoodi-tglm"
LIMITS = Limits(platforms=(PLATFORM,))
AMPLE = Resources(64, 64.0, 64.0)
TERMS: dict[str, Any] = {
    "golem.runtime.name": "wasmtime",
    "golem.com.pricing.model.linear.coeffs": [0.0, 0.0, 0.0],
}
DEMAND: dict[str, Any] = {
    "golem.com.payment.chosen-platform": PLATFORM,
    "golem.srv.comp.expiration": int(time.time() + 3_600) * 1_000,
}


@pytest.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    async with scripted_node() as scripted:
        scripted.answer("GET", f"{MARKET}/offers", ok([]))
        scripted.answer("POST", f"{MARKET}/offers", Answer(201, "sub"))
        yield scripted


class WrongClock(SystemClock):
    """A clock that is `ahead_ns` ahead."""

    ahead_ns = 3_600 * NS_PER_S

    def wall_ns(self) -> int:
        return super().wall_ns() + self.ahead_ns


@asynccontextmanager
async def negotiating(
    node: ScriptedNode, path: Path, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[None]:
    """Run a negotiator on a store whose commits take their time."""
    world = World(clock=clock)
    store = SqliteStore(path, world, committer=InlineCommitter(lambda: SLOW_S), migrations="agent")
    await store.open()
    records = Records(store, world, NodeId(PROVIDER))
    config = ProviderConfig(app_key=APP_KEY, data_dir=path.parent)
    async with RestClient(node.url, APP_KEY) as client, TaskScope() as scope:
        activities = Activities(
            config=config,
            descriptors=[],
            records=records,
            client=client,
            units=Processes(world),
            world=world,
            scope=scope,
        )
        agreements = Agreements(
            config=config,
            records=records,
            activities=activities,
            client=client,
            session_id="s",
            world=world,
            scope=scope,
            capacity=Capacity(AMPLE, Resources(1, 1.0, 1.0)),
        )
        negotiator = Negotiator(
            name="wasmtime",
            offer=OfferText(TERMS, ("(golem.x=1)",)),
            limits=lambda: LIMITS,
            agreements=agreements,
            records=records,
            client=client,
            world=world,
        )
        scope.spawn(negotiator.run(), "negotiator")
        yield
    await store.close()


def written_down(path: Path) -> list[str]:
    """Read, as another process would, which agreements the agent would find after a crash."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT agreement_id FROM agent_agreement").fetchall()
    connection.close()
    return [str(row[0]) for row in rows]


def proposal_event() -> dict[str, Any]:
    event = proposal("p1")
    event["proposal"]["properties"] = DEMAND
    return event


def agreement_event() -> dict[str, Any]:
    offered = agreement("Pending")
    offered["demand"]["properties"] = DEMAND
    offered["offer"]["properties"] = TERMS
    return {
        "eventType": "AgreementEvent",
        "eventDate": "2026-11-23T20:09:07Z",
        "agreement": offered,
    }


async def polls(node: ScriptedNode, count: int) -> None:
    """Return when the agent has polled so often."""
    async with asyncio.timeout(10):
        while node.count("GET", EVENTS) < count:  # noqa: ASYNC110 - a scripted node has no events
            await asyncio.sleep(0.01)


async def test_an_agreement_is_written_down_before_the_poll_that_acknowledges_it(
    node: ScriptedNode, tmp_path: Path
) -> None:
    path = tmp_path / "agent.db"
    found: list[list[str]] = []

    def next_poll(_: Call) -> Answer:
        found.append(written_down(path))
        return Answer(408, {"message": "Timeout"})

    node.answer("GET", EVENTS, ok([agreement_event()]), next_poll)
    node.answer("POST", f"{MARKET}/agreements/*/approve", LOST)
    node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Pending")))

    async with negotiating(node, path):
        await polls(node, 2)

    assert len(found[0]) == 1


async def test_a_proposal_is_answered_before_the_poll_that_acknowledges_it(
    node: ScriptedNode, tmp_path: Path
) -> None:
    countered: list[int] = []

    def next_poll(_: Call) -> Answer:
        countered.append(node.count("POST", COUNTER))
        return Answer(408, {"message": "Timeout"})

    node.answer("GET", EVENTS, ok([proposal_event()]), next_poll)
    node.answer("POST", COUNTER, LOST, ok("p2"))

    async with negotiating(node, tmp_path / "agent.db"):
        await polls(node, 2)

    assert countered[0] == 2


async def test_an_answer_that_takes_long_holds_the_next_poll_only_for_a_while(
    node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negotiator_module, "HOLD_S", 0.1)
    node.answer("GET", EVENTS, ok([proposal_event()]), Answer(408, {"message": "Timeout"}))
    node.answer("POST", COUNTER, LOST)

    async with negotiating(node, tmp_path / "agent.db"):
        await polls(node, 2)
        answered = node.count("POST", COUNTER)
        async with asyncio.timeout(5):
            while node.count("POST", COUNTER) == answered:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_what_the_requestor_refuses_is_not_said_again(
    node: ScriptedNode, tmp_path: Path
) -> None:
    node.answer("GET", EVENTS, ok([proposal_event()]), Answer(408, {"message": "Timeout"}))
    node.answer("POST", COUNTER, Answer(500, {"message": "refused", "code": "peer-error"}))

    async with negotiating(node, tmp_path / "agent.db"):
        await polls(node, 2)

    assert node.count("POST", COUNTER) == 1


async def withdrawals(node: ScriptedNode, count: int) -> None:
    async with asyncio.timeout(10):
        while node.count("DELETE", f"{MARKET}/offers/sub") < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


async def test_an_offer_of_a_clock_that_was_ahead_is_published_anew_when_that_is_set_right(
    node: ScriptedNode, tmp_path: Path
) -> None:
    """It asks for Demands that live until then, and nobody has one."""
    clock = WrongClock()
    node.answer("GET", EVENTS, Answer(408, {"message": "Timeout"}))
    node.answer("DELETE", f"{MARKET}/offers/*", Answer(204))

    async with negotiating(node, tmp_path / "agent.db", clock):
        await polls(node, 1)
        clock.ahead_ns = 0
        await withdrawals(node, 1)
        await polls(node, node.count("GET", EVENTS) + 1)

    wrong, right = (call.body["constraints"] for call in node.made("POST", f"{MARKET}/offers"))
    asked = [int(text.split("expiration>")[1].split(")")[0]) for text in (wrong, right)]
    assert 3_590_000 < asked[0] - asked[1] < 3_610_000


async def test_an_offer_that_seemed_ahead_is_replaced_though_its_withdrawal_got_no_answer(
    node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time that is clear the clock may be right again, and the offer is gone anyway."""
    monkeypatch.setattr(negotiator_module, "WITHDRAW_TIMEOUT_S", 0.2)
    clock = WrongClock()
    heals_s = 0.0

    def withdraw(_: Call) -> Answer:
        nonlocal heals_s
        clock.ahead_ns = WrongClock.ahead_ns
        heals_s = heals_s or time.monotonic() + 0.5
        return LOST if time.monotonic() < heals_s else Answer(204)

    node.answer("GET", EVENTS, Answer(408, {"message": "Timeout"}))
    node.answer("DELETE", f"{MARKET}/offers/*", withdraw)

    async with negotiating(node, tmp_path / "agent.db", clock):
        await polls(node, 1)
        clock.ahead_ns = 0
        await withdrawals(node, 2)
        await polls(node, node.count("GET", EVENTS) + 1)

    assert node.count("POST", f"{MARKET}/offers") == 2


@pytest.mark.parametrize(("ahead_s", "kept"), [(0, True), (3_600, False), (None, True)])
async def test_an_earlier_agents_offer_is_kept_unless_its_clock_was_ahead(
    node: ScriptedNode, tmp_path: Path, ahead_s: int | None, kept: bool
) -> None:
    node.answer("GET", EVENTS, Answer(408, {"message": "Timeout"}))
    node.answer("DELETE", f"{MARKET}/offers/*", Answer(204))
    async with negotiating(node, tmp_path / "agent.db"):
        await polls(node, 1)

    row = {"properties": TERMS, "constraints": "()", "offerId": "sub", "providerId": PROVIDER}
    if ahead_s is not None:
        row["timestamp"] = to_rfc3339(SYSTEM_CLOCK.wall_ns() + ahead_s * NS_PER_S)
    node.answer("GET", f"{MARKET}/offers", ok([row]))
    async with negotiating(node, tmp_path / "agent.db"):
        await polls(node, node.count("GET", EVENTS) + 1)

    assert node.count("POST", f"{MARKET}/offers") == (1 if kept else 2)
    assert node.count("DELETE", f"{MARKET}/offers/sub") == (0 if kept else 1)


async def test_an_offer_that_is_gone_is_withdrawn_too_so_that_no_clock_revives_it(
    node: ScriptedNode, tmp_path: Path
) -> None:
    node.answer("GET", EVENTS, Answer(410, {"message": "expired"}), Answer(408, {"message": ""}))
    node.answer("DELETE", f"{MARKET}/offers/*", Answer(410, {"message": "expired"}))

    async with negotiating(node, tmp_path / "agent.db"):
        await polls(node, 2)

    assert node.count("DELETE", f"{MARKET}/offers/sub") == 1
    assert node.count("POST", f"{MARKET}/offers") == 2
