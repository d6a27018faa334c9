"""Attacks D1, D2, D8, D9, D10, D15: somebody on the wire, or in its middle.

Each is run against nodes that speak encrypted, and where the old protocol can withstand it also
against nodes that do not (docs/protocol/encryption.md §7 lists what it cannot).
"""

import pytest

from shem.kernel.config import Encryption
from shem.kernel.ids import node_id_to_bytes
from shem.kernel.world import SeededRng
from shem.net.acceptor import HALF_OPEN_MAX
from shem.net.secure.guard import CANDIDATE_S
from shem.net.secure.packets import ENCRYPTED, Kind, read_hello
from shem.net.types import Channel
from shem.wire import gsb
from shem.wire import relay as r
from shem.wire.forward import (
    UNRELIABLE,
    decode_forward,
    decode_unreliable,
    encode_forward,
    encode_unreliable,
)
from shem.wire.relay_codec import decode_packet, encode_packet
from tests.sim.attack_town import (
    FORWARD,
    Stranger,
    direct_session,
    everything_heard,
    heard,
    say,
    town,
)
from tests.sim.net_world import RELAY, SimNode, Weather, host, new_key

PREFERRED, REQUIRED, OFF = Encryption.PREFERRED, Encryption.REQUIRED, Encryption.OFF
EVE = host(66)


def forwards_between(network, one, two):
    return [
        (data, source, target)
        for data, source, target in network.seen
        if data[0] == FORWARD and {source, target} == {one.address, two.address}
    ]


def meet(network, one, two):
    assert say(network, one, two, b"hello")
    assert say(network, two, one, b"hello back")
    assert say(network, one, two, b"stream", Channel.RELIABLE)
    assert direct_session(one, two) and direct_session(two, one)


# --- D1


@pytest.mark.parametrize("encryption", [PREFERRED, OFF])
def test_d1_forwards_from_another_address_are_dropped(encryption):
    network, _, one, two = town(encryption=encryption)
    meet(network, one, two)
    before = everything_heard(one, two)
    sessions = direct_session(two, one), direct_session(one, two)

    for data, _, target in forwards_between(network, one, two):
        network.forge(data, EVE, target)
    forged = encode_forward(sessions[0].session_id, 0, UNRELIABLE, encode_unreliable(b"forged"))
    network.forge(forged, EVE, two.address)
    network.run_for(5)

    assert everything_heard(one, two) == before
    assert (direct_session(two, one), direct_session(one, two)) == sessions
    assert EVE not in two.core.router.sessions.by_address


@pytest.mark.parametrize("flags", [0, UNRELIABLE, ENCRYPTED, ENCRYPTED | UNRELIABLE])
def test_d1_forwards_from_the_victims_address_need_its_channel(flags):
    """The attacker is on the path, knows the session and can write any source address."""
    network, _, one, two = town()
    meet(network, one, two)
    before = everything_heard(one, two)
    session_id = direct_session(two, one).session_id
    for payload in (encode_unreliable(b"forged"), b"\x04" + bytes(80), b"\x60" + bytes(80)):
        network.forge(encode_forward(session_id, 0, flags, payload), one.address, two.address)
    network.run_for(5)
    assert everything_heard(one, two) == before


def test_d1_forwards_through_the_relay_in_the_victims_name_are_dropped():
    """The relay compares addresses, and who can write those still has no channel."""
    network, _, one, two = town(nat=True)
    assert say(network, one, two, b"hello")
    before = everything_heard(two)
    relayed = [d for d, s, t in network.seen if d[0] == FORWARD and t == RELAY and s == one.address]
    for data in relayed:
        network.forge(data, EVE, RELAY)
        plain = data[:21] + UNRELIABLE.to_bytes(2) + encode_unreliable(b"forged")
        network.forge(plain, EVE, RELAY)
        network.forge(plain, one.address, RELAY)  # with its address even the relay is fooled
    network.run_for(5)
    assert everything_heard(two) == before


# --- D2


def test_d2_replayed_datagrams_of_a_live_session_do_nothing():
    network, _, one, two = town()
    meet(network, one, two)
    before = everything_heard(one, two)
    for data, source, target in list(network.seen):
        if target != RELAY:
            network.forge(data, source, target)
    network.run_for(5)
    assert everything_heard(one, two) == before


@pytest.mark.parametrize("encryption", [PREFERRED, OFF])
def test_d2_replayed_datagrams_of_an_old_session_do_nothing_to_a_restarted_node(encryption):
    network, _, one, two = town(encryption=encryption)
    meet(network, one, two)
    recorded = [seen for seen in network.seen if seen[2] == two.address and seen[1] != RELAY]
    one.die()  # the requestor is absent
    two = two.restart()
    network.run_for(5)
    before = everything_heard(two)
    for _ in range(3):
        for data, source, target in recorded:
            network.forge(data, source, target)
        network.run_for(2)
    assert everything_heard(two) == before
    assert direct_session(two, one) is None


def test_d2_replayed_datagrams_do_nothing_while_the_victim_is_away():
    network, _, one, two = town()
    meet(network, one, two)
    recorded = [seen for seen in network.seen if seen[2] == two.address and seen[1] != RELAY]
    one.die()
    before = everything_heard(two)
    for _ in range(10):
        for data, source, target in recorded:
            network.forge(data, source, target)
        network.run_for(3)
    assert everything_heard(two) == before
    assert direct_session(two, one) is None  # replays are no sign of life


# --- D8


@pytest.mark.parametrize("seed", range(25))
def test_d8_a_relay_that_drops_reorders_repeats_and_alters_costs_only_time(seed):
    network, _, one, two = town(seed, nat=True, encryption=(PREFERRED, REQUIRED)[seed % 2])
    assert say(network, one, two, b"before")
    choice = SeededRng(seed)
    old = []

    def malice(data, source, target):
        if source != RELAY or data[0] != FORWARD:
            return [(data, source, target)]
        old.append((data, source, target))
        altered = bytearray(data)
        altered[23 + choice.below(len(data) - 23)] ^= 1 << choice.below(8)
        carried = [(data, source, target)] * choice.below(3)
        if choice.below(3) == 0:
            carried.append((bytes(altered), source, target))
        if choice.below(3) == 0:
            carried.append(old[choice.below(len(old))])
        return carried

    network.tap = malice
    sent = [f"{number}".encode() * 300 for number in range(15)]
    for message in sent:
        if one.core.is_ready(two.node_id, network.now):
            one.say(two.node_id, Channel.RELIABLE, message)
        network.run_for(0.3)
    box = heard(two, one, Channel.RELIABLE)
    assert box == [m for m in sent if m in box], f"seed {seed}"
    network.tap = lambda *seen: [seen]
    assert say(network, one, two, b"after", Channel.RELIABLE), f"seed {seed}"
    assert set(box) <= {*sent, b"after"}, f"seed {seed}"
    box = [message for message in box if message != b"after"]  # which was said until heard
    assert len(box) == len(set(box)), f"seed {seed}"


# --- D9


@pytest.mark.parametrize("encryption", [PREFERRED, OFF])
def test_d9_a_flood_of_disconnected_by_name_is_only_a_hint(encryption):
    network, _, one, two = town(encryption=encryption)
    meet(network, one, two)
    eve = Stranger(network, EVE)
    session = direct_session(two, one)
    notice = r.Control(r.Disconnected(node_id=node_id_to_bytes(one.node_id)))
    for number in range(1000):
        eve.send(notice, two.address, bytes([number % 256]) * 16)
        if number % 100 == 0:
            assert say(network, one, two, b"%d" % number, limit_s=1)
        network.run_for(0.01)
    assert direct_session(two, one) is session


def test_d9_a_flood_of_disconnected_by_session_is_only_a_hint():
    """The attacker knows the session id and writes the peer's address."""
    network, _, one, two = town()
    meet(network, one, two)
    seen = len(network.seen)
    started = network.now
    for number in range(1000):
        for victim, peer in ((two, one), (one, two)):
            session = direct_session(victim, peer)
            sid = session.session_id
            for content in (
                r.Control(r.Disconnected(session_id=sid)),
                r.Control(r.PauseForwarding()),
                r.Response(number, r.Code.UNAUTHORIZED, r.Pong()),
            ):
                packet = encode_packet(r.Packet(sid, content))
                network.forge(packet, peer.address, victim.address)
        if number % 100 == 0:
            assert say(network, one, two, b"%d" % number, limit_s=1)
        network.run_for(0.01)
    dials = {
        packet.content.request_id
        for data, source, _ in network.seen[seen:]
        if data[0] != FORWARD
        and isinstance((packet := decode_packet(data)).content, r.Request)
        and isinstance(packet.content.body, r.Session)
        and packet.content.body.challenge_req
        and source == two.address
    }
    assert len(dials) <= 4 + (network.now - started) / 2
    assert say(network, two, one, b"still here", limit_s=1)


def test_d9_a_third_nodes_channel_cannot_end_a_session_of_others():
    network, _, one, two = town()
    meet(network, one, two)
    eve = SimNode(network, new_key(network), EVE)
    assert network.run_until(lambda: eve.core.link.is_up, 10)
    assert say(network, eve, two, b"hello")
    session = direct_session(two, one)
    notice = r.Control(r.Disconnected(session_id=session.session_id))
    data = encode_packet(r.Packet(session.session_id, notice))
    sealed = eve.core._secure.seal(two.node_id, Kind.CONTROL, data, network.now)
    network.forge(b"\x0a" + session.session_id + bytes(4) + sealed, one.address, two.address)
    network.run_for(0.1)
    assert direct_session(two, one) is session


def test_d9_the_peers_own_goodbye_is_believed_at_once():
    network, _, one, two = town()
    meet(network, one, two)
    session = direct_session(two, one)
    one.core.disconnect(two.node_id)
    one.pump()
    network.run_for(0.015)
    assert direct_session(two, one) is not session


# --- D10


@pytest.mark.parametrize("encryption", [PREFERRED, REQUIRED])
def test_d10_who_passes_everything_on_learns_and_changes_nothing(encryption):
    network, _, one, two = town(encryption=encryption)
    secret, order = b"the secret word", b"pay one GLM to bob"
    choice = SeededRng(3)

    def meddle(data, source, target):
        if data[0] != FORWARD or RELAY in (source, target):
            return [(data, source, target)]
        altered = bytearray(data)
        altered[-1 - choice.below(min(len(data) - 23, 60))] ^= 0x40
        return [(data, source, target), (bytes(altered), source, target)]

    network.tap = meddle
    assert say(network, one, two, secret)
    assert say(network, one, two, order, Channel.RELIABLE)
    assert not any(secret in data or order in data for data, _, _ in network.seen)
    assert set(everything_heard(two)) == {secret, order}


def refuse_hellos(network):
    """Answer every Hello as a legacy node would, and drop it."""

    def tap(data, source, target):
        if data[0] == FORWARD:
            forward = decode_forward(data)
            if forward.flags == UNRELIABLE and read_hello(forward.payload):
                call = gsb.decode_packet(decode_unreliable(forward.payload))
                reply = gsb.CallReply(call.request_id, gsb.Code.BAD_REQUEST, data=b"Bad request")
                payload = encode_unreliable(gsb.encode_packet(reply))
                answer = encode_forward(forward.session_id, 0, UNRELIABLE, payload)
                return [(answer, target, source)]
        return [(data, source, target)]

    network.tap = tap


def test_d10_required_is_not_talked_into_plain_text():
    network, _, one, two = town(encryption=REQUIRED)
    refuse_hellos(network)
    assert not say(network, one, two, b"secret", limit_s=10)
    assert not any(b"secret" in data for data, _, _ in network.seen)


def test_d10_preferred_is_not_talked_back_into_plain_text():
    network, _, one, two = town()
    meet(network, one, two)
    one.core._secure._links.forget(two.node_id)  # as if the keys had expired
    two.core._secure._links.forget(one.node_id)
    refuse_hellos(network)
    assert not say(network, one, two, b"secret", limit_s=10)
    assert not any(b"secret" in data for data, _, _ in network.seen)
    network.tap = lambda *seen: [seen]
    assert say(network, one, two, b"secret")


def test_d10_residual_at_first_contact_preferred_can_be_talked_into_plain_text():
    """Documented: only `required` withstands who sits in the middle from the first packet on."""
    network, _, one, two = town()
    refuse_hellos(network)
    assert say(network, one, two, b"not so secret", limit_s=10)
    assert any(b"not so secret" in data for data, _, _ in network.seen)


def passed_on_handshake(network, eve, victim, peer):
    """Dial `victim` as `peer`, whose signature is got by dialling it with the victim's challenge.

    Return the session id that the victim now holds for the attacker's address.
    """
    eve.inbox.clear()
    eve.send(r.Request(21, eve.greeting([peer.node_id])), victim.address)
    [asked] = eve.take(r.Session)
    challenge = asked.content.body.challenge_req.challenge
    eve.send(r.Request(22, eve.greeting([eve.node_id], challenge)), peer.address)
    [answer] = eve.take(r.Session)
    proof = eve.solve(answer.content.body.challenge_req, [eve.key])
    eve.send(r.Request(23, proof), peer.address, answer.session_id)
    [signed] = eve.take(r.Session)
    stolen = r.Session(challenge_resp=signed.content.body.challenge_resp)
    eve.send(r.Request(24, stolen), victim.address, asked.session_id)
    eve.send(r.Control(r.ResumeForwarding()), victim.address, asked.session_id)
    network.run_for(0.1)
    return asked.session_id


def test_d10_a_handshake_passed_on_does_not_lead_the_traffic_away():
    network, _, one, two = town()
    meet(network, one, two)
    session = direct_session(one, two)
    eve = Stranger(network, EVE)
    for number in range(5):
        passed_on_handshake(network, eve, one, two)
        assert direct_session(one, two) is session
        assert say(network, one, two, b"%d" % number, limit_s=0.5)
        assert not any(flags_of(data) != ENCRYPTED for data in eve.forwards())
        network.run_for(CANDIDATE_S + 2)
        assert EVE not in one.core.router.sessions.by_address


def flags_of(forward):
    return int.from_bytes(forward[21:23], "big")


def test_d10_a_handshake_passed_on_brings_no_messages_in():
    network, _, one, two = town()
    meet(network, one, two)
    before = everything_heard(one)
    eve = Stranger(network, EVE)
    session_id = passed_on_handshake(network, eve, one, two)
    for flags in (0, UNRELIABLE, ENCRYPTED):
        forged = encode_forward(session_id, 0, flags, encode_unreliable(b"forged"))
        network.forge(forged, EVE, one.address)
    network.run_for(2)
    assert everything_heard(one) == before


def test_d10_residual_a_legacy_peer_is_led_away_by_a_handshake_passed_on():
    """Documented: without encryption, signatures do not say for whom they were given."""
    network, _, one, two = town(encryption=OFF)
    meet(network, one, two)
    eve = Stranger(network, EVE)
    passed_on_handshake(network, eve, one, two)
    assert direct_session(one, two).address == EVE


# --- D15


@pytest.mark.parametrize("seed", range(10))
def test_d15_the_returning_node_is_not_locked_out_by_those_who_claim_to_be_it(seed):
    network, _, one, two = town(seed, weather=Weather(jitter_s=0.02))
    meet(network, one, two)
    two.die()
    network.run_for(25)
    eves = [Stranger(network, host(100 + n)) for n in range(8)]
    claim = [two.node_id]
    for _ in range(3 * HALF_OPEN_MAX // len(eves)):
        for eve in eves:
            eve.send(r.Request(31, eve.greeting(claim)), one.address)
            eve.send(
                r.Control(r.Disconnected(node_id=node_id_to_bytes(two.node_id))),
                one.address,
                b"x" * 16,
            )
        network.run_for(0.002)
    for eve in eves:
        answers = eve.take(r.Session)
        if not answers:
            continue
        proof = eve.solve(answers[-1].content.body.challenge_req, [eve.key])
        eve.send(r.Request(32, proof), one.address, answers[-1].session_id)
    two = SimNode(network, two.key, two.address, heard=two.heard, encryption=PREFERRED)
    started = network.now
    assert say(network, two, one, b"I am back", Channel.RELIABLE, limit_s=5), f"seed {seed}"
    assert say(network, one, two, b"welcome", Channel.RELIABLE, limit_s=5), f"seed {seed}"
    assert network.now - started < 5, f"seed {seed}"
    assert direct_session(one, two).address == two.address, f"seed {seed}"


def test_d15_a_hijacker_who_was_first_gives_way_to_the_channel():
    """Somebody passed the handshake on while the victim was away from its address."""
    network, _, one, two = town()
    meet(network, one, two)
    two.move(host(9))
    eve = Stranger(network, EVE)
    two.core.router.close(direct_session(two, one), tell=False)
    passed_on_handshake(network, eve, one, two)
    assert say(network, two, one, b"here I am", Channel.RELIABLE, limit_s=20)
    assert say(network, one, two, b"there you are", Channel.RELIABLE, limit_s=20)
    network.run_for(10)
    assert direct_session(one, two).address == host(9)
