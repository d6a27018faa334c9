"""Own news are said several times: the first word may be lost, or said to nobody."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from shem.kernel.ids import SubscriptionId
from shem.kernel.world import World
from shem.market.announcer import IDS_PER_BROADCAST, Announcer
from shem.market.discovery import GREETING_PAUSES_S, OWN_AGAIN_S, OWN_DELAY_S
from shem.net.memory import MemoryFabric
from shem.net.types import Channel, Peer
from shem.store.committer import Batch, Durable, InlineCommitter
from shem.store.unit import StorageFull
from tests.sim.market_pair import PROVIDER_SECRET, REQUESTOR_SECRET, Side, running
from tests.sim.virtual_time import VirtualClock, run_virtually

OFFER, OTHER = SubscriptionId("a" * 32 + "-" + "b" * 64), SubscriptionId("c" * 32 + "-" + "d" * 64)
AGAIN_S = (1.0, 4.0)


@dataclass
class Heard:
    """Who listens to the broadcasts, and when what came."""

    said: list[tuple[float, object]] = field(default_factory=list)

    async def publish(self, topic: str, body: object) -> None:
        assert topic == "offers"
        self.said.append((round(asyncio.get_running_loop().time(), 1), body))

    def times(self) -> list[float]:
        return [when for when, _ in self.said]


async def listen(*added: SubscriptionId, again_s: tuple[float, ...], drop_at_s: float) -> Heard:
    heard = Heard()
    announcer = Announcer(heard, "offers", VirtualClock())
    announcer.add(added, 0.0, again_s)
    running = asyncio.create_task(announcer.run())
    await asyncio.sleep(drop_at_s)
    for item in added:
        announcer.drop(item)
    await asyncio.sleep(60)
    running.cancel()
    return heard


def test_own_news_are_said_again_after_each_pause_and_then_no_more() -> None:
    heard = run_virtually(listen(OFFER, again_s=AGAIN_S, drop_at_s=30))

    assert heard.said == [(when, {"offerIds": [OFFER]}) for when in (0.0, 1.0, 5.0)]


def test_what_others_offer_is_passed_on_once() -> None:
    assert run_virtually(listen(OFFER, again_s=(), drop_at_s=30)).times() == [0.0]


def test_a_withdrawn_offer_is_announced_no_more() -> None:
    assert run_virtually(listen(OFFER, OTHER, again_s=AGAIN_S, drop_at_s=2)).times() == [0.0, 1.0]


def test_many_are_said_in_small_pieces_each_time() -> None:
    many = [SubscriptionId(f"{n:032x}-{'b' * 64}") for n in range(IDS_PER_BROADCAST + 1)]

    assert len(run_virtually(listen(*many, again_s=(1.0,), drop_at_s=30)).said) == 4


async def returns(folder: Path) -> list[object]:
    """Let a provider come back with an Offer that nobody heard of, and its first word be lost."""
    fabric = MemoryFabric()
    world = World(clock=VirtualClock())

    def node(secret: str) -> AbstractAsyncContextManager[Side]:
        return running(fabric, folder, secret, world, committer=InlineCommitter())

    async with node(REQUESTOR_SECRET) as requestor:
        demand = await requestor.seek()
        await asyncio.sleep(2 * sum(GREETING_PAUSES_S))
        async with node(PROVIDER_SECRET) as provider:
            fabric.cut(requestor.node_id, provider.node_id)
            await provider.publish()
        async with node(PROVIDER_SECRET):
            await asyncio.sleep(2 * OWN_DELAY_S)
            fabric.join(requestor.node_id, provider.node_id)

            return await requestor.events("demand", demand, timeout_s=sum(OWN_AGAIN_S))


def test_offers_of_a_node_that_comes_back_are_heard_though_its_first_word_is_lost(
    tmp_path: Path,
) -> None:
    assert len(run_virtually(returns(tmp_path))) == 1


async def test_a_stream_that_breaks_under_the_question_for_an_offer_costs_a_moment(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        demand = await requestor.seek()
        broken: list[Channel] = []

        def break_once(peer: Peer, channel: Channel, message: bytes) -> None:
            del message
            if channel is Channel.RELIABLE and not broken:
                broken.append(channel)
                fabric.cut(peer.node_id, provider.node_id)
                fabric.join(peer.node_id, provider.node_id)

        provider.net.on_message(break_once)
        await provider.publish()

        assert len(await requestor.events("demand", demand, timeout_s=OWN_AGAIN_S[0] - 0.2)) == 1
        assert broken


class SmallDisk(InlineCommitter):
    """A disk that may be full."""

    is_full = False
    refused = 0

    def submit(self, batch: Batch, *, patient: bool = False) -> Durable:
        if self.is_full:
            self.refused += 1
            raise StorageFull
        return super().submit(batch, patient=patient)


async def hears_with_a_full_disk(folder: Path) -> list[object]:
    """Let a requestor hear of an Offer while it has no room for it."""
    fabric = MemoryFabric()
    world = World(clock=VirtualClock())
    disk = SmallDisk()
    async with (
        running(fabric, folder, REQUESTOR_SECRET, world, committer=disk) as requestor,
        running(fabric, folder, PROVIDER_SECRET, world, committer=InlineCommitter()) as provider,
    ):
        demand = await requestor.seek()
        await asyncio.sleep(2 * sum(GREETING_PAUSES_S))
        disk.is_full = True
        await provider.publish()
        await asyncio.sleep(2 * OWN_DELAY_S)
        disk.is_full = False
        assert disk.refused > 0

        return await requestor.events("demand", demand, timeout_s=sum(OWN_AGAIN_S))


def test_an_offer_for_which_there_was_no_room_is_taken_when_it_is_said_again(
    tmp_path: Path,
) -> None:
    """Its announcer has done nothing wrong, and is listened to."""
    assert len(run_virtually(hears_with_a_full_disk(tmp_path))) == 1


async def comes_online_last(folder: Path) -> list[object]:
    """Let a provider say its Offer, again and again, before a requestor finds the relay."""
    fabric = MemoryFabric()
    world = World(clock=VirtualClock())
    async with (
        running(fabric, folder, REQUESTOR_SECRET, world, committer=InlineCommitter()) as requestor,
        running(fabric, folder, PROVIDER_SECRET, world, committer=InlineCommitter()) as provider,
    ):
        fabric.cut(requestor.node_id, provider.node_id)
        demand = await requestor.seek()
        await provider.publish()
        await asyncio.sleep(2 * sum(OWN_AGAIN_S))
        fabric.join(requestor.node_id, provider.node_id)
        requestor.net.come_online()

        return await requestor.events("demand", demand, timeout_s=sum(OWN_AGAIN_S))


def test_who_comes_online_asks_for_what_was_said_before(tmp_path: Path) -> None:
    """As after a relay has lost its memory: each node finds it again in its own time."""
    assert len(run_virtually(comes_online_last(tmp_path))) == 1
