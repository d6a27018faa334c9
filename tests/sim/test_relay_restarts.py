"""A relay's restart among talking nodes, in good and bad weather."""

import pytest

from shem.net.types import Channel
from tests.sim.net_world import Network, SimNode, SimRelay, Weather, host, new_key
from tests.sim.test_net_sim_faults import talk

NODES = 6
AWAY_MAX_S = 2.5
"""A node that sends gives a silent relay up after 3.5 s, and asks it for the last time at 2.9 s."""


def crowd(seed, weather=None):
    """Nodes that reach each other through the relay alone."""
    network = Network(seed, weather)
    relay = SimRelay(network)
    nodes = [
        SimNode(network, new_key(network), host(number), is_nat=True) for number in range(NODES)
    ]
    assert network.run_until(lambda: all(node.core.link.is_up for node in nodes), 30), seed
    return network, relay, nodes


def session_ids(nodes):
    return [node.core.link.session and node.core.link.session.session_id for node in nodes]


@pytest.mark.parametrize("seed", range(20))
def test_relieved_relay_costs_no_session_and_no_message(seed):
    network, relay, nodes = crowd(seed, Weather(loss=0.02, jitter_s=0.02))
    one, two = nodes[:2]
    assert talk(network, one, two, Channel.RELIABLE, range(2), 20), seed
    before = session_ids(nodes)
    sent = [f"{number}".encode() * 400 for number in range(10, 40)]
    for message in sent:
        one.say(two.node_id, Channel.RELIABLE, message)
    network.run_for(network.rng.unit() * 0.2)

    relay = relay.relieve(away_s=network.rng.unit() * AWAY_MAX_S)

    box = two.heard.messages[one.node_id, Channel.RELIABLE]
    assert network.run_until(lambda: box[-len(sent) :] == sent, 30), f"seed {seed}: {len(box)}"
    network.run_for(40)
    assert relay.restored == NODES
    assert session_ids(nodes) == before, f"seed {seed}"
    assert relay.core.counts.handshakes == 0


@pytest.mark.parametrize("seed", range(20))
def test_nodes_of_a_crashed_relay_come_back_by_themselves_and_not_at_once(seed):
    network, relay, nodes = crowd(seed)
    network.run_for(network.rng.unit() * 20)

    relay = relay.restart()
    crashed_at = network.now
    assert network.run_until(lambda: relay.core.counts.handshakes == NODES, 20), seed

    assert network.now - crashed_at < 18
    assert talk(network, nodes[0], nodes[1], Channel.RELIABLE, range(50, 52), 15), f"seed {seed}"


@pytest.mark.parametrize("seed", range(10))
def test_node_that_moves_while_the_relay_is_away_is_found_at_its_new_address(seed):
    network, relay, nodes = crowd(seed)
    one, two = nodes[:2]
    assert talk(network, one, two, Channel.RELIABLE, range(2), 20), seed

    two.move(host(20))
    relay.relieve(away_s=1.0)
    network.run_for(20)

    assert talk(network, one, two, Channel.RELIABLE, range(10, 12), 15), f"seed {seed}"
