"""Whatever arrives: nothing raises, nothing foreign is opened, nothing is opened twice."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from shem.net.secure.packets import DATA, ENCRYPTED, Kind, read_hello
from shem.net.secure.window import WINDOW_SIZE, ReplayWindow
from shem.wire.errors import WireError
from tests.sim.attack_town import direct_session, everything_heard, say, town
from tests.unit.test_net_secure_layer import KEYS, Node, Wire

FLAGS = st.sampled_from([0, 1, ENCRYPTED, ENCRYPTED | 1, 0xFFFF])


def connected():
    wire = Wire()
    alice, bob = (Node(wire, key) for key in KEYS[:2])
    alice.say(bob, b"hello")
    wire.run()
    return wire, alice, bob


@given(flags=FLAGS, payload=st.binary(max_size=200), first=st.sampled_from([1, 2, 3, 4, 96]))
def test_a_layer_survives_any_packet(flags, payload, first):
    wire, alice, bob = connected()
    number = next(iter(bob.secure._links._by_number)).to_bytes(4)
    for packet in (payload, bytes([first]) + payload, bytes([first]) + number + payload):
        bob.hear(alice.as_peer, flags.to_bytes(2) + packet)
    assert bob.payloads == [b"hello"]
    alice.say(bob, b"still")
    wire.run()
    assert bob.payloads == [b"hello", b"still"]


@given(st.binary(max_size=300))
def test_a_hello_is_read_or_refused(payload):
    for message in (payload, payload[:50] + b"/shem/Noise" + payload[50:]):
        with contextlib.suppress(WireError):
            read_hello(message)


@settings(max_examples=60)
@given(st.data())
def test_packets_lost_doubled_swapped_and_altered_are_opened_at_most_once(data):
    wire, alice, bob = connected()
    sent = [b"%d" % number for number in range(data.draw(st.integers(1, 30)))]
    for message in sent:
        alice.say(bob, message, Kind.UNRELIABLE)
    packets = [packet for _, _, packet in wire.under_way]
    wire.under_way.clear()
    fates = st.lists(st.integers(0, len(packets) - 1), max_size=60)
    for index in data.draw(fates):
        packet = packets[index]
        if data.draw(st.booleans()):
            position = data.draw(st.integers(2, len(packet) - 1))
            altered = packet[:position] + bytes([packet[position] ^ 1]) + packet[position + 1 :]
            bob.hear(alice.as_peer, altered)
        else:
            bob.hear(alice.as_peer, packet)
    opened = bob.payloads[1:]
    assert len(opened) == len(set(opened))
    assert set(opened) <= set(sent)


@given(st.lists(st.integers(0, 3 * WINDOW_SIZE), max_size=200))
def test_a_window_is_a_set_with_a_horizon(counters):
    window, seen = ReplayWindow(), set()
    for counter in counters:
        expected = counter not in seen and counter > max(seen, default=-1) - WINDOW_SIZE
        assert window.is_new(counter) is expected
        if expected:
            window.add(counter)
            seen.add(counter)


@settings(deadline=None, max_examples=40)
@given(data=st.binary(max_size=120), prefix=st.sampled_from(["", "session", "relay"]), flags=FLAGS)
def test_a_node_survives_any_datagram_of_a_session(data, prefix, flags):
    network, _, one, two = town(3)
    assert say(network, two, one, b"hello")
    session, relay = direct_session(one, two), one.core.link.session
    head = {
        "": b"",
        "session": b"\x0a" + session.session_id + bytes(4) + flags.to_bytes(2),
        "relay": b"\x0a" + relay.session_id + b"\0\0\0\2" + flags.to_bytes(2) + bytes([DATA]),
    }[prefix]
    network.forge(head + data, relay.address if prefix == "relay" else session.address, one.address)
    network.run_for(1)
    assert everything_heard(one) == [b"hello"]
    assert say(network, two, one, b"still here", limit_s=3)
