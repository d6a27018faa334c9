"""Agreements under lost, doubled and late messages: in the end both sides tell the same story."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from shem.bus.types import Call, Reply
from shem.kernel.errors import ShemError
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    negotiate,
    propose,
    running,
)

CONSISTENT = {
    ("Proposal", None),
    ("Proposal", "Pending"),
    ("Pending", "Pending"),
    ("Approved", "Approved"),
    ("Terminated", "Terminated"),
    ("Rejected", "Rejected"),
    ("Cancelled", None),
    ("Cancelled", "Pending"),  # a late proposal of it: its approval will be refused
    ("Cancelled", "Cancelled"),
    ("Cancelled", "Rejected"),
}


class Recorder:
    """Keeps the agreement messages that reach a node, to say them again."""

    def __init__(self, side: Side) -> None:
        self.calls: list[Call] = []
        self._deliver: Callable[[Call], AsyncGenerator[Reply, None]] = side.bus.replies
        side.bus.replies = self._replies  # type: ignore[method-assign]

    async def _replies(self, call: Call) -> AsyncGenerator[Reply, None]:
        if "/agreement/" in call.address:
            self.calls.append(call)
        async with aclosing(self._deliver(call)) as replies:
            async for reply in replies:
                yield reply

    async def repeat_one(self, rng: random.Random) -> None:
        if self.calls:
            async with aclosing(self._deliver(rng.choice(self.calls))) as replies:
                async for _ in replies:
                    pass


@pytest.mark.parametrize("seed", range(10))
async def test_both_sides_agree_in_the_end(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        ids = await negotiate(requestor, provider)
        agreement = await propose(requestor, ids)
        recorders = [Recorder(requestor), Recorder(provider)]
        weather = asyncio.create_task(_weather(fabric, requestor, provider, recorders, rng))
        await asyncio.gather(
            _requestor(requestor, agreement, rng), _provider(provider, agreement, rng)
        )
        weather.cancel()
        fabric.join(requestor.node_id, provider.node_id)
        for _ in range(5):
            for recorder in recorders:
                await recorder.repeat_one(rng)
        await _settled(requestor, provider)

        ours = await requestor.market.agreement(agreement)
        theirs = await provider.market.agreement(agreement)
        assert ours is not None
        states = (str(ours.state), None if theirs is None else str(theirs.state))
        assert states in CONSISTENT
        for side in (requestor, provider):
            log = await side.log()
            assert len(log) == len(set(log))
            assert not {"Cancelled", "Rejected"} & set(log) or "Approved" not in log


async def _weather(
    fabric: MemoryFabric,
    requestor: Side,
    provider: Side,
    recorders: list[Recorder],
    rng: random.Random,
) -> None:
    while True:
        fabric.cut(requestor.node_id, provider.node_id)
        await asyncio.sleep(rng.random() * 0.02)
        fabric.join(requestor.node_id, provider.node_id)
        await rng.choice(recorders).repeat_one(rng)
        await asyncio.sleep(rng.random() * 0.03)


async def _try(act: Any) -> bool:
    try:
        await act
    except ShemError:
        return False
    return True


async def _requestor(side: Side, agreement: Any, rng: random.Random) -> None:
    market, who = side.market, side.who
    for _ in range(3):
        if await _try(market.confirm(who, agreement, None, 0.6)):
            break
    if rng.random() < 0.4:
        await asyncio.sleep(rng.random() * 0.1)
        await _try(market.cancel(who, agreement, {"message": "no"}))
    await _try(market.wait(who, agreement, 1.0))
    if rng.random() < 0.5:
        await _try(market.terminate(who, agreement, {"message": "done"}))


async def _provider(side: Side, agreement: Any, rng: random.Random) -> None:
    market, who = side.market, side.who
    for _ in range(6):
        if await market.agreement(agreement) is None:
            await asyncio.sleep(0.1)
            continue
        if rng.random() < 0.15:
            await _try(market.reject(who, agreement, {"message": "no"}))
        if await _try(market.approve(who, agreement, None, rng.random() * 0.8)):
            break
    if rng.random() < 0.3:
        await _try(market.terminate(who, agreement, {"message": "done"}))


async def _settled(*sides: Side) -> None:
    for _ in range(100):
        for side in sides:
            for other in sides:
                side.outbox.peer_alive(other.node_id)
        if not any([await side.outbox.pending() for side in sides]):
            return
        await asyncio.sleep(0.1)
    raise AssertionError([await side.outbox.pending() for side in sides])
