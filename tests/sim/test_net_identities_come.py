"""A node gets and loses identities in bad weather: peers know them, and no message is harmed."""

import pytest

from shem.kernel.config import Encryption
from shem.net.types import Channel
from tests.sim.net_world import Network, SimNode, SimRelay, Weather, host, new_key

POLICIES = (Encryption.PREFERRED, Encryption.OFF)
WEATHER = Weather(loss=0.1, duplicates=0.05, delay_s=0.01, jitter_s=0.03)
KNOWN_WITHIN_S = 30.0


def town(seed, weather, nat):
    network = Network(seed, weather)
    relay = SimRelay(network)
    policy = POLICIES[seed % len(POLICIES)]
    nodes = [
        SimNode(network, new_key(network), host(number), is_nat=nat, encryption=policy)
        for number in range(2)
    ]
    one, two = nodes
    assert network.run_until(lambda: one.core.link.is_up and two.core.link.is_up, 30), seed
    assert route(network, one, two, None), seed
    return network, relay, one, two


def route(network, one, two, sender):
    """Do what the driver does until packets in the sender's name can leave."""
    end = network.now + KNOWN_WITHIN_S
    while not one.core.is_ready(two.node_id, network.now, sender):
        if network.now >= end:
            return False
        one.core.connect(two.node_id, network.now, sender)
        one.pump()
        network.run_until(lambda: one.core.is_ready(two.node_id, network.now, sender), 1.0)
    return True


def change(network, node, act):
    act(node.core.keys)
    node.core.on_own_changed(network.now)
    node.pump()


@pytest.mark.parametrize("nat", [False, True], ids=["direct", "relayed"])
@pytest.mark.parametrize("seed", range(40))
def test_new_identity_is_known_and_messages_arrive_once_and_in_order(seed, nat):
    network, _, one, two = town(seed, WEATHER, nat)
    sent = [f"{number}".encode() * 400 for number in range(24)]
    box = two.heard.messages[one.node_id, Channel.RELIABLE]
    for number in range(3):
        key = new_key(network)
        for message in sent[8 * number : 8 * number + 8]:
            one.say(two.node_id, Channel.RELIABLE, message)
        change(network, one, lambda keys, key=key: keys.add(key))
        assert route(network, one, two, key.node_id), f"seed {seed}: unknown"
        change(network, one, lambda keys, key=key: keys.remove(key.node_id))
        assert route(network, one, two, None), f"seed {seed}: no route"

    assert network.run_until(lambda: len(box) >= len(sent), 60), f"seed {seed}: {len(box)}"
    assert box == sent
    assert two.heard.lost == one.heard.lost == []


@pytest.mark.parametrize("seed", range(20))
def test_relay_knows_the_identities_in_the_end(seed):
    network, relay, one, _ = town(seed, WEATHER, nat=False)
    keys = [new_key(network) for _ in range(4)]

    for key in keys:
        change(network, one, lambda ring, key=key: ring.add(key))
        network.run_until(lambda: False, 0.05)
    change(network, one, lambda ring: ring.remove(keys[0].node_id))

    def is_right():
        find = relay.core.directory.find
        known = [find(key.node_id) for key in keys]
        return known[0] is None and all(entry is not None for entry in known[1:])

    assert network.run_until(is_right, 60), seed
    assert relay.core.directory.find(one.node_id) is not None


@pytest.mark.parametrize("seed", range(10))
def test_direct_sessions_outlive_a_new_registration_in_fair_weather(seed):
    network, relay, one, two = town(2 * seed, Weather(delay_s=0.01), nat=False)
    session = one.core.router.sessions.find(two.node_id)
    assert session is not None
    key = new_key(network)

    change(network, one, lambda keys: keys.add(key))

    assert route(network, one, two, key.node_id)
    assert network.run_until(lambda: relay.core.directory.find(key.node_id) is not None, 10)
    network.run_until(lambda: False, 5)
    assert one.core.router.sessions.find(two.node_id) is session
