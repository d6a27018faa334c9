"""A channel outlives routes: sessions, relays and addresses change under it."""

import pytest

from shem.kernel.config import Encryption
from shem.net.secure.packets import ENCRYPTED, read_hello
from shem.net.types import Channel
from shem.wire.forward import UNRELIABLE, decode_forward
from tests.sim.attack_town import FORWARD, direct_session, heard, say, town
from tests.sim.net_world import RELAY, SimNode, Weather, host, new_key

PREFERRED, REQUIRED = Encryption.PREFERRED, Encryption.REQUIRED


def hellos(network):
    forwards = [decode_forward(data) for data, _, _ in network.seen if data[0] == FORWARD]
    return {f.payload for f in forwards if f.flags == UNRELIABLE and read_hello(f.payload)}


def assert_all_sealed(network):
    for data, _, _ in network.seen:
        if data[0] == FORWARD:
            forward = decode_forward(data)
            assert forward.flags == ENCRYPTED or read_hello(forward.payload)


def talk(network, one, two, word, limit_s=5):
    for channel in (Channel.UNRELIABLE, Channel.RELIABLE):
        assert say(network, one, two, b"%s to" % word, channel, limit_s=limit_s)
        assert say(network, two, one, b"%s back" % word, channel, limit_s=limit_s)


def drop_direct(network, one, two):
    """From now on only the relay carries anything between the two."""
    addresses = {one.address, two.address}
    network.tap = lambda data, source, target: (
        [] if {source, target} == addresses else [(data, source, target)]
    )


def test_from_direct_to_relayed_and_back():
    network, _, one, two = town(encryption=REQUIRED)
    talk(network, one, two, b"direct")
    assert direct_session(one, two)

    drop_direct(network, one, two)
    talk(network, one, two, b"relayed", limit_s=40)
    assert direct_session(one, two) is None

    network.tap = lambda *seen: [seen]
    one.core.router.drop_relayed(two.node_id)
    two.core.router.drop_relayed(one.node_id)
    talk(network, one, two, b"direct again", limit_s=20)
    assert direct_session(one, two)
    assert len(hellos(network)) == 1
    assert_all_sealed(network)


@pytest.mark.parametrize("nat", [False, True])
def test_over_a_restart_of_the_relay(nat):
    network, relay, one, two = town(nat=nat, encryption=REQUIRED)
    talk(network, one, two, b"before")
    relay.restart()
    network.run_for(20)
    talk(network, one, two, b"after")
    assert len(hellos(network)) == 1
    assert_all_sealed(network)


@pytest.mark.parametrize("nat", [False, True])
def test_over_a_change_of_address(nat):
    network, _, one, two = town(nat=nat, encryption=REQUIRED)
    talk(network, one, two, b"before")
    for number in range(3):
        two.move(host(20 + number))
        network.run_for(20)
        talk(network, one, two, b"%d" % number, limit_s=10)
    assert len(hellos(network)) == 1
    assert_all_sealed(network)


@pytest.mark.parametrize("seed", range(20))
def test_restarts_are_healed_by_the_first_packet(seed):
    network, _, one, two = town(seed, encryption=REQUIRED, weather=Weather(jitter_s=0.01))
    talk(network, one, two, b"before")
    network.run_for(network.rng.unit() * 15)
    two = two.restart()
    assert network.run_until(lambda: two.core.link.is_up, 5)
    started = network.now
    talk(network, one, two, b"after", limit_s=3)
    assert network.now - started < 3, f"seed {seed}"
    assert_all_sealed(network)


@pytest.mark.parametrize("seed", range(20))
def test_renewal_under_way_loses_nothing_in_bad_weather(seed):
    weather = Weather(loss=0.1, duplicates=0.05, jitter_s=0.03)
    network, _, one, two = town(seed, encryption=REQUIRED, weather=weather)
    assert say(network, one, two, b"before", Channel.RELIABLE)
    sent = []
    for number in range(40):
        sent.append(b"%d" % number)
        one.say(two.node_id, Channel.RELIABLE, sent[-1])
        if number % 10 == 5:
            (one, two)[number // 10 % 2].core._secure._say_hello(
                (two, one)[number // 10 % 2].node_id, network.now
            )
        network.run_for(0.2)
    box = heard(two, one, Channel.RELIABLE)
    network.run_until(lambda: sent[-1] in box, 30)
    assert [message for message in box if message != b"before"] == sent, f"seed {seed}"


def moved_in_bad_weather(seed, loss):
    """Return how long it takes until messages go both ways again after a move that was noticed."""
    network, _, one, two = town(seed, weather=Weather(jitter_s=0.01))
    talk(network, one, two, b"before")
    network.weather = Weather(loss=loss, duplicates=loss / 5, jitter_s=0.02)
    network.run_for(1)
    two.see_move(host(20))
    moved = network.now
    assert say(network, two, one, b"out", Channel.RELIABLE, limit_s=60), f"seed {seed}"
    assert say(network, one, two, b"in", Channel.RELIABLE, limit_s=60), f"seed {seed}"
    return network.now - moved


def test_a_lost_proof_is_not_waited_for_so_long_that_the_other_side_gives_up():
    took = [moved_in_bad_weather(seed, loss=0.4) for seed in range(100)]
    assert sum(seconds > 6 for seconds in took) <= 4
    assert sum(took) / len(took) < 2.4


def test_a_plain_peer_and_an_encrypted_one_side_by_side():
    """One peer has encryption off, and no bus that would refuse: silence decides."""
    network, _, one, two = town(encryption=PREFERRED)
    plain = SimNode(network, new_key(network), host(7), encryption=Encryption.OFF)
    assert network.run_until(lambda: plain.core.link.is_up, 5)
    talk(network, one, two, b"secret")
    talk(network, one, plain, b"open", limit_s=10)
    talk(network, two, plain, b"open too", limit_s=10)
    for data, source, target in network.seen:
        if data[0] == FORWARD and plain.address not in (source, target) and source != RELAY:
            assert b"secret" not in data
