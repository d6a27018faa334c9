"""Own news are said several times: the first word may be lost, or said to nobody."""

import asyncio
from dataclasses import dataclass, field

from shem.kernel.ids import SubscriptionId
from shem.market.announcer import IDS_PER_BROADCAST, Announcer
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
