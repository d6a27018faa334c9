"""Waiting for a route or for an answer: everyone is told, and whoever gives up leaves room."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shem.kernel.errors import NotFound, Unreachable
from shem.kernel.ids import NodeId
from shem.net import outputs as out
from shem.net.types import NodeInfo
from shem.net.waiters import LOOK_UPS_MAX, ROUTE_WAITERS_MAX, LookUps, RouteWaiters

ALICE, BOB, CAROL = (NodeId(f"0x{n:040x}") for n in (1, 2, 3))
"""Alice's node has Carol as a further identity."""


def nodes(count: int) -> list[NodeId]:
    return [NodeId(f"0x{number:040x}") for number in range(1, count + 1)]


class Known:
    """What the cores know."""

    def __init__(self) -> None:
        self.ready: set[NodeId] = set()
        self.routes = RouteWaiters(
            lambda node_id: ALICE if node_id == CAROL else node_id, self.ready.__contains__
        )


async def begun(waiting: Callable[[Callable[[], None]], Coroutine[Any, Any, Any]]) -> Any:
    """Start to wait; returns the task when its `begin` has been called."""
    started = asyncio.Event()
    task = asyncio.ensure_future(waiting(started.set))
    await started.wait()
    return task


async def test_a_route_wakes_whoever_asked_for_any_identity_of_the_node() -> None:
    known = Known()
    tasks = [await begun(lambda f, t=t: known.routes.wait(t, f)) for t in (ALICE, CAROL, CAROL)]
    other = await begun(lambda f: known.routes.wait(BOB, f))
    known.ready |= {ALICE, CAROL}
    known.routes.on_up(ALICE)
    assert await asyncio.gather(*tasks) == [None, None, None]
    assert not other.done()
    known.routes.give_up("the net is shut down")
    with pytest.raises(Unreachable, match="the net is shut down"):
        await other


async def test_a_node_that_does_not_prove_to_be_who_was_asked_for_is_no_route() -> None:
    known = Known()
    task = await begun(lambda f: known.routes.wait(CAROL, f))
    known.ready.add(ALICE)
    known.routes.on_up(ALICE)
    with pytest.raises(Unreachable, match=f"{ALICE} answers for {CAROL}, and does not prove"):
        await task


async def test_a_failure_is_told_to_those_it_concerns_alone() -> None:
    known = Known()
    lost = await begun(lambda f: known.routes.wait(CAROL, f))
    other = await begun(lambda f: known.routes.wait(BOB, f))
    known.routes.on_failed(ALICE, "no answer")
    with pytest.raises(Unreachable, match="cannot be reached: no answer"):
        await lost
    assert not other.done()
    known.ready.add(BOB)
    known.routes.look_again()
    await other


async def test_news_that_come_while_a_wait_begins_are_not_missed() -> None:
    known = Known()

    def at_once() -> None:
        known.ready.add(BOB)
        known.routes.on_up(BOB)

    await known.routes.wait(BOB, at_once)


async def test_senders_beyond_the_limit_are_refused_until_others_give_up() -> None:
    known = Known()
    tasks = [
        asyncio.ensure_future(known.routes.wait(BOB, lambda: None))
        for _ in range(ROUTE_WAITERS_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Unreachable, match="too many senders"):
        await known.routes.wait(ALICE, lambda: None)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    known.ready.add(ALICE)
    await known.routes.wait(ALICE, lambda: known.routes.on_up(ALICE))


async def test_one_answer_is_for_all_who_asked() -> None:
    look_ups = LookUps()
    info = NodeInfo(BOB, (BOB,), (), slot=1, seen_s=0)
    tasks = [await begun(lambda f: look_ups.ask(BOB, f)) for _ in range(3)]
    look_ups.on_found(out.NodeFound(BOB, info, ""))
    assert await asyncio.gather(*tasks) == [info] * 3


async def test_an_unknown_node_and_a_silent_relay_are_told_apart() -> None:
    look_ups = LookUps()
    unknown = await begun(lambda f: look_ups.ask(BOB, f))
    look_ups.on_found(out.NodeFound(BOB, None, "Request failed: NotFound"))
    with pytest.raises(NotFound):
        await unknown
    silent = await begun(lambda f: look_ups.ask(BOB, f))
    look_ups.on_found(out.NodeFound(BOB, None, "the relay is away"))
    with pytest.raises(Unreachable, match="the relay is away"):
        await silent


async def test_those_who_gave_up_asking_leave_room_for_others() -> None:
    look_ups = LookUps()
    tasks = [
        asyncio.ensure_future(look_ups.ask(node_id, lambda: None))
        for node_id in nodes(LOOK_UPS_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Unreachable, match="too many nodes"):
        await look_ups.ask(BOB, lambda: None)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    last = await begun(lambda f: look_ups.ask(BOB, f))
    look_ups.give_up("the net is shut down")
    with pytest.raises(Unreachable, match="shut down"):
        await last
