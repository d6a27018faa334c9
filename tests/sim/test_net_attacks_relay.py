"""Attacks D3, D4, D7, D11, D12, D14: at the relay, by the relay, and by who has the same key."""

import pytest

from shem.identity.keys import PrivateKey
from shem.identity.proof import sign_solution
from shem.kernel.config import Encryption
from shem.kernel.ids import node_id_to_bytes
from shem.net import outputs as out
from shem.net.acceptor import GREETING_BURST, HALF_OPEN_MAX
from shem.net.secure.pins import Pins
from shem.net.types import Channel
from shem.relay.core import SendDatagram
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.relay_codec import decode_packet, encode_packet
from tests.sim.attack_town import (
    FORWARD,
    Stranger,
    TappedNetwork,
    direct_session,
    everything_heard,
    heard,
    say,
    town,
)
from tests.sim.net_world import RELAY, SimNode, SimRelay, host, new_key

PREFERRED, REQUIRED, OFF = Encryption.PREFERRED, Encryption.REQUIRED, Encryption.OFF
EVE = host(66)


# --- D3, D4: registration


def test_d3_the_victims_name_without_its_key_is_not_registered():
    network, relay, one, two = town()
    eve = Stranger(network, EVE)
    eve.register(RELAY, claims=[one.node_id])
    assert relay.core.directory.find(one.node_id).address == one.address
    assert relay.core.directory.find(eve.node_id).address == EVE
    assert say(network, two, one, b"still you")
    assert eve.forwards() == []


def test_d3_a_foreign_or_spoilt_signature_registers_nobody():
    network, relay, one, _ = town()
    eve = Stranger(network, EVE)
    for spoil in (
        lambda s: (bytes([s[0] + 2]) + s[1:],),
        lambda s: (s[:-1],),
        lambda s: (bytes(65),),
        lambda s: (),
        lambda s: (s,) * 17,
    ):
        eve.send(r.Request(1, eve.greeting([one.node_id], b"")), RELAY)
        [asked] = eve.take(r.Session)
        ask = asked.content.body.challenge_req
        solution = Solver(ask.challenge, ask.difficulty).step()
        [signature] = sign_solution(solution, [eve.key])
        proof = r.ChallengeResponse(solution, spoil(signature))
        eve.send(r.Request(2, r.Session(challenge_resp=proof)), RELAY, asked.session_id)
        [last] = eve.take(r.Session)
        assert last.content.code == r.Code.BAD_REQUEST
    assert relay.core.directory.find(eve.node_id) is None
    assert relay.core.directory.find(one.node_id).address == one.address


@pytest.mark.parametrize("at", ["relay", "peer"])
def test_d4_an_identity_that_is_listed_and_has_not_signed_counts_for_nothing(at):
    network, relay, one, two = town()
    eve = Stranger(network, EVE)
    claims = [eve.node_id, one.node_id]
    if at == "relay":
        eve.register(RELAY, claims=claims)
        assert relay.core.directory.find(one.node_id).address == one.address
    else:
        eve.dial(two.address, claims=claims)
        session = two.core.router.sessions.by_address[EVE]
        assert session.peer.identities == {eve.node_id}
        assert two.core.router.registry.default_of(one.node_id) == one.node_id


def test_d4_a_signature_over_another_challenge_proves_other_keys_only():
    network, relay, one, _ = town()
    eve = Stranger(network, EVE)
    [old] = sign_solution(bytes(72), [one.key])  # the victim signed something once
    eve.send(r.Request(1, eve.greeting([eve.node_id], b"")), RELAY)
    [asked] = eve.take(r.Session)
    ask = asked.content.body.challenge_req
    solution = Solver(ask.challenge, ask.difficulty).step()
    signatures = (*sign_solution(solution, [eve.key]), old)
    proof = r.ChallengeResponse(solution, signatures)
    eve.send(r.Request(2, r.Session(challenge_resp=proof)), RELAY, asked.session_id)
    eve.take(r.Session)
    eve.send(r.Request(3, r.Register()), RELAY, asked.session_id)
    network.run_for(2)
    assert relay.core.directory.find(one.node_id).address == one.address


def test_d4_an_old_proof_does_not_solve_a_new_challenge():
    network, relay, one, _ = town()
    recorded = [
        packet.content.body
        for data, source, target in network.seen
        if (source, target) == (one.address, RELAY) and data[0] != FORWARD
        for packet in [decode_packet(data)]
        if isinstance(packet.content, r.Request)
        and isinstance(packet.content.body, r.Session)
        and packet.content.body.challenge_resp
    ]
    eve = Stranger(network, EVE)
    eve.send(r.Request(1, eve.greeting([one.node_id], b"")), RELAY)
    [asked] = eve.take(r.Session)
    eve.send(r.Request(2, recorded[0]), RELAY, asked.session_id)
    [last] = eve.take(r.Session)
    assert last.content.code == r.Code.BAD_REQUEST
    assert relay.core.directory.find(one.node_id).address == one.address


# --- D7: a lying relay


def lying_town(encryption, *, nat=False):
    network, _, one, two = town(encryption=encryption, nat=nat)
    eve = SimNode(network, new_key(network), EVE, encryption=encryption)
    assert network.run_until(lambda: eve.core.link.is_up, 10)
    return network, one, two, eve


def lie_about_nodes(network, lie):
    """Have the relay's answers about nodes altered."""

    def tap(data, source, target):
        if source == RELAY and data[0] != FORWARD:
            packet = decode_packet(data)
            match packet.content:
                case r.Response(request_id, code, r.Node() as node) if node.identities:
                    content = r.Response(request_id, code, lie(node))
                    data = encode_packet(r.Packet(packet.session_id, content))
        return [(data, source, target)]

    network.tap = tap


def with_endpoint(node_id, address):
    def lie(node):
        if node.identities[0].node_id != node_id_to_bytes(node_id):
            return node
        return r.Node(node.identities, (r.Endpoint(*address),), node.seen_ts, node.slot)

    return lie


@pytest.mark.parametrize("encryption", list(Encryption))
def test_d7_the_attackers_address_for_the_victims_name_leads_nowhere(encryption):
    network, one, two, eve = lying_town(encryption)
    lie_about_nodes(network, with_endpoint(two.node_id, EVE))
    assert say(network, one, two, b"secret")  # through the relay, in the end
    assert everything_heard(eve) == []
    assert EVE not in one.core.router.sessions.by_address
    assert not any(data[0] == FORWARD for data, source, target in network.seen if target == EVE)


@pytest.mark.parametrize("encryption", list(Encryption))
@pytest.mark.parametrize("channel", [Channel.UNRELIABLE, Channel.RELIABLE])
def test_d7_the_victim_as_an_alias_of_the_attacker_gets_nothing_to_the_attacker(
    encryption, channel
):
    network, one, two, eve = lying_town(encryption)

    def lie(node):
        if node.identities[0].node_id != node_id_to_bytes(two.node_id):
            return node
        identities = (
            r.Identity(eve.key.public_key, node_id_to_bytes(eve.node_id)),
            *node.identities,
        )
        return r.Node(identities, (r.Endpoint(*EVE),), node.seen_ts, node.slot)

    lie_about_nodes(network, lie)
    for _ in range(20):
        if one.core.is_ready(two.node_id, network.now):
            default = one.core.router.registry.default_of(two.node_id)
            assert default == two.node_id
            one.say(default, channel, b"secret")
        else:
            one.core.connect(two.node_id, network.now)
            one.pump()
        network.run_for(1)
    assert everything_heard(eve) == []


def test_d7_a_lie_about_addresses_is_believed_no_longer_than_it_is_told():
    network, one, two, eve = lying_town(REQUIRED)
    lie_about_nodes(network, with_endpoint(eve.node_id, two.address))
    for _ in range(6):
        one.say(eve.node_id, Channel.UNRELIABLE, b"to eve")
        network.run_for(1)
    network.tap = lambda data, source, target: [(data, source, target)]
    one.core.disconnect(eve.node_id)
    one.pump()

    for _ in range(6):  # two is not disturbed by tries to reach eve where two is
        one.say(eve.node_id, Channel.UNRELIABLE, b"to eve")
        one.say(two.node_id, Channel.UNRELIABLE, b"to two")
        network.run_for(0.5)

    assert heard(two, one)[-1] == b"to two"
    assert direct_session(one, two) and direct_session(one, eve)


def test_a_node_whose_proof_was_altered_on_its_way_is_registered_under_its_name_soon():
    network = TappedNetwork(3)
    relay = SimRelay(network)
    altered = []

    def tap(data, source, target):
        packet = decode_packet(data)
        match packet.content:
            case r.Request(number, r.Session(challenge_resp=proof)) if proof and not altered:
                [signature] = proof.signatures
                altered.append(signature[:40] + bytes([signature[40] ^ 1]) + signature[41:])
                proof = r.Session(challenge_resp=r.ChallengeResponse(proof.solution, (altered[0],)))
                data = encode_packet(r.Packet(packet.session_id, r.Request(number, proof)))
        return [(data, source, target)]

    network.tap = tap
    one = SimNode(network, new_key(network), host(0))
    network.run_for(5)

    assert altered
    assert [s.node_id for s in relay.core.directory.by_slot.values()] == [one.node_id]


def test_a_node_that_its_relay_never_finds_stays_with_it():
    network, relay, one, _ = town()
    relay.core.directory.registry.find = lambda _: None
    network.run_for(1)
    one.core.link.lost(network.now, "for once")
    one.pump()
    network.run_for(60)
    handshakes = relay.core.counts.handshakes

    network.run_for(100)

    assert one.core.link.is_up
    assert relay.core.counts.handshakes == handshakes


def test_d7_a_lie_about_slots_is_believed_no_longer_than_it_is_told():
    network, one, two, eve = lying_town(REQUIRED, nat=True)
    lie_about_nodes(
        network, lambda node: r.Node(node.identities, (), node.seen_ts, node.slot % 3 + 1)
    )
    for _ in range(6):
        one.say(two.node_id, Channel.UNRELIABLE, b"secret")
        network.run_for(1)
    assert everything_heard(eve) == []

    network.tap = lambda data, source, target: [(data, source, target)]

    assert say(network, one, two, b"found", limit_s=8)
    assert say(network, two, one, b"found", limit_s=8)


def swapped_slots(network, relay, one, two, eve):
    """The relay gives what is sent to `two` to `eve`, and what `eve` sends comes from `two`."""
    sessions = {}

    def tap(data, source, target):
        if data[0] == FORWARD and source == RELAY and target == two.address:
            sessions[two.address] = data[1:17]
            relayed = eve.core.link.session.session_id
            return [(data[:1] + relayed + data[17:], source, EVE)]
        if data[0] == FORWARD and source == RELAY and target == one.address:
            slot = relay.core.directory.registry.slot_of(two.node_id)
            return [(data[:17] + slot.to_bytes(4) + data[21:], source, target)]
        return [(data, source, target)]

    network.tap = tap


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "required"])
def test_d7_a_relay_that_connects_to_another_node_is_found_out(pinned):
    network = TappedNetwork(5)
    relay = SimRelay(network)
    keys = [new_key(network) for _ in range(3)]
    pins = Pins([keys[1].node_id]) if pinned else None
    policy = PREFERRED if pinned else REQUIRED
    one, two, eve = (
        SimNode(
            network, key, address, is_nat=True, encryption=policy, pins=pins if n == 0 else None
        )
        for n, (key, address) in enumerate(zip(keys, (host(0), host(1), EVE), strict=True))
    )
    network.run_until(lambda: all(n.core.link.is_up for n in (one, two, eve)), 10)
    swapped_slots(network, relay, one, two, eve)
    for _ in range(10):
        one.say(two.node_id, Channel.UNRELIABLE, b"secret")
        one.say(two.node_id, Channel.RELIABLE, b"secret")
        eve.say(one.node_id, Channel.UNRELIABLE, b"order")
        network.run_for(1)
    assert everything_heard(eve, two) == []
    assert heard(one, two) == []
    assert not any(b"secret" in data for data, _, _ in network.seen)


# --- D11, D12: the same key twice


def test_d12_of_two_daemons_with_one_identity_the_newest_is_spoken_to_and_only_it():
    network, _, one, two = town()
    assert say(network, one, two, b"first")
    twin = SimNode(network, two.key, host(9))
    assert say(network, twin, one, b"hello", limit_s=10)
    assert say(network, one, twin, b"second", limit_s=10)
    network.run_for(60)
    assert say(network, one, twin, b"third", Channel.RELIABLE, limit_s=10)
    messages = heard(two, one) + heard(two, one, Channel.RELIABLE)
    assert messages == [b"first"]
    assert direct_session(one, two).address == host(9)


def test_d11_an_older_living_instance_is_refused_and_both_are_told(capsys):
    network, _, one, two = town()
    assert say(network, two, one, b"first")
    twin = SimNode(network, two.key, host(9))
    assert say(network, twin, one, b"from the twin", limit_s=10)
    assert "second_instance" not in capsys.readouterr().out  # it may be a restart
    network.run_for(1)

    assert not say(network, two, one, b"from the older", limit_s=30)
    told = capsys.readouterr().out
    assert "secure.second_instance" in told  # at the one
    assert "secure.superseded" in told  # at the older of the two
    assert say(network, twin, one, b"from the twin again", limit_s=2)


def test_d11_the_owner_takes_its_place_back_by_a_restart():
    network, _, one, two = town()
    assert say(network, two, one, b"first")
    thief = SimNode(network, two.key, host(9))
    assert say(network, thief, one, b"from the thief", limit_s=10)
    two = two.restart()
    assert say(network, two, one, b"from the owner", limit_s=10)
    assert not say(network, thief, one, b"from the thief again", limit_s=20)
    assert say(network, one, two, b"to the owner", limit_s=10)
    assert b"to the owner" not in heard(thief, one)


@pytest.mark.parametrize("seed", range(10))
def test_d12_two_living_instances_never_both_get_a_message(seed):
    network, _, one, two = town(seed)
    twin = SimNode(network, two.key, host(9))
    sent = [b"%d" % number for number in range(30)]
    for number, message in enumerate(sent):
        one.say(two.node_id, Channel.UNRELIABLE, message)
        if number % 7 == 0:
            (two, twin)[number % 2].say(one.node_id, Channel.UNRELIABLE, b"hello")
        network.run_for(0.7)
    both = heard(two, one) + heard(twin, one)
    assert len(both) == len(set(both))


# --- D14: work


@pytest.mark.parametrize("hosts", [1, 10_000])
def test_d14_ten_thousand_greetings_leave_the_node_as_it_was(hosts):
    network, _, one, two = town()
    assert say(network, one, two, b"before")
    eve = Stranger(network, EVE)
    received = len(network.seen)
    sent_bytes = 0
    for number in range(10_000):
        source = (f"10.1.{number % hosts // 250}.{number % hosts % 250}", 1000 + number)
        packet = encode_packet(r.Packet(b"", r.Request(number, eve.greeting([eve.node_id]))))
        sent_bytes += len(packet)
        two._receive(packet, source)
    answers = [(data, target) for data, _, target in network.seen[received:]]
    assert sum(len(data) for data, _ in answers) <= 3 * sent_bytes
    assert len(two.core._acceptor._incoming) <= HALF_OPEN_MAX
    if hosts == 1:
        assert len(answers) <= GREETING_BURST
    assert say(network, one, two, b"after", limit_s=1)


def test_d14_unsolved_proofs_cost_no_signature_check(monkeypatch):
    network, relay, _, two = town()
    eve = Stranger(network, EVE)
    checked = []
    monkeypatch.setattr(
        "shem.identity.proof.recover", lambda *a: checked.append(a) or pytest.fail("checked")
    )
    for to in (RELAY, two.address):
        eve.inbox.clear()
        eve.send(r.Request(1, eve.greeting([eve.node_id])), to)
        [asked] = eve.take(r.Session)
        for number in range(100):
            proof = r.ChallengeResponse(number.to_bytes(8) + bytes(64), (bytes(65),) * 16)
            eve.send(r.Request(2 + number, r.Session(challenge_resp=proof)), to, asked.session_id)
        network.run_for(0.1)
    assert checked == []
    assert relay.core.directory.find(eve.node_id) is None


def test_d14_a_hard_challenge_from_a_stranger_is_not_worked_on():
    network, _, _, two = town()
    eve = Stranger(network, EVE)
    eve.send(r.Request(1, eve.greeting([eve.node_id], difficulty=40)), two.address)
    assert eve.take(r.Session) == []


def test_d14_the_relay_keeps_nothing_for_greetings():
    network, relay, _, _ = town()
    known = len(relay.core.directory.sessions)
    eve = Stranger(network, EVE)
    for number in range(2_000):
        packet = encode_packet(r.Packet(b"", r.Request(number, eve.greeting([eve.node_id], b""))))
        relay.core.receive(packet, (f"10.2.0.{number % 250}", number), network.now)
    answers = [o for o in relay.core.outputs() if isinstance(o, SendDatagram)]
    assert len(relay.core.directory.sessions) == known
    assert all(len(o.data) <= 3 * len(packet) for o in answers)


def test_route_outputs_name_only_ready_peers():
    """RouteUp is told when packets can leave, not when a session is up."""
    network, _, one, two = town()
    told = []
    real = one.core.outputs
    one.core.outputs = lambda: told.extend(o := real()) or o
    one.core.connect(two.node_id, network.now)
    one.pump()
    network.run_until(lambda: out.RouteUp(two.node_id) in told, 5)
    assert one.core.is_ready(two.node_id, network.now)
    assert isinstance(PrivateKey.generate(network.rng).node_id, str)
