"""Our node on the move: what is under way goes on, and it is found again without help.

On a machine that has nothing else to do a node is called again within a second after what it can
see itself (docs/protocol/net.md §6.8 has the figures), and within an interval of the keep-alive
after what nobody can see. The bounds here are for a busy machine: far below what it takes when
nobody is told and time-outs must find out, which is 15 s and more.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest

from shem.devnet.internet import Weather
from shem.kernel.errors import ShemError
from tests.netns.stations import CHANNELS, region, until

pytestmark = pytest.mark.timeout(240)

SETTLED_S = 2.5
"""After so long without calls nothing is under way that would tell of a change by chance."""
SEEN_S = {"ours": 5.0, "yagna": 8.0}
LOSSY_YAGNA_S = 90
"""A real yagna's own streams need long to begin anew on a bad line: their pauses double."""
RELAY_BACK_S = 90
"""A relay that was killed is found again by each node itself: a real yagna pings after 15 s, and
its pauses between tries double from there."""
UNSEEN_S = 25.0
"""The keep-alive's 15 s, its 2.4 s of asking, and what it takes to act."""
ROUTES = {"direct": (False, False), "relayed": (True, True)}


@asynccontextmanager
async def pair(net, directory, kind, route="direct"):
    """Have our node, which roams, and a peer that it knows."""
    async with region(net, directory) as made:
        roamer_nat, peer_nat = ROUTES[route]
        roamer, peer = await asyncio.gather(
            made.station("ours", "roamer", behind_nat=roamer_nat),
            made.station(kind, "peer", behind_nat=peer_nat),
        )
        for channel in CHANNELS:
            await roamer.reaches(peer, channel, within_s=30)
            await peer.reaches(roamer, channel, within_s=30)
        yield made, roamer, peer


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3], ids="loss {:.0%}".format)
@pytest.mark.parametrize("kind", ["ours", "yagna"])
async def test_long_calls_outlive_a_cut_and_a_change_of_address(net, tmp_path, kind, loss):
    async with pair(net, tmp_path, kind) as (_, roamer, peer):
        net.weather = Weather(loss=loss, duplicates=loss / 5, delay_s=(0.005, 0.02))
        within_s = LOSSY_YAGNA_S if kind == "yagna" and loss else 20

        async def both_ways(name, disturb):
            """Have a long call in each direction while something happens; return their tries."""
            tries = [
                asyncio.create_task(persistently(roamer, peer, f"{name} out")),
                asyncio.create_task(persistently(peer, roamer, f"{name} in")),
            ]

            async def both_have_begun():
                return peer.begun[f"{name} out"] > 0 and roamer.begun[f"{name} in"] > 0

            await until(both_have_begun, within_s)
            await disturb()
            return await asyncio.gather(*tries)

        async def cut():
            net.cut(roamer.host)
            await asyncio.sleep(1.5)
            net.heal(roamer.host)

        async def move():
            roamer.host.move()

        tries = await both_ways("cut", cut) + await both_ways("move", move)
        # A yagna closes its streams when one of its handshakes fails, and tells nobody.
        assert tries == [1, 1, 1, 1] or (kind == "yagna" and loss > 0)
        took = [await peer.reaches(roamer, channel, within_s=within_s) for channel in CHANNELS]
        print(f"{kind}, loss {loss:.0%}: tries {tries}, pings {took}")  # noqa: T201


async def persistently(caller, called, name):
    """Make a long call, again when it fails, as its owner would; return how often."""
    for count in range(1, 4):
        try:
            assert await caller.call_slowly(called, name, 3) == name
        except ShemError as error:
            print(f"{name} {count}: {error.message}")  # noqa: T201
        else:
            assert called.begun[name] <= count
            return count
    raise AssertionError(f"{name} was never answered")


async def address_changed(made, roamer):
    roamer.host.move()


async def link_down_for_a_while(made, roamer):
    roamer.host.link_down()
    await asyncio.sleep(3)
    roamer.host.link_up()


async def link_comes_back_with_another_address(made, roamer):
    roamer.host.link_down()
    await asyncio.sleep(3)
    roamer.host.move()
    roamer.host.link_up()


async def daemon_restarted(made, roamer):
    await roamer.daemon.kill()
    await roamer.daemon.start()


async def daemon_restarted_on_another_address(made, roamer):
    await roamer.daemon.kill()
    roamer.host.move()
    await roamer.daemon.start()


async def relay_restarted_while_something_is_asked_for(made, roamer):
    peer = made.stations[1] if made.stations[0] is roamer else made.stations[0]
    await made.relay.kill()
    asking = asyncio.create_task(roamer.reaches(peer, within_s=RELAY_BACK_S))
    await asyncio.sleep(1)
    await made.relay.start()
    await asking


EVENTS = {
    "direct": (
        address_changed,
        link_down_for_a_while,
        link_comes_back_with_another_address,
        daemon_restarted,
        daemon_restarted_on_another_address,
        relay_restarted_while_something_is_asked_for,
    ),
    "relayed": (
        address_changed,
        daemon_restarted,
        daemon_restarted_on_another_address,
        relay_restarted_while_something_is_asked_for,
    ),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["ours", "yagna"])
async def test_after_what_it_sees_the_node_is_called_again_soon(net, tmp_path, kind, route):
    async with pair(net, tmp_path, kind, route) as (made, roamer, peer):
        took = {}
        for happens in EVENTS[route]:
            name = happens.__name__.replace("_", " ")
            await asyncio.sleep(SETTLED_S)
            await happens(made, roamer)
            took[name] = await peer.reaches(roamer, within_s=20)
            assert await roamer.reaches(peer, within_s=20) < SEEN_S[kind], name

    print(f"{kind}, {route}: { {name: round(s, 2) for name, s in took.items()} }")  # noqa: T201
    assert {name: s for name, s in took.items() if s > SEEN_S[kind]} == {}


async def test_after_what_nobody_sees_the_next_keep_alive_finds_out(net, tmp_path):
    async with pair(net, tmp_path, "ours", "relayed") as (made, roamer, peer):
        await asyncio.sleep(SETTLED_S)
        roamer.host.nat.rebind()
        rebound_s = await peer.reaches(roamer, within_s=UNSEEN_S)

        await asyncio.sleep(SETTLED_S)
        await made.relay.kill()
        await made.relay.start()
        restarted_s = await peer.reaches(roamer, within_s=UNSEEN_S)

    print(f"other ports {rebound_s:.2f} s, relay restarted {restarted_s:.2f} s")  # noqa: T201
