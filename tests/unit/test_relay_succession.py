"""A node that proves other identities replaces its own session: found anew, nobody disturbed."""

from shem.identity.keys import PrivateKey
from shem.kernel.ids import node_id_to_bytes
from shem.wire import relay as r
from shem.wire.forward import encode_forward
from shem.wire.relay_codec import encode_packet
from tests.relay_town import Client, Town


def registered(town, port, *keys, is_public=True):
    client = Client(town, port, *keys)
    client.open()
    client.register(is_public=is_public)
    return client


def succeed(town, old, *more, speaks=True, is_public=True):
    """Open a second session of the same node at the same address and register it."""
    new = Client(town, old.address[1], *old.keys, *more)
    new.open()
    town.now += 0.001
    if speaks:
        old.ask(r.Ping())
    new.register(is_public=is_public)
    return new


def has_met(town, one, other):
    slot = town.core.directory.find(other.node_id).slot
    assert town.forward(encode_forward(one.session_id, slot, 1, b"hello"), one.address)


def told_of(client, node_id):
    gone = r.Control(r.Disconnected(node_id=node_id_to_bytes(node_id)))
    return [to for packet, to in client.noticed if packet.content == gone]


def test_new_identity_is_found_and_the_slot_stays():
    town = Town()
    old, key = registered(town, 1), PrivateKey.generate(town.rng)
    slot = town.core.directory.find(old.node_id).slot

    new = succeed(town, old, key)

    for node_id in (old.node_id, key.node_id):
        found = town.core.directory.find(node_id)
        assert (found.session_id, found.slot) == (new.session_id, slot)


def test_old_session_goes_on_until_its_node_takes_its_leave():
    town = Town()
    old, other = registered(town, 1), registered(town, 2)
    has_met(town, old, other)
    succeed(town, old, PrivateKey.generate(town.rng))

    has_met(town, old, other)
    farewell = r.Packet(old.session_id, r.Control(r.Disconnected(session_id=old.session_id)))
    town.core.receive(encode_packet(farewell), old.address, town.now)

    slot = town.core.directory.find(other.node_id).slot
    assert town.forward(encode_forward(old.session_id, slot, 1, b"?"), old.address) is None
    assert town.core.directory.find(old.node_id) is not None


def test_forwards_to_the_node_go_to_its_new_session():
    town = Town()
    old, other = registered(town, 1), registered(town, 2)
    new = succeed(town, old, PrivateKey.generate(town.rng))

    slot = town.core.directory.find(old.node_id).slot
    data, address = town.forward(encode_forward(other.session_id, slot, 1, b"x"), other.address)

    assert (data[1:17], address) == (new.session_id, new.address)


def test_contacts_with_sessions_of_their_own_are_left_alone():
    town = Town()
    old, other = registered(town, 1), registered(town, 2)
    has_met(town, old, other)

    new = succeed(town, old, PrivateKey.generate(town.rng))

    assert told_of(new, old.node_id) == []


def test_contacts_that_only_the_relay_connects_look_the_node_up_again():
    town = Town()
    old, other = (registered(town, port, is_public=False) for port in (1, 2))
    has_met(town, old, other)

    new = succeed(town, old, PrivateKey.generate(town.rng), is_public=False)

    assert told_of(new, old.node_id) == [other.address]


def test_node_that_has_restarted_is_told_to_its_contacts():
    town = Town()
    old, other = registered(town, 1), registered(town, 2)
    has_met(town, old, other)

    new = succeed(town, old, speaks=False)

    assert told_of(new, old.node_id) == [other.address]
    assert old.session_id not in town.core.directory.sessions


def test_other_node_at_the_same_address_succeeds_nobody():
    town = Town()
    old = registered(town, 1)

    new = succeed(town, Client(town, 1))

    assert town.core.directory.find(old.node_id).session_id == old.session_id
    assert town.core.directory.find(new.node_id).session_id == new.session_id
