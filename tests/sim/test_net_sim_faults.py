"""Nodes and relay in bad weather: what is sent arrives, and those who return are found again."""

import pytest

from shem.kernel.config import Encryption
from shem.kernel.world import SeededRng
from shem.net.types import Channel
from tests.sim.net_world import Network, SimNode, SimRelay, Weather, host, new_key

SEEDS = range(200)
POLICIES = list(Encryption)
"""All three live through the same weather."""
RETURN_S = 2.0
"""How soon a peer talks to a restarted node again, on a network without losses."""


def town(seed, weather=None, *, nat=(False, False)):
    network = Network(seed, weather)
    relay = SimRelay(network)
    policy = POLICIES[seed % len(POLICIES)]
    nodes = [
        SimNode(network, new_key(network), host(number), is_nat=nat[number], encryption=policy)
        for number in range(2)
    ]
    return network, relay, *nodes


def talk(network, sender, receiver, channel, numbers, limit_s):  # noqa: PLR0917
    """Repeat each message until it has arrived; every one must within the limit."""
    box = receiver.heard.messages[sender.node_id, channel]
    for number in numbers:
        message = f"{number}".encode()
        end = network.now + limit_s
        while message not in box:
            if network.now >= end:
                return False
            sender.say(receiver.node_id, channel, message)
            network.run_until(lambda m=message: m in box, 0.5)
    return True


@pytest.mark.parametrize("nat", [(False, False), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("seed", range(70))
def test_messages_arrive_once_and_in_order_in_bad_weather(seed, nat):
    weather = Weather(loss=0.05, duplicates=0.05, delay_s=0.01, jitter_s=0.03)
    network, _, one, two = town(seed, weather, nat=nat)
    assert network.run_until(lambda: one.core.link.is_up and two.core.link.is_up, 30), seed
    one.core.connect(two.node_id, network.now)
    one.pump()
    assert network.run_until(lambda: one.has_route(two.node_id), 30), seed

    sent = [f"{number}".encode() * 400 for number in range(20)]
    for message in sent:
        one.say(two.node_id, Channel.RELIABLE, message)
    box = two.heard.messages[one.node_id, Channel.RELIABLE]
    arrived = network.run_until(lambda: len(box) >= len(sent), 60)

    assert arrived and box == sent, f"seed {seed}: {len(box)} of {len(sent)}"


@pytest.mark.parametrize("seed", range(50))
def test_restarted_node_is_talked_to_within_two_seconds(seed):
    network, _, one, two = town(seed)
    network.run_for(1)
    for sender, receiver in ((one, two), (two, one)):
        assert talk(network, sender, receiver, Channel.RELIABLE, range(3), 5), seed

    network.run_for(network.rng.unit() * 20)
    two = two.restart()

    assert talk(network, one, two, Channel.RELIABLE, range(10, 13), RETURN_S), f"seed {seed}"
    assert talk(network, two, one, Channel.RELIABLE, range(20, 23), RETURN_S), f"seed {seed}"


@pytest.mark.parametrize("nat", [(False, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("seed", range(30))
def test_moved_node_is_talked_to_after_its_next_keep_alive(seed, nat):
    network, _, one, two = town(seed, nat=nat)
    network.run_for(1)
    assert talk(network, one, two, Channel.RELIABLE, range(3), 10), seed
    assert talk(network, two, one, Channel.RELIABLE, range(3), 10), seed

    two.move(host(9))
    network.run_for(18)  # the keep-alive at the relay finds out

    assert talk(network, one, two, Channel.RELIABLE, range(10, 13), 8), f"seed {seed}"
    assert talk(network, two, one, Channel.RELIABLE, range(20, 23), 8), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_faults_everybody_talks_to_everybody(seed):
    weather = Weather(loss=0.1, duplicates=0.05, delay_s=0.005, jitter_s=0.03)
    network, relay, one, two = town(seed, weather)
    choice = SeededRng(seed)
    for step in range(12):
        match choice.below(6):
            case 0:
                one = one.restart()
            case 1:
                two = two.restart()
            case 2 if step % 3 == 0:
                relay = relay.restart()
            case 3:
                two.move(host(10 + step))
            case 4:
                network.cut = {choice_host(choice, one, two)}
            case _:
                one.say(two.node_id, Channel.RELIABLE, b"x")
                two.say(one.node_id, Channel.UNRELIABLE, b"y")
        network.run_for(choice.unit() * 6)
        network.cut = set()
    weather.loss = 0.02

    network.run_for(20)

    for channel in (Channel.RELIABLE, Channel.UNRELIABLE):
        first, second = range(100, 103), range(200, 203)
        assert talk(network, one, two, channel, first, 15), f"seed {seed} {channel} one to two"
        assert talk(network, two, one, channel, second, 15), f"seed {seed} {channel} two to one"


def choice_host(choice, one, two):
    return (one, two)[choice.below(2)].address[0]


def test_both_dial_at_once_and_end_with_one_session():
    for seed in range(50):
        network, _, one, two = town(seed, Weather(jitter_s=0.02))
        network.run_for(1)

        one.say(two.node_id, Channel.UNRELIABLE, b"a")
        two.say(one.node_id, Channel.UNRELIABLE, b"b")
        network.run_for(3)

        sessions = [next(iter(node.core.router.sessions)).session_id for node in (one, two)]
        assert sessions[0] == sessions[1], f"seed {seed}"
        assert two.heard.messages[one.node_id, Channel.UNRELIABLE] == [b"a"], f"seed {seed}"
        assert one.heard.messages[two.node_id, Channel.UNRELIABLE] == [b"b"], f"seed {seed}"


def test_silent_peer_is_given_up_and_idle_sessions_live():
    network, _, one, two = town(1)
    network.run_for(1)
    assert talk(network, one, two, Channel.UNRELIABLE, [1], 5)
    network.run_for(120)
    assert len(one.core.router.sessions) == 1

    network.cut = {two.address[0]}
    network.run_for(18)

    assert len(one.core.router.sessions) == 0
