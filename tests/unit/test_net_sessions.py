"""The node's session layer against a scripted peer and a real relay core (net.md §4, §6)."""

import pytest

from shem.identity.proof import prove, sign_solution
from shem.kernel.caller import Assurance
from shem.kernel.config import Encryption
from shem.kernel.ids import node_id_to_bytes
from shem.net import outputs as out
from shem.net.acceptor import HALF_OPEN_MAX, PEER_DIFFICULTY_MAX
from shem.net.router import HELD_MAX
from shem.net.session import IDLE_AFTER_S
from shem.net.types import Channel
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.forward import decode_forward, encode_forward, encode_unreliable
from shem.wire.relay_codec import decode_packet, encode_packet
from tests.sim.net_world import RELAY, RELAY_CHECK, Network, SimNode, SimRelay, host, new_key

S1 = b"1" * 16
S2 = b"2" * 16


class Script:
    """A peer that only does what the test says, and writes down what arrives."""

    def __init__(self, network, address):
        self.network = network
        self.address = address
        self.key = new_key(network)
        self.inbox = []
        network.hosts[address] = lambda data, source: self.inbox.append((data, source))

    @property
    def node_id(self):
        return self.key.node_id

    def send(self, content, to, session_id=b"", source=None):
        packet = encode_packet(r.Packet(session_id, content))
        self.network.send(packet, source or self.address, to)

    def packets(self, kind):
        """Return and forget the control packets with a body of this type."""
        self.network.run_for(0.1)
        found, kept = [], []
        for data, source in self.inbox:
            packet = decode_packet(data) if data[0] != 0x0A else None
            (found if packet and isinstance(packet.content.body, kind) else kept).append(
                packet if packet and isinstance(packet.content.body, kind) else (data, source)
            )
        self.inbox = kept
        return found

    def forwards(self):
        self.network.run_for(0.1)
        found = [decode_forward(data) for data, _ in self.inbox if data[0] == 0x0A]
        self.inbox = [(data, source) for data, source in self.inbox if data[0] != 0x0A]
        return found

    def greeting(self, difficulty=1):
        identity = r.Identity(self.key.public_key, node_id_to_bytes(self.node_id))
        return r.Session(r.ChallengeRequest(b"c" * 16, difficulty), identities=(identity,))

    def solve(self, ask, keys=None):
        solution = Solver(ask.challenge, ask.difficulty).step()
        return r.Session(
            challenge_resp=r.ChallengeResponse(
                solution, sign_solution(solution, keys or [self.key])
            )
        )

    def dial(self, node):
        """Do a whole handshake as initiator, without Resume; return the session id."""
        self.send(r.Request(11, self.greeting()), node.address)
        [answer] = self.packets(r.Session)
        proof = self.solve(answer.content.body.challenge_req)
        self.send(r.Request(12, proof), node.address, answer.session_id)
        [last] = self.packets(r.Session)
        assert last.content.code == r.Code.OK
        return answer.session_id

    def accept(self, node, session_id=S1, keys=None, after_s=0.0):
        """Answer the greeting that is in the inbox, and after a while its proof."""
        greeting = self.packets(r.Session)[-1]
        ask = r.ChallengeRequest(b"d" * 16, 1)
        answer = r.Response(greeting.content.request_id, 200, r.Session(challenge_req=ask))
        self.send(answer, node.address, session_id)
        proof = self.packets(r.Session)[-1]
        self.network.run_for(after_s)
        mine = self.solve(greeting.content.body.challenge_req, keys)
        self.send(r.Response(proof.content.request_id, 200, mine), node.address, session_id)
        return greeting, proof


@pytest.fixture
def network():
    return Network(7)


@pytest.fixture
def node(network):
    SimRelay(network)
    started = SimNode(network, new_key(network), host(1), encryption=Encryption.OFF)
    assert network.run_until(lambda: started.core.link.is_up, 5)
    return started


@pytest.fixture
def peer(network):
    return Script(network, host(2))


def session_of(node, peer):
    return node.core.router.sessions.find(peer.node_id)


def register(network, peer):
    """Have the relay know the scripted peer, at its address."""
    relay = next(fn.__self__ for at, fn in network.hosts.items() if at == RELAY)
    directory = relay.core.directory
    from shem.relay.directory import RelaySession

    identities = ((peer.node_id, peer.key.public_key),)
    slot = directory.registry.slot_of(peer.node_id)
    session = RelaySession(b"R" * 16, peer.address, identities, slot, network.now)
    session.is_public = True
    directory.add(session)
    directory.register(session)
    return relay, session


# --- as responder


def test_peer_that_proves_itself_gets_a_session(node, peer):
    session_id = peer.dial(node)

    session = session_of(node, peer)
    assert session.session_id == session_id
    assert session.peer.assurance is Assurance.PROVEN
    assert node.heard.up == [peer.node_id]


def test_repeated_messages_get_the_stored_answers(node, peer):
    peer.send(r.Request(1, peer.greeting()), node.address)
    peer.send(r.Request(1, peer.greeting()), node.address)
    peer.send(r.Request(2, peer.greeting()), node.address)
    answers = peer.packets(r.Session)
    assert len({a.session_id for a in answers}) == 1
    assert [a.content.request_id for a in answers] == [1, 1, 2]

    proof = peer.solve(answers[0].content.body.challenge_req)
    for _ in range(2):
        peer.send(r.Request(3, proof), node.address, answers[0].session_id)
    first, second = peer.packets(r.Session)
    assert first == second
    assert len(node.core.router.sessions) == 1


def test_our_proof_answers_the_peers_challenge(node, peer):
    peer.send(r.Request(1, peer.greeting()), node.address)
    [answer] = peer.packets(r.Session)
    proof = peer.solve(answer.content.body.challenge_req)
    peer.send(r.Request(2, proof), node.address, answer.session_id)
    [last] = peer.packets(r.Session)

    given = last.content.body.challenge_resp
    [proven] = prove(b"c" * 16, 1, given.solution, given.signatures)
    assert proven.node_id == node.node_id


def test_wrong_proof_gets_nothing(node, peer):
    peer.send(r.Request(1, peer.greeting()), node.address)
    [answer] = peer.packets(r.Session)

    wrong = r.Session(challenge_resp=r.ChallengeResponse(bytes(72), (bytes(65),)))
    peer.send(r.Request(2, wrong), node.address, answer.session_id)

    assert peer.packets(r.Session) == []
    assert session_of(node, peer) is None


def test_proof_from_another_address_gets_nothing(node, peer, network):
    other = Script(network, host(3))
    peer.send(r.Request(1, peer.greeting()), node.address)
    [answer] = peer.packets(r.Session)

    proof = peer.solve(answer.content.body.challenge_req)
    other.send(r.Request(2, proof), node.address, answer.session_id)

    assert other.packets(r.Session) == []
    assert session_of(node, peer) is None


def test_too_hard_challenge_is_refused(node, peer):
    peer.send(r.Request(1, peer.greeting(PEER_DIFFICULTY_MAX + 1)), node.address)

    assert peer.packets(r.Session) == []


def test_half_open_tries_are_limited(node, network):
    for number in range(HALF_OPEN_MAX + 50):
        stranger = Script(network, (f"10.1.{number % 250}.{number // 250}", 1))
        stranger.send(r.Request(1, stranger.greeting()), node.address)
    network.run_for(1)

    assert len(node.core._acceptor._incoming) == HALF_OPEN_MAX


def test_forwards_wait_for_resume(node, peer):
    session_id = peer.dial(node)
    node.say(peer.node_id, Channel.UNRELIABLE, b"early")
    assert peer.forwards() == []

    peer.send(r.Control(r.ResumeForwarding()), node.address, session_id)

    [forward] = peer.forwards()
    assert (forward.session_id, forward.slot, forward.flags) == (session_id, 0, 1)
    assert forward.payload == encode_unreliable(b"early")


def test_lost_resume_is_made_up_for_by_the_peers_ping(node, peer):
    session_id = peer.dial(node)
    node.say(peer.node_id, Channel.UNRELIABLE, b"early")

    peer.send(r.Request(13, r.Ping()), node.address, session_id)

    assert len(peer.forwards()) == 1


def test_pause_holds_forwards_back(node, peer):
    session_id = peer.dial(node)
    peer.send(r.Control(r.ResumeForwarding()), node.address, session_id)
    peer.send(r.Control(r.PauseForwarding()), node.address, session_id)
    peer.forwards()

    node.say(peer.node_id, Channel.UNRELIABLE, b"held")
    assert peer.forwards() == []
    peer.send(r.Control(r.ResumeForwarding()), node.address, session_id)
    assert len(peer.forwards()) == 1


def test_restarted_peer_replaces_its_session_on_the_same_address(node, peer, network):
    first = peer.dial(node)
    network.run_for(5)
    peer.inbox.clear()

    second = peer.dial(node)

    assert first != second
    assert session_of(node, peer).session_id == second
    assert len(node.core.router.sessions) == 1


def test_nothing_changes_before_the_new_handshake_is_proven(node, peer):
    first = peer.dial(node)

    peer.send(r.Request(21, peer.greeting()), node.address)
    peer.packets(r.Session)

    assert session_of(node, peer).session_id == first


# --- as initiator


def test_dial_proves_both_and_resumes_several_times(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")

    peer.accept(node)
    network.run_for(1.5)

    assert session_of(node, peer).session_id == S1
    resumes = peer.packets(r.ResumeForwarding)
    assert len(resumes) >= 4 and {p.session_id for p in resumes} == {S1}
    assert [f.payload for f in peer.forwards()] == [encode_unreliable(b"hello")]


def test_dial_begins_with_a_disconnected_from_another_port(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(0.1)

    notices = [
        (decode_packet(data), source) for data, source in peer.inbox if source != node.address
    ]

    [(notice, source)] = [n for n in notices if isinstance(n[0].content.body, r.Disconnected)]
    assert notice.content.body.node_id == node_id_to_bytes(node.node_id)
    assert source[0] == node.address[0]
    assert len(notice.session_id) == 16


def test_transmissions_have_fresh_random_ids(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(1)

    ids = [p.content.request_id for p in peer.packets(r.Session)]

    assert len(ids) == 3 and len(set(ids)) == 3
    assert min(ids) > 1000


def test_somebody_else_answering_is_refused(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")

    peer.accept(node, keys=[new_key(network)])
    network.run_for(0.1)

    assert len(node.core.router.sessions) == 0
    assert [p.content.body.session_id for p in peer.packets(r.Disconnected)][-1] == S1


def test_peer_that_just_starts_may_take_long_over_its_proof(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")

    peer.accept(node, after_s=4)
    network.run_for(0.1)

    assert session_of(node, peer).session_id == S1


def test_proof_that_comes_after_we_gave_up_still_makes_the_session(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")

    peer.accept(node, after_s=7)

    assert S1 in [p.content.body.session_id for p in peer.packets(r.Disconnected)]
    network.run_for(0.1)
    assert session_of(node, peer).session_id == S1
    assert S1 in [p.session_id for p in peer.packets(r.ResumeForwarding)]


def test_late_proof_of_somebody_else_is_worth_nothing(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")

    peer.accept(node, keys=[new_key(network)], after_s=7)
    network.run_for(0.1)

    assert session_of(node, peer) is None


def test_late_proof_of_no_attempt_is_answered_with_disconnected(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(0.1)
    peer.inbox.clear()

    peer.send(r.Response(5, 200, peer.solve(r.ChallengeRequest(b"e" * 16, 1))), node.address, S2)
    assert [p.content.body.session_id for p in peer.packets(r.Disconnected)] == [S2]


def test_repeated_proof_of_a_living_session_does_no_harm(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    greeting, proof = peer.accept(node)
    mine = peer.solve(greeting.content.body.challenge_req)

    peer.send(r.Response(proof.content.request_id, 200, mine), node.address, S1)

    assert S1 not in [p.content.body.session_id for p in peer.packets(r.Disconnected)]
    assert session_of(node, peer).session_id == S1


def ended_by_name(peer):
    """Return the sessions that the inbox says are over."""
    bodies = [packet.content.body for packet in peer.packets(r.Disconnected)]
    return [body.session_id for body in bodies if body.session_id]


def greet_back(node, peer, session_id):
    """Answer the greeting in the inbox, and not the proof that follows it."""
    greeting = peer.packets(r.Session)[-1]
    ask = r.ChallengeRequest(b"d" * 16, 1)
    answer = r.Response(greeting.content.request_id, 200, r.Session(challenge_req=ask))
    peer.send(answer, node.address, session_id)


def test_peer_whose_proof_got_lost_shows_it_by_a_ping_and_is_dialled_again(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    greet_back(node, peer, S1)
    network.run_for(0.9)
    assert [p.session_id for p in peer.packets(r.ResumeForwarding)] == [S1]

    peer.send(r.Request(7, r.Ping()), node.address, S1)
    network.run_for(0.4)

    assert ended_by_name(peer) == [S1] * 3
    peer.accept(node, session_id=S2)
    network.run_for(0.1)
    assert session_of(node, peer).session_id == S2


def test_proof_that_its_ping_overtakes_is_taken(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    greeting = peer.packets(r.Session)[-1]
    ask = r.ChallengeRequest(b"d" * 16, 1)
    answer = r.Response(greeting.content.request_id, 200, r.Session(challenge_req=ask))
    peer.send(answer, node.address, S1)
    proof = peer.packets(r.Session)[-1]
    network.run_for(1)

    peer.send(r.Request(7, r.Ping()), node.address, S1)
    network.run_for(0.1)
    mine = peer.solve(greeting.content.body.challenge_req)
    peer.send(r.Response(proof.content.request_id, 200, mine), node.address, S1)
    network.run_for(0.5)

    assert session_of(node, peer).session_id == S1
    assert ended_by_name(peer) == []


def test_echo_of_our_disconnected_does_not_end_the_next_try(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    greet_back(node, peer, S1)
    network.run_for(0.9)
    peer.send(r.Request(7, r.Ping()), node.address, S1)
    network.run_for(0.3)

    peer.send(r.Control(r.Disconnected(session_id=S1)), node.address, S1)
    network.run_for(0.3)
    peer.accept(node, session_id=S2)
    network.run_for(0.1)

    assert session_of(node, peer).session_id == S2


def test_ping_that_comes_soon_changes_nothing(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    greet_back(node, peer, S1)
    peer.packets(r.Session)

    peer.send(r.Request(7, r.Ping()), node.address, S1)
    peer.send(r.Request(8, r.Ping()), node.address, S2)
    network.run_for(0.3)

    assert ended_by_name(peer) == []


def test_peer_that_offered_a_session_is_told_of_that_one_at_every_retry(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    greet_back(node, peer, S1)

    network.run_for(20)

    named = ended_by_name(peer)
    assert len(named) >= 5 and set(named) == {S1}
    assert node.core.router.route_of(peer.node_id) == "relayed"


def test_silent_peer_is_told_before_each_retry_and_then_relayed(node, peer, network):
    register(network, peer)
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(8)

    notices = [p for p in peer.packets(r.Disconnected) if p.content.body.session_id]
    assert all(p.session_id == p.content.body.session_id for p in notices)
    first, last = notices[:3], notices[3:]  # before the retry, and at the end
    assert first == [first[0]] * 3 and last == [last[0]] * 3 and first != last
    assert node.core.router.route_of(peer.node_id) == "relayed"
    assert [f.payload for f in peer.forwards()] == [encode_unreliable(b"hello")]


def test_packets_held_for_a_silent_peer_are_limited(node, peer, network):
    register(network, peer)
    for number in range(HELD_MAX + 20):
        node.say(peer.node_id, Channel.UNRELIABLE, b"%d" % number)
    network.run_for(8)

    assert len(peer.forwards()) == HELD_MAX


def test_unknown_node_cannot_be_reached(node, network):
    nobody = new_key(network).node_id
    failed = []
    carry_out = node._carry_out
    node._carry_out = lambda o: (failed.append(o), carry_out(o))

    node.say(nobody, Channel.UNRELIABLE, b"x")
    network.run_for(1)

    assert out.RouteFailed(nobody, "Request failed with code 404") in failed


# --- Forwards and Disconnected


def test_forward_with_a_wrong_session_id_is_answered_not_delivered(node, peer):
    peer.dial(node)

    data = encode_forward(S2, 0, 1, encode_unreliable(b"spoofed"))
    peer.network.send(data, peer.address, node.address)

    [notice] = peer.packets(r.Disconnected)
    assert notice.content.body.session_id == S2
    assert not node.heard.messages


def test_forward_of_a_stranger_is_answered_with_its_session_id(node, network):
    stranger = Script(network, host(5))
    network.send(encode_forward(S2, 0, 0, b"x"), stranger.address, node.address)

    [notice] = stranger.packets(r.Disconnected)
    assert (notice.session_id, notice.content.body.session_id) == (S2, S2)


def test_disconnected_by_the_peer_itself_ends_the_session(node, peer):
    session_id = peer.dial(node)

    notice = r.Control(r.Disconnected(session_id=session_id))
    peer.send(notice, node.address, session_id)
    peer.network.run_for(0.1)

    assert session_of(node, peer) is None


@pytest.mark.parametrize("what", ["session of another", "mismatch", "node by a stranger"])
def test_unauthenticated_disconnected_is_checked_not_obeyed(node, peer, network, what):
    session_id = peer.dial(node)
    network.run_for(3)
    peer.inbox.clear()
    stranger = Script(network, host(5))
    match what:
        case "session of another":
            notice = r.Control(r.Disconnected(session_id=session_id))
            stranger.send(notice, node.address, session_id)
        case "mismatch":
            notice = r.Control(r.Disconnected(session_id=S2))
            peer.send(notice, node.address, session_id)
        case "node by a stranger":
            notice = r.Control(r.Disconnected(node_id=node_id_to_bytes(peer.node_id)))
            stranger.send(notice, node.address, S2)
    network.run_for(0.1)

    for ping in peer.packets(r.Ping):
        peer.send(r.Response(ping.content.request_id, 200, r.Pong()), node.address, session_id)
    network.run_for(5)

    assert session_of(node, peer).session_id == session_id


def test_hint_about_a_peer_that_does_not_answer_ends_its_session(node, peer, network):
    peer.dial(node)
    network.run_for(3)
    stranger = Script(network, host(5))

    notice = r.Control(r.Disconnected(node_id=node_id_to_bytes(peer.node_id)))
    stranger.send(notice, node.address, S2)
    network.run_for(3)

    assert session_of(node, peer) is None


def test_relays_announcement_is_a_sign_of_life_and_drops_the_relayed_route(node, peer, network):
    _, session = register(network, peer)
    session.is_public = False
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(8)
    assert node.core.router.route_of(peer.node_id) == "relayed"

    ours = node.core.link.session
    notice = r.Control(r.Disconnected(node_id=node_id_to_bytes(peer.node_id)))
    network.send(encode_packet(r.Packet(ours.session_id, notice)), RELAY, node.address)
    network.run_for(0.1)

    assert node.core.router.route_of(peer.node_id) is None
    assert node.heard.up[-1] == peer.node_id


def test_empty_slot_drops_the_relayed_route(node, peer, network):
    relay, session = register(network, peer)
    session.is_public = False
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(8)
    relay.core.directory.remove(session)

    node.say(peer.node_id, Channel.UNRELIABLE, b"into the void")
    network.run_for(0.1)

    assert node.core.router.route_of(peer.node_id) is None


def test_relayed_packet_of_an_unknown_sender_is_delivered_as_vouched(node, peer, network):
    _, session = register(network, peer)
    delivered = []
    carry_out = node._carry_out

    def watch(output):
        if isinstance(output, out.DeliverPacket):
            delivered.append(output.peer)
        carry_out(output)

    node._carry_out = watch
    ours = node.core.link.session
    data = encode_forward(ours.session_id, session.slot, 1, encode_unreliable(b"relayed"))
    network.send(data, RELAY, node.address)
    network.run_for(1)

    assert node.heard.messages[peer.node_id, Channel.UNRELIABLE] == [b"relayed"]
    assert [p.assurance for p in delivered] == [Assurance.VOUCHED]
    assert node.core.router.route_of(peer.node_id) == "relayed"


def test_unauthorized_answer_ends_the_session(node, peer, network):
    session_id = peer.dial(node)
    [ping] = peer.packets(r.Ping)

    answer = r.Response(ping.content.request_id, r.Code.UNAUTHORIZED, r.Pong())
    peer.send(answer, node.address, session_id)
    network.run_for(0.1)

    assert session_of(node, peer) is None


# --- pings and keep-alive


def test_ping_of_an_unknown_session_is_answered_unauthorized(node, network):
    stranger = Script(network, host(5))
    stranger.send(r.Request(3, r.Ping()), node.address, S2)

    [pong] = stranger.packets(r.Pong)
    assert (pong.session_id, pong.content.code) == (S2, r.Code.UNAUTHORIZED)


def test_address_check_of_the_relay_is_answered(node, network):
    checker = Script(network, RELAY_CHECK)
    checker.send(r.Request(3, r.Ping()), node.address, node.core.link.session.session_id)

    [pong] = checker.packets(r.Pong)
    assert pong.content.code == r.Code.OK


def test_idle_session_is_pinged_every_fifteen_seconds(node, peer, network):
    session_id = peer.dial(node)
    [latency] = peer.packets(r.Ping)
    peer.send(r.Response(latency.content.request_id, 200, r.Pong()), node.address, session_id)
    network.run_for(IDLE_AFTER_S - 1)
    assert peer.packets(r.Ping) == []

    network.run_for(1.5)
    pings = peer.packets(r.Ping)
    assert pings
    peer.send(r.Response(pings[0].content.request_id, 200, r.Pong()), node.address, session_id)
    network.run_for(IDLE_AFTER_S - 2)

    assert session_of(node, peer) is not None
    assert len(pings) == len({p.content.request_id for p in pings})


def test_silent_session_ends_after_seventeen_seconds_with_a_goodbye(node, peer, network):
    session_id = peer.dial(node)
    network.run_for(IDLE_AFTER_S)
    assert session_of(node, peer) is not None

    network.run_for(3.5)

    assert session_of(node, peer) is None
    assert peer.packets(r.Disconnected)[-1].content.body.session_id == session_id


def test_sending_into_silence_is_noticed_long_before_that(node, peer, network):
    session_id = peer.dial(node)
    peer.send(r.Control(r.ResumeForwarding()), node.address, session_id)
    network.run_for(1)

    node.say(peer.node_id, Channel.UNRELIABLE, b"anybody?")
    network.run_for(6)

    assert session_of(node, peer) is None


def test_shutdown_says_goodbye_to_everybody(node, peer, network):
    session_id = peer.dial(node)
    node.core.shutdown()
    node.pump()

    assert [p.content.body.session_id for p in peer.packets(r.Disconnected)] == [session_id]
    relay = next(fn.__self__ for at, fn in network.hosts.items() if at == RELAY)
    assert not relay.core.directory.sessions


# --- the relay session


def test_relay_is_tried_again_with_growing_pauses_of_at_most_ten_seconds(network):
    relay = Script(network, RELAY)
    SimNode(network, new_key(network), host(1), encryption=Encryption.OFF)
    network.run_for(120)

    greetings = relay.packets(r.Session)
    assert len(greetings) > 4 * 8  # 3 s of trying and at most 10 s of rest


def test_relay_that_forgot_us_is_registered_at_again(node, network):
    relay = next(fn.__self__ for at, fn in network.hosts.items() if at == RELAY)
    fresh = relay.restart()
    network.run_for(IDLE_AFTER_S + 3)

    assert node.core.link.is_up
    assert len(fresh.core.directory.sessions) == 1


def test_dial_back_is_obeyed_only_from_the_relay(node, peer, network):
    notice = r.Control(r.DialBack(node_id_to_bytes(peer.node_id), (r.Endpoint(*peer.address),)))
    peer.send(notice, node.address, node.core.link.session.session_id)
    assert peer.packets(r.Session) == []

    packet = r.Packet(node.core.link.session.session_id, notice)
    network.send(encode_packet(packet), RELAY, node.address)

    assert peer.packets(r.Session)


def test_alias_that_only_the_relay_claims_is_forgotten_once_the_peer_has_proven_itself(
    node, peer, network
):
    victim = new_key(network)
    _, session = register(network, peer)
    session.identities = (*session.identities, (victim.node_id, victim.public_key))
    node.say(peer.node_id, Channel.UNRELIABLE, b"hello")
    network.run_for(0.05)
    registry = node.core.router.registry
    assert registry.default_of(victim.node_id) == peer.node_id

    peer.accept(node)
    network.run_for(0.1)

    assert session_of(node, peer) is not None
    assert registry.default_of(victim.node_id) == victim.node_id


@pytest.mark.parametrize("address", ["localhost", "peer.example", "", "10.0.0.300"])
def test_endpoints_that_are_no_ip_addresses_are_never_dialled(address):
    from shem.net.registry import read_endpoints

    assert read_endpoints([r.Endpoint(address, 80), r.Endpoint("10.0.0.1", 0)]) == ()


def test_endpoints_of_ipv6_are_read_with_and_without_brackets():
    from shem.net.registry import read_endpoints

    found = read_endpoints([r.Endpoint("[fd00::1]", 80), r.Endpoint("fd00::2", 80)])

    assert found == (("fd00::1", 80), ("fd00::2", 80))
    assert read_endpoints([r.Endpoint("[10.0.0.300]", 80), r.Endpoint("[fd00::1", 80)]) == ()
