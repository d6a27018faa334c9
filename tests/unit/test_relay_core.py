"""The relay's protocol, message by message (docs/protocol/net.md §5)."""

import json
from pathlib import Path

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.ids import node_id_to_bytes
from shem.relay.core import RelayCore
from shem.relay.directory import REGISTER_WITHIN_S, SESSION_EXPIRY_S, RelaySession
from shem.relay.limits import PROOF_BURST, SESSIONS_PER_HOST_MAX
from shem.relay.outputs import SendCheck, SendDatagram
from shem.relay.tickets import TICKET_LIFETIME_S
from shem.wire import relay as r
from shem.wire.forward import encode_forward
from shem.wire.relay_codec import decode_packet, encode_packet
from tests.relay_town import DIFFICULTY, Client, Town, joined

REWRITES = json.loads(Path("tests/vectors/net_forward.json").read_text())["relay_rewrites"]


@pytest.fixture
def town():
    return Town()


# --- sessions


def test_greeting_is_answered_by_a_challenge_and_nothing_is_kept(town):
    client = Client(town, 1)

    ticket = client.greet()

    assert ticket.content.body.challenge_req.difficulty == DIFFICULTY
    assert len(ticket.session_id) == 16
    assert not town.core.directory.sessions


def test_proof_makes_a_session_and_a_repeat_is_answered_again(town):
    client = Client(town, 1)
    ticket = client.greet()

    assert client.prove(ticket).content == r.Response(2, 200, r.Session())
    assert client.prove(ticket).content == r.Response(2, 200, r.Session())
    assert len(town.core.directory.sessions) == 1


def test_ticket_of_another_address_is_worthless(town):
    ticket = Client(town, 1).greet()

    assert Client(town, 2).prove(ticket).content.code == r.Code.BAD_REQUEST


def test_ticket_expires(town):
    client = Client(town, 1)
    ticket = client.greet()

    town.now += TICKET_LIFETIME_S + 2

    assert client.prove(ticket).content.code == r.Code.BAD_REQUEST


def test_ticket_of_another_relay_process_is_worthless(town):
    ticket = Client(Town(seed=2), 1).greet()

    assert Client(town, 1).prove(ticket).content.code == r.Code.BAD_REQUEST


def test_invented_session_id_is_refused(town):
    client = Client(town, 1)
    ticket = client.greet()

    forged = r.Packet(bytes(16), ticket.content)

    assert client.prove(forged).content.code == r.Code.BAD_REQUEST


def test_wrong_solution_is_refused_with_a_body(town):
    client = Client(town, 1)
    ticket = client.greet()
    proof = r.ChallengeResponse(bytes(72), (bytes(65),))

    packet = r.Packet(ticket.session_id, r.Request(2, r.Session(challenge_resp=proof)))
    answer = town.send(packet, client.address)[0]

    assert answer.content == r.Response(2, r.Code.BAD_REQUEST, r.Session())


def test_identities_come_from_signatures_not_from_claims(town):
    liar, victim = PrivateKey.generate(town.rng), PrivateKey.generate(town.rng)
    client = Client(town, 1, liar)
    claim = r.Identity(victim.public_key, node_id_to_bytes(victim.node_id))
    body = r.Session(identities=(claim,))
    ticket = town.send(r.Packet(b"", r.Request(1, body)), client.address)[0]
    client.prove(ticket)
    client.session_id = ticket.session_id
    client.register()

    assert town.core.directory.find(victim.node_id) is None
    assert town.core.directory.find(liar.node_id) is not None


def test_one_host_cannot_take_all_sessions(town):
    for port in range(1, SESSIONS_PER_HOST_MAX + 1):
        town.now += 1 / PROOF_BURST
        town.core.directory.add(_bare_session(port))

    client = Client(town, 60_000)

    assert client.prove(client.greet()).content.code == r.Code.TOO_MANY_REQUESTS


def _bare_session(port):
    identity = (("0x" + "00" * 20, b""),)
    return RelaySession(port.to_bytes(16, "big"), ("10.0.0.9", port), identity, 1, 100.0)


# --- registration and visibility


def test_node_is_visible_only_after_register(town):
    hidden, seeker = Client(town, 1).open(), joined(town, 2)
    question = r.FindNode(node_id_to_bytes(hidden.node_id))

    assert seeker.ask(question).content.code == r.Code.NOT_FOUND
    hidden.register()
    assert seeker.ask(question).content.code == r.Code.OK


def test_session_that_does_not_register_is_told_soon_that_it_is_none(town):
    node = Client(town, 1).open()
    town.pass_time(REGISTER_WITHIN_S - 0.1)
    assert node.ask(r.Ping()).content.code == r.Code.OK
    town.pass_time(0.2)

    assert node.ask(r.Ping()).content.code == r.Code.UNAUTHORIZED

    assert not town.core.directory.sessions
    assert node.open().register().content.code == r.Code.OK
    town.pass_time(REGISTER_WITHIN_S + 1)
    assert node.ask(r.Ping()).content.code == r.Code.OK


def test_public_address_is_checked_from_the_second_socket(town):
    client = Client(town, 1).open()

    client.town.core.receive(
        encode_packet(r.Packet(client.session_id, r.Request(5, r.Register()))),
        client.address,
        town.now,
    )

    checks = [o for o in town.core.outputs() if isinstance(o, SendCheck)]
    assert [check.address for check in checks] == [client.address]
    ping = decode_packet(checks[0].data)
    assert ping.session_id == client.session_id and isinstance(ping.content.body, r.Ping)


def test_answered_check_tells_the_endpoint(town):
    client = Client(town, 1).open()

    answer = client.register()

    assert answer.content == r.Response(7, 200, r.Register((r.Endpoint("10.0.0.9", 1),)))


def test_unanswered_check_means_not_public_after_six_tries(town):
    client = Client(town, 1).open()
    client.ask(r.Register())
    tries = 1
    for _ in range(12):
        town.now += 0.1
        town.core.tick(town.now)
        outputs = town.core.outputs()
        tries += sum(isinstance(o, SendCheck) for o in outputs)
        answers = [decode_packet(o.data) for o in outputs if isinstance(o, SendDatagram)]
        if answers:
            break

    assert tries == 6
    assert answers[0].content == r.Response(7, 200, r.Register())


def test_verdict_is_remembered_for_the_address(town):
    joined(town, 1)

    again = Client(town, 1).open()

    assert again.ask(r.Register()).content.body.endpoints == (r.Endpoint("10.0.0.9", 1),)


def test_pong_with_a_foreign_session_id_proves_nothing(town):
    client = Client(town, 1).open()
    client.ask(r.Register())

    pong = r.Packet(bytes(16), r.Response(1, r.Code.OK, r.Pong()))
    town.core.receive_check(encode_packet(pong), client.address, town.now)

    assert not town.sent()


def test_register_without_session_is_unauthorized(town):
    client = Client(town, 1)
    client.session_id = bytes(16)

    assert client.ask(r.Register()).content == r.Response(7, 401, r.Register())


# --- questions


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (r.FindNode(bytes(20)), r.Node()),
        (r.FindSlot(1), r.Node()),
        (r.FindNeighbours(3), r.Neighbours()),
        (r.AskReverse(bytes(20)), r.ReverseAsked()),
        (r.Ping(), r.Pong()),
    ],
)
def test_unknown_session_and_wrong_address_are_unauthorized(town, body, refusal):
    client = joined(town, 1)
    stranger = Client(town, 2)
    stranger.session_id = client.session_id

    assert stranger.ask(body).content == r.Response(7, 401, refusal)
    stranger.session_id = bytes(16)
    assert stranger.ask(body).content == r.Response(7, 401, refusal)


def test_unknown_request_is_not_answered(town):
    assert joined(town, 1).ask(None) is None


def test_node_answer_has_all_identities_default_first(town):
    keys = [PrivateKey.generate(town.rng) for _ in range(3)]
    node, seeker = joined(town, 1, *keys), joined(town, 2)

    for key in keys:
        found = seeker.ask(r.FindNode(node_id_to_bytes(key.node_id))).content.body
        assert [i.public_key for i in found.identities] == [k.public_key for k in keys]
        assert found.endpoints == (r.Endpoint(*node.address),)
        assert (found.slot, found.seen_ts) == (1, 1_700_000_100)


def test_node_id_of_wrong_length_is_a_bad_request(town):
    answer = joined(town, 1).ask(r.FindNode(bytes(19)))

    assert answer.content == r.Response(7, 400, r.Node())


def test_slot_answers(town):
    one, two = joined(town, 1), joined(town, 2)

    assert one.ask(r.FindSlot(2)).content.body.identities[0].public_key == two.keys[0].public_key
    assert one.ask(r.FindSlot(99)) is None
    two.town.send(
        r.Packet(two.session_id, r.Control(r.Disconnected(session_id=two.session_id))), two.address
    )
    assert one.ask(r.FindSlot(2)).content == r.Response(7, 404, r.Node())


def test_slots_survive_reconnection_and_are_saved_once(town):
    one = joined(town, 1)
    joined(town, 2)
    again = joined(town, 3, *one.keys)

    assert town.core.directory.sessions[again.session_id].slot == 1
    assert len(town.slots) == 2


def test_slots_survive_a_relay_restart():
    town = Town()
    keys = [PrivateKey.generate(town.rng) for _ in range(2)]
    stored = [node_id_to_bytes(key.node_id) for key in keys]
    town.core = RelayCore(town.rng, slots=stored, difficulty=DIFFICULTY, now=town.now)

    client = joined(town, 1, keys[1])

    assert town.core.directory.sessions[client.session_id].slot == 2
    assert town.slots == []


def test_neighbours_are_the_nearest_each_once_and_never_the_asker(town):
    asker = joined(town, 1)
    others = [joined(town, 10 + n, *_keys(town, 1 + n % 2)) for n in range(8)]
    centre = int(asker.node_id, 16)

    def distance(client):
        return min((int(key.node_id, 16) ^ centre).bit_count() for key in client.keys)

    nodes = asker.ask(r.FindNeighbours(5)).content.body.nodes

    ids = [node.identities[0].node_id for node in nodes]
    assert len(set(ids)) == 5
    expected = sorted(others, key=distance)[:4]
    assert {node_id_to_bytes(c.node_id) for c in expected} <= set(ids) | _ties(others, distance)
    assert node_id_to_bytes(asker.node_id) not in ids


def _keys(town, count):
    return [PrivateKey.generate(town.rng) for _ in range(count)]


def _ties(clients, distance):
    ranks = sorted(map(distance, clients))
    return {node_id_to_bytes(c.node_id) for c in clients if distance(c) == ranks[4]}


def test_no_neighbours_is_an_empty_answer(town):
    assert joined(town, 1).ask(r.FindNeighbours(30)).content == r.Response(7, 200, r.Neighbours())


def test_reverse_connection_tells_the_target_where_to_dial(town):
    public, hidden = joined(town, 1), joined(town, 2, is_public=False)
    request = r.Packet(
        public.session_id, r.Request(7, r.AskReverse(node_id_to_bytes(hidden.node_id)))
    )

    town.core.receive(encode_packet(request), public.address, town.now)
    sent = {to: packet for packet, to in town.sent()}

    assert sent[public.address].content == r.Response(7, 200, r.ReverseAsked())
    notice = sent[hidden.address]
    assert notice.session_id == hidden.session_id
    expected = r.DialBack(node_id_to_bytes(public.node_id), (r.Endpoint("10.0.0.9", 1),))
    assert notice.content == r.Control(expected)


def test_reverse_connection_refusals(town):
    public, hidden = joined(town, 1), joined(town, 2, is_public=False)

    ask_public = r.AskReverse(node_id_to_bytes(public.node_id))
    assert hidden.ask(ask_public).content == r.Response(7, 400, r.ReverseAsked())
    assert public.ask(r.AskReverse(bytes(20))).content == r.Response(7, 404, r.ReverseAsked())
    assert public.ask(r.AskReverse(bytes(3))).content == r.Response(7, 400, r.ReverseAsked())


# --- forwarding


@pytest.mark.parametrize("entry", REWRITES, ids=range(len(REWRITES)))
def test_forward_is_rewritten_as_observed(town, entry):
    directory = town.core.directory
    incoming = bytes.fromhex(entry["incoming"])
    sender_key, receiver_key = _keys(town, 2)
    sender = RelaySession(
        bytes.fromhex(entry["incoming_session"]),
        ("10.0.0.1", 1),
        ((sender_key.node_id, b""),),
        entry["sender_slot"],
        town.now,
    )
    receiver = RelaySession(
        bytes.fromhex(entry["outgoing_session"]),
        ("10.0.0.2", 2),
        ((receiver_key.node_id, b""),),
        entry["destination_slot"],
        town.now,
    )
    for session in (sender, receiver):
        directory.add(session)
        directory.register(session)

    result = town.forward(incoming, ("10.0.0.1", 1))

    assert result == (bytes.fromhex(entry["outgoing"]), ("10.0.0.2", 2))


def test_forward_of_an_unknown_session_is_told_with_the_full_id(town):
    data = encode_forward(b"s" * 16, 1, 0, b"x")

    town.core.receive(data, ("10.0.0.1", 1), town.now)

    [(packet, to)] = town.sent()
    assert to == ("10.0.0.1", 1)
    assert packet == r.Packet(b"s" * 16, r.Control(r.Disconnected(session_id=b"s" * 16)))


def test_forward_from_a_wrong_address_is_refused(town):
    one, two = joined(town, 1), joined(town, 2)
    data = encode_forward(one.session_id, 2, 0, b"x")

    assert town.forward(data, two.address) is None


def test_forward_to_nobody_is_told_with_the_slot(town):
    one = joined(town, 1)

    assert one.forward(99) is None
    [(packet, _)] = town.sent()
    assert packet.content == r.Control(r.Disconnected(slot=99))


def test_cut_forward_is_dropped(town):
    one = joined(town, 1)
    joined(town, 2)

    data = encode_forward(one.session_id, 2, 0, b"")[:-1]

    assert town.forward(data, one.address) is None


# --- leaving and returning


def test_silent_session_expires_and_pinging_keeps_it(town):
    quiet, alive = joined(town, 1), joined(town, 2)
    for _ in range(10):
        town.pass_time(SESSION_EXPIRY_S / 8)
        alive.ask(r.Ping())

    assert set(town.core.directory.sessions) == {alive.session_id}
    assert quiet.ask(r.Ping()).content == r.Response(7, 401, r.Pong())


def test_disconnected_from_another_address_is_ignored(town):
    client = joined(town, 1)
    notice = r.Packet(client.session_id, r.Control(r.Disconnected(session_id=client.session_id)))

    town.send(notice, ("10.0.0.66", 1))

    assert client.ask(r.Ping()).content.code == r.Code.OK


def test_moved_node_replaces_its_session_and_its_contacts_are_told(town):
    node, friend, stranger = joined(town, 1), joined(town, 2), joined(town, 3)
    assert friend.forward(1) is not None

    moved = joined(town, 4, *node.keys)

    told = {to: p.content.body for p, to in moved.noticed if to != moved.address}
    assert told == {friend.address: r.Disconnected(node_id=node_id_to_bytes(node.node_id))}
    assert node.session_id not in town.core.directory.sessions
    assert friend.forward(1)[1] == moved.address
    assert stranger.address not in told


def test_node_that_was_only_asked_for_is_announced_too(town):
    node, friend = joined(town, 1), joined(town, 2)
    friend.ask(r.FindNode(node_id_to_bytes(node.node_id)))

    again = joined(town, 1, *node.keys)

    assert friend.address in {to for _, to in again.noticed}


def test_restarted_node_gets_another_session_on_the_same_address(town):
    first = joined(town, 1)

    again = joined(town, 1, *first.keys)

    assert again.session_id != first.session_id
    assert first.session_id not in town.core.directory.sessions


def test_repeated_register_announces_nothing(town):
    node, friend = joined(town, 1), joined(town, 2)
    friend.forward(1)

    town.core.receive(
        encode_packet(r.Packet(node.session_id, r.Request(9, r.Register()))),
        node.address,
        town.now,
    )

    assert [to for _, to in town.sent()] == [node.address]


def test_alias_that_another_node_takes_over_comes_back_when_that_leaves(town):
    shared = PrivateKey.generate(town.rng)
    first = joined(town, 1, PrivateKey.generate(town.rng), shared)
    second = joined(town, 2, PrivateKey.generate(town.rng), shared)
    directory = town.core.directory

    assert directory.find(shared.node_id).session_id == second.session_id
    directory.remove(directory.sessions[second.session_id])
    assert directory.find(shared.node_id).session_id == first.session_id


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x80abc", b"\x12\x10", b"\x0a", b"\x1a\x02\x52"])
def test_malformed_datagram_is_dropped_in_silence(town, data):
    town.core.receive(data, ("10.0.0.1", 1), town.now)

    assert town.sent() == []


def test_flood_of_one_source_is_cut_off(town):
    client = joined(town, 1)

    answers = [client.ask(r.Ping()) for _ in range(1000)]

    assert 300 < sum(a is not None for a in answers) < 500
