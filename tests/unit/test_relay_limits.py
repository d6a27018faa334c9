"""What one session, one host and everybody together may make the relay do."""

import pytest

from shem.kernel.ids import node_id_to_bytes
from shem.relay import limits
from shem.wire import relay as r
from shem.wire.forward import encode_forward
from tests.relay_town import Client, Town, joined


@pytest.fixture
def town():
    return Town()


def flood(client, slot, count):
    """Send Forwards at once; return how many were forwarded."""
    data = encode_forward(client.session_id, slot, 1, b"x")
    batch = [(data, client.address)] * count
    return len(client.town.core.receive_batch(batch, client.town.now))


def test_session_forwards_its_share_and_no_more(town):
    one, _ = joined(town, 1), joined(town, 2)
    burst = int(limits.FORWARD_BURST)

    assert flood(one, 2, burst + 5_000) == burst
    assert town.core.counts.refused["forward rate"] == 5_000
    town.now += 0.1
    again = flood(one, 2, burst)
    assert 0 <= limits.FORWARD_RATE_PER_S * 0.1 - again <= limits.FORWARD_CHUNK


def test_one_session_at_its_limit_does_not_harm_another(town):
    greedy, modest = joined(town, 1), joined(town, 2)
    flood(greedy, 2, int(limits.FORWARD_BURST) + 1)

    assert modest.forward(1) is not None


def test_sessions_of_one_host_share_its_limit_and_other_hosts_do_not(town):
    crowd = [joined(town, port) for port in range(1, 5)]
    other = joined(town, 9, host="10.0.0.77")
    share = int(limits.FORWARD_BURST)

    forwarded = sum(flood(client, 1, share) for client in crowd)

    assert forwarded == limits.HOST_FORWARD_BURST
    assert flood(other, 1, 100) == 100


def test_all_ports_of_one_host_share_a_limit_on_control_packets(town):
    answered = 0
    for port in range(1, int(limits.HOST_CONTROL_BURST / 10) + 100):
        client = Client(town, port)
        for _ in range(10):
            packet = r.Packet(b"", r.Request(1, r.Session()))
            answered += len(town.send(packet, client.address))

    assert answered == limits.HOST_CONTROL_BURST
    assert Client(town, 1, host="10.0.0.77").greet() is not None


def test_neighbours_are_searched_rarely_per_session(town):
    one, two = joined(town, 1), joined(town, 2)
    burst = int(limits.SEARCH_BURST)
    codes = [one.ask(r.FindNeighbours(5)).content.code for _ in range(burst + 10)]

    assert codes.count(r.Code.OK) == burst
    assert set(codes[burst:]) == {r.Code.TOO_MANY_REQUESTS}
    assert two.ask(r.FindNeighbours(5)).content.code == r.Code.OK
    town.now += 1 / limits.SEARCH_RATE_PER_S
    assert one.ask(r.FindNeighbours(5)).content.code == r.Code.OK


def test_proofs_of_one_host_are_limited_with_an_answer(town, monkeypatch):
    monkeypatch.setattr(limits, "PROOF_BURST", 1.0)
    town = Town()
    joined(town, 1)
    late = Client(town, 2)

    assert late.prove(late.greet()).content.code == r.Code.TOO_MANY_REQUESTS


def test_proofs_of_all_hosts_are_limited_in_silence_and_succeed_when_repeated(monkeypatch):
    monkeypatch.setattr(limits, "ALL_PROOFS_BURST", 1.0)
    town = Town()
    joined(town, 1)
    late = Client(town, 2, host="10.0.0.77")
    ticket = late.greet()

    with pytest.raises(IndexError):
        late.prove(ticket)
    town.now += 2.0
    assert late.prove(ticket).content.code == r.Code.OK


def test_strangers_forwards_are_answered_within_the_control_limit(town):
    data = encode_forward(b"s" * 16, 1, 0, b"x")

    answers = 0
    for _ in range(2 * int(limits.CONTROL_BURST)):
        town.core.receive(data, ("10.0.0.66", 1), town.now)
        answers += len(town.sent())

    assert answers == limits.CONTROL_BURST


def test_limits_leave_an_ordinary_node_alone(town):
    node = joined(town, 1)
    for _ in range(600):  # ten minutes, with far more questions than any node asks
        town.now += 1
        assert node.ask(r.Ping()).content.code == r.Code.OK
        assert node.ask(r.FindNode(node_id_to_bytes(node.node_id))).content.code == r.Code.OK
        assert flood(node, 1, 20) == 20
    assert not town.core.counts.refused
