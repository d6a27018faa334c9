"""Two relays that serve one network through the registry and mesh seams."""

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.ids import node_id_to_bytes
from shem.relay.mesh import Carry, MemoryMesh, Notice, Returned, decode_message, notice_to
from shem.relay.mesh import carry_to as carry
from shem.relay.mesh import returned as encode_returned
from shem.relay.registry import MemoryRegistry
from shem.wire import relay as r
from shem.wire.errors import WireError
from shem.wire.forward import Forward
from tests.relay_town import Town, joined


@pytest.fixture
def towns():
    registry, mesh = MemoryRegistry(), MemoryMesh()
    return Town(1, "east", registry, mesh), Town(2, "west", registry, mesh)


def test_node_of_the_other_relay_is_found_by_id_by_slot_and_as_neighbour(towns):
    here, there = joined(towns[0], 1), joined(towns[1], 2)

    by_id = here.ask(r.FindNode(node_id_to_bytes(there.node_id))).content.body
    by_slot = here.ask(r.FindSlot(by_id.slot)).content.body
    [near] = here.ask(r.FindNeighbours(5)).content.body.nodes

    assert by_id.endpoints == (r.Endpoint(*there.address),)
    assert by_id.identities[0].public_key == there.keys[0].public_key
    assert by_slot == near == by_id


def test_slots_are_the_networks_and_not_the_relays(towns):
    one, two = joined(towns[0], 1), joined(towns[1], 1)
    moved = joined(towns[1], 3, *one.keys)

    assert towns[0].slots == [one.node_id]
    assert towns[1].slots == [two.node_id]
    assert towns[1].core.directory.sessions[moved.session_id].slot == 1


def test_forward_crosses_to_the_other_relay_and_its_answer_comes_back(towns):
    here, there = joined(towns[0], 1), joined(towns[1], 2)

    assert here.forward(2, b"ping") is None
    towns[0].sent()
    [(arrived, to)] = towns[1].sent()

    assert to == there.address
    assert arrived == Forward(there.session_id, 1, 1, b"ping")
    there.forward(arrived.slot, b"pong", flags=0)
    towns[1].sent()
    assert towns[0].sent() == [(Forward(here.session_id, 2, 0, b"pong"), here.address)]


def test_reverse_connection_is_asked_for_at_the_other_relay(towns):
    public, hidden = joined(towns[0], 1), joined(towns[1], 2, is_public=False)

    answer = public.ask(r.AskReverse(node_id_to_bytes(hidden.node_id)))
    [(notice, to)] = towns[1].sent()

    assert answer.content.code == r.Code.OK
    assert to == hidden.address
    assert notice.session_id == hidden.session_id
    dial_back = r.DialBack(node_id_to_bytes(public.node_id), (r.Endpoint(*public.address),))
    assert notice.content == r.Control(dial_back)


def test_node_that_moves_to_the_other_relay_is_announced_to_its_contacts_at_both(towns):
    node, friend, stranger = joined(towns[0], 1), joined(towns[0], 2), joined(towns[0], 3)
    far_friend = joined(towns[1], 4)
    friend.forward(1)
    far_friend.forward(1)
    for town in (*towns, *towns):
        town.sent()

    moved = joined(towns[1], 5, *node.keys)
    told = {to: p.content.body for p, to in towns[0].sent() + moved.noticed}

    gone = r.Disconnected(node_id=node_id_to_bytes(node.node_id))
    assert told[friend.address] == gone
    assert told[far_friend.address] == gone
    assert stranger.address not in told
    assert node.session_id not in towns[0].core.directory.sessions
    friend.forward(1, b"hello")
    towns[0].sent()
    assert [to for p, to in towns[1].sent() if isinstance(p, Forward)] == [moved.address]


def test_sender_is_told_when_the_other_relay_has_lost_the_node(towns):
    here, there = joined(towns[0], 1), joined(towns[1], 2)
    here.forward(2)
    late = towns[0].core.outputs()
    directory = towns[1].core.directory
    directory.remove(directory.sessions[there.session_id])

    for output in late:
        towns[0].mesh.send("east", output.relay, output.message)
    towns[1].sent()

    [(notice, to)] = towns[0].sent()
    assert to == here.address
    assert notice.content == r.Control(r.Disconnected(slot=2))


def test_relay_that_left_gets_nothing(towns):
    here, _ = joined(towns[0], 1), joined(towns[1], 2)
    towns[0].mesh.leave("west")

    here.forward(2)
    towns[0].sent()

    assert towns[1].sent() == []


MESSAGES = {
    carry(b"\0\0\0\2", b"\0\0\0\1", b"\0\1x"): Carry(2, b"\0\0\0\1", b"\0\1x"),
    notice_to(3, r.Disconnected(slot=9)): Notice(3, r.Disconnected(slot=9)),
    encode_returned(PrivateKey.from_bytes(b"\1" * 32).node_id, 7): Returned(
        PrivateKey.from_bytes(b"\1" * 32).node_id, 7
    ),
}


@pytest.mark.parametrize("data", MESSAGES)
def test_message_between_relays_is_read_back(data):
    assert decode_message(data) == MESSAGES[data]


@pytest.mark.parametrize(
    "data", [b"", b"\1", b"\1" + bytes(9), b"\2" + bytes(4), b"\3" + bytes(23), b"\4" + bytes(40)]
)
def test_malformed_message_between_relays_is_refused_and_harms_nobody(data, towns):
    with pytest.raises(WireError):
        decode_message(data)

    towns[0].core.receive_relay(data, 100.0)

    assert towns[0].sent() == []
