"""When packets are encrypted: two layers on a wire that the test may cut, read and write."""

from collections import deque

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance
from shem.kernel.config import Encryption
from shem.kernel.world import SeededRng
from shem.net import outputs as out
from shem.net.keyring import Keyring
from shem.net.registry import Registry
from shem.net.secure.channel import REJECT_AFTER_S, RENEW_AFTER_S
from shem.net.secure.greetings import (
    EARLY_MAX,
    HALF_OPEN_LIFETIME_S,
    HALF_OPEN_PER_PEER_MAX,
    HELLO_TIMEOUT_S,
    HELLO_TIMES_S,
)
from shem.net.secure.layer import HELLO_BURST, LOST_BURST, SIGN_AFTER_S, UNHEARD_S, Secure
from shem.net.secure.links import CHANNELS_PER_PEER_MAX, FINISH_TIMES_S
from shem.net.secure.packets import DATA, ENCRYPTED, FINISH, Kind, read_hello
from shem.net.secure.pins import Pins
from shem.net.secure.trust import GIVEN_UP_S, REFUSED_S, SILENT_S
from shem.net.secure.waiting import HELD_MAX
from shem.net.types import Peer
from shem.wire import gsb
from shem.wire.forward import UNRELIABLE, decode_unreliable, encode_unreliable

KEYS = [PrivateKey.generate(SeededRng(n)) for n in range(4)]
PREFERRED, REQUIRED, OFF = Encryption.PREFERRED, Encryption.REQUIRED, Encryption.OFF
NEVER = float("inf")


class Node:
    """A layer with everything around it: routes, clock, and what it delivers."""

    def __init__(self, wire, key, policy=PREFERRED, pins=None, keys=None):
        self.wire = wire
        self.key = key
        self.has_route = True
        self.opened = []
        self.told = []
        self.registry = Registry()
        self.secure = Secure(
            wire.rng,
            Keyring(keys or [key]),
            way=self,
            registry=self.registry,
            policy=policy,
            pins=pins,
        )
        wire.nodes[key.node_id] = self

    @property
    def node_id(self):
        return self.key.node_id

    @property
    def as_peer(self):
        return Peer(self.node_id, frozenset({self.node_id}), Assurance.VOUCHED)

    def send(self, node_id, data, now, over=None):
        self.wire.under_way.append((self, node_id, data))

    def route_of(self, node_id):
        return "relayed" if self.has_route else None

    def connect(self, node_id, now):
        self.told.append(("search", node_id))

    def distrust(self, node_id):
        self.told.append(("distrust", node_id))

    def say(self, to, payload, kind=Kind.STREAM):
        self.secure.send(to.node_id, kind, payload, self.wire.now)

    def hear(self, sender, data):
        flags = int.from_bytes(data[:2], "big")
        self.opened += self.secure.receive(sender, flags, data[2:], self.wire.now)

    @property
    def payloads(self):
        return [o.payload for o in self.opened if o.kind is not Kind.SIGN_OF_LIFE]

    @property
    def assurances(self):
        return {o.peer.assurance for o in self.opened}


class Wire:
    """Carries at once; `tap` may look at a packet and says whether it goes on."""

    def __init__(self):
        self.rng = SeededRng(99)
        self.now = 1000.0
        self.nodes = {}
        self.under_way = deque()
        self.seen = []
        self.tap = lambda sender, data: True

    def run(self):
        while self.under_way:
            sender, target, data = self.under_way.popleft()
            self.seen.append((sender, target, data))
            if self.tap(sender, data) and (receiver := self.nodes.get(target)):
                receiver.hear(sender.as_peer, data)

    def run_for(self, seconds):
        end = self.now + seconds
        self.run()
        while True:
            due = min((n.secure.next_deadline() or NEVER for n in self.nodes.values()), default=end)
            if due > end:
                break
            self.now = max(self.now, due)
            for node in tuple(self.nodes.values()):
                node.secure.tick(self.now)
            self.run()
        self.now = end
        for node in tuple(self.nodes.values()):
            node.secure.tick(self.now)
        self.run()

    def of_type(self, packet_type):
        return [s for s in self.seen if is_encrypted(s[2]) and s[2][2] == packet_type]

    @property
    def hellos(self):
        return [s for s in self.seen if is_hello(s[2])]


class Legacy:
    """A yagna, as far as this layer meets one: it refuses what it does not know."""

    def __init__(self, wire, key, *, answers=True):
        self.wire, self.key, self.answers = wire, key, answers
        self.inbox = []
        self.as_peer = Peer(key.node_id, frozenset({key.node_id}), Assurance.PROVEN)
        self.secure = type("None", (), {"next_deadline": lambda _: None, "tick": lambda *_: None})()
        wire.nodes[key.node_id] = self

    @property
    def node_id(self):
        return self.key.node_id

    def hear(self, sender, data):
        if not is_hello(data):
            self.inbox.append(data)
        elif self.answers:
            self.refuse(sender.node_id, data)

    def refuse(self, to, data):
        call = gsb.decode_packet(decode_unreliable(data[2:]))
        text = b"Bad request: endpoint address not found"
        reply = gsb.CallReply(call.request_id, gsb.Code.BAD_REQUEST, data=text)
        self.wire.under_way.append(
            (self, to, b"\0\1" + encode_unreliable(gsb.encode_packet(reply)))
        )


def is_encrypted(data):
    return bool(data[1] & ENCRYPTED)


def is_hello(data):
    return data[1] == UNRELIABLE and read_hello(data[2:]) is not None


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def alice(wire):
    return Node(wire, KEYS[0])


@pytest.fixture
def bob(wire):
    return Node(wire, KEYS[1])


# --- between shem nodes


@pytest.mark.parametrize(
    "policies", [(PREFERRED, PREFERRED), (REQUIRED, PREFERRED), (REQUIRED,) * 2]
)
def test_two_nodes_speak_encrypted_from_the_first_word(wire, policies):
    alice, bob = (Node(wire, key, policy) for key, policy in zip(KEYS, policies, strict=False))
    alice.say(bob, b"first")
    alice.say(bob, b"second", Kind.UNRELIABLE)
    wire.run()
    bob.say(alice, b"back")
    wire.run()

    assert bob.payloads == [b"first", b"second"]
    assert alice.payloads == [b"back"]
    assert alice.assurances | bob.assurances == {Assurance.ENCRYPTED}
    assert not any(b"first" in data or b"back" in data for _, _, data in wire.seen)
    assert len(wire.hellos) == 1


def test_the_first_word_takes_one_round_trip_and_a_half(wire, alice, bob):
    alice.say(bob, b"x")
    types = []
    while wire.under_way:
        batch = len(wire.under_way)
        types.append([data[2] if is_encrypted(data) else 1 for _, _, data in wire.under_way])
        for _ in range(batch):
            sender, target, data = wire.under_way.popleft()
            wire.nodes[target].hear(sender.as_peer, data)
    assert types == [[1], [2], [3, 4], [4]]
    assert bob.payloads == [b"x"]


def test_both_greet_at_once(wire, alice, bob):
    alice.say(bob, b"a")
    bob.say(alice, b"b")
    wire.run()
    for number in range(3):
        alice.say(bob, b"%d" % number)
        bob.say(alice, b"%d" % number)
        wire.run_for(20)
    assert bob.payloads == [b"a", b"0", b"1", b"2"]
    assert alice.payloads == [b"b", b"0", b"1", b"2"]


def test_packets_wait_for_the_route_first(wire, alice, bob):
    alice.has_route = False
    alice.secure.connect(bob.node_id, wire.now)
    alice.say(bob, b"x")
    assert alice.told[0] == ("search", bob.node_id)
    assert not wire.under_way

    alice.has_route = True
    alice.secure.on_route_up(bob.node_id, wire.now)
    wire.run()
    assert bob.payloads == [b"x"]
    assert out.RouteUp(bob.node_id) in alice.secure.outputs()


def test_a_failed_search_drops_what_waits(wire, alice, bob):
    alice.has_route = False
    alice.say(bob, b"x")
    alice.secure.on_route_failed(bob.node_id, "nobody there")
    assert alice.secure.outputs() == [out.RouteFailed(bob.node_id, "nobody there")]
    alice.has_route = True
    alice.say(bob, b"y")
    wire.run()
    assert bob.payloads == [b"y"]


def test_what_waits_is_limited(wire, alice, bob):
    wire.tap = lambda sender, data: False
    for number in range(HELD_MAX + 10):
        alice.say(bob, b"%d" % number)
    wire.run()
    wire.tap = lambda sender, data: True
    wire.run_for(1)
    assert bob.payloads == [b"%d" % n for n in range(10, HELD_MAX + 10)]


@pytest.mark.parametrize("lost", range(4))
def test_any_handshake_message_may_be_lost(wire, alice, bob, lost):
    count = iter(range(1000))
    wire.tap = lambda sender, data: next(count) != lost
    alice.say(bob, b"x", Kind.UNRELIABLE)
    alice.say(bob, b"y", Kind.UNRELIABLE)
    wire.run_for(1)
    assert b"y" in bob.payloads
    assert alice.secure.has_channel(bob.node_id, wire.now)
    assert bob.secure.has_channel(alice.node_id, wire.now)


def test_every_packet_may_come_twice(wire, alice, bob):
    def twice(sender, data):
        bob_or_alice = bob if sender is alice else alice
        bob_or_alice.hear(sender.as_peer, data)
        return True

    wire.tap = twice
    for number in range(5):
        alice.say(bob, b"%d" % number)
        wire.run()
        bob.say(alice, b"%d" % number)
        wire.run()
    assert bob.payloads == alice.payloads == [b"%d" % n for n in range(5)]


def test_finish_is_repeated_until_the_peer_is_heard_and_not_for_ever(wire, alice, bob):
    wire.tap = lambda sender, data: not (is_encrypted(data) and data[2] == FINISH)
    alice.say(bob, b"x")
    wire.run_for(5)
    assert len(wire.of_type(FINISH)) == 1 + len(FINISH_TIMES_S)
    assert bob.payloads == []


def test_data_before_the_finish_waits_for_it(wire, alice, bob):
    late = []

    def hold_back(sender, data):
        if is_encrypted(data) and data[2] == FINISH and not late:
            late.append(data)
            return False
        return True

    wire.tap = hold_back
    for number in range(EARLY_MAX + 3):
        alice.say(bob, b"%d" % number)
    wire.run()
    assert bob.payloads == []
    bob.hear(alice.as_peer, late[0])
    assert bob.payloads == [b"%d" % n for n in range(3, EARLY_MAX + 3)]


def test_the_identities_proven_are_told(wire):
    alice = Node(wire, KEYS[0], keys=[KEYS[0], KEYS[2]])
    bob = Node(wire, KEYS[1])
    alice.say(bob, b"x")
    wire.run()
    [opened] = [o for o in bob.opened if o.payload == b"x"]
    assert opened.peer == Peer(
        KEYS[0].node_id,
        frozenset({KEYS[0].node_id, KEYS[2].node_id}),
        Assurance.ENCRYPTED,
    )
    assert bob.registry.default_of(KEYS[2].node_id) == alice.node_id


# --- restarts, renewal, silence


def test_a_restarted_peer_is_greeted_anew_by_what_it_cannot_read(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    bob.secure.outputs()
    again = Node(wire, KEYS[1])
    alice.secure.outputs()
    alice.say(bob, b"lost")
    wire.run()
    alice.say(bob, b"y")
    wire.run()

    assert again.payloads == [b"y"]
    assert {out.PeerUp(bob.node_id), out.RouteShaken(bob.node_id)} <= set(alice.secure.outputs())


def test_packets_under_unknown_numbers_cause_few_greetings(wire, alice, bob):
    garbage = bytes((0, ENCRYPTED, DATA)) + bytes(60)
    wire.tap = lambda sender, data: False
    for _ in range(200):
        alice.hear(bob.as_peer, garbage)
        wire.run_for(0.01)
    assert len({data for _, _, data in wire.hellos}) <= LOST_BURST + 1


def test_a_peer_that_falls_silent_is_greeted_again(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    seen = len(wire.hellos)
    wire.tap = lambda sender, data: False
    alice.say(bob, b"y")
    wire.run_for(UNHEARD_S + 1)
    assert len(wire.hellos) > seen
    assert alice.secure.has_channel(bob.node_id, wire.now)


def test_one_way_traffic_is_confirmed_and_causes_no_greetings(wire, alice, bob):
    alice.say(bob, b"x")
    for _ in range(30):
        wire.run_for(SIGN_AFTER_S / 2)
        alice.say(bob, b"y", Kind.UNRELIABLE)
    wire.run()
    assert len(wire.hellos) == 1
    assert len(bob.payloads) == 31


def test_signs_of_life_do_not_answer_each_other(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run_for(60)
    assert len(wire.of_type(DATA)) <= 5


def test_a_channel_in_use_is_renewed_and_nothing_is_lost(wire, alice, bob):
    sent = []
    for number in range(int(2.5 * RENEW_AFTER_S / 20)):
        sent.append(b"%d" % number)
        alice.say(bob, sent[-1])
        wire.run()
        bob.say(alice, sent[-1])
        wire.run_for(20)
    assert bob.payloads == alice.payloads == sent
    assert len(wire.hellos) == 3


def test_a_channel_not_renewed_dies_with_its_keys(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    wire.run_for(REJECT_AFTER_S + 1)
    assert not alice.secure.has_channel(bob.node_id, wire.now)
    assert len(alice.secure._links) == len(bob.secure._links) == 0
    alice.say(bob, b"y")
    wire.run()
    assert bob.payloads == [b"x", b"y"]


def test_channels_per_peer_are_limited(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    for _ in range(10):
        alice.secure._say_hello(bob.node_id, wire.now)
        wire.run_for(2)
    assert len(alice.secure._links) == len(bob.secure._links) == CHANNELS_PER_PEER_MAX
    alice.say(bob, b"y")
    bob.say(alice, b"z")
    wire.run()
    assert (bob.payloads[-1], alice.payloads[-1]) == (b"y", b"z")


# --- legacy peers


def test_a_legacy_peer_is_spoken_to_in_the_clear_after_one_question(wire, alice):
    legacy = Legacy(wire, KEYS[1])
    alice.secure.connect(legacy.node_id, wire.now)
    alice.say(legacy, b"ip packet")
    alice.say(legacy, b"message", Kind.UNRELIABLE)
    wire.run()
    for _ in range(5):
        alice.say(legacy, b"more")
        wire.run_for(10)

    assert legacy.inbox == [b"\0\0ip packet", b"\0\1message"] + [b"\0\0more"] * 5
    assert len(wire.hellos) == 1
    assert alice.secure.outputs() == [out.RouteUp(legacy.node_id)]


def test_a_legacy_peer_is_asked_again_after_a_while(wire, alice):
    legacy = Legacy(wire, KEYS[1])
    alice.say(legacy, b"x")
    wire.run_for(REFUSED_S + 1)
    alice.say(legacy, b"y")
    wire.run()
    assert len(wire.hellos) == 2
    assert legacy.inbox[-1] == b"\0\0y"


def test_a_silent_peer_is_spoken_to_in_the_clear_after_three_seconds(wire, alice):
    legacy = Legacy(wire, KEYS[1], answers=False)
    alice.say(legacy, b"x")
    wire.run_for(HELLO_TIMEOUT_S - 0.01)
    assert legacy.inbox == []
    wire.run_for(0.02)
    assert legacy.inbox == [b"\0\0x"]
    assert len(wire.hellos) == len(HELLO_TIMES_S)
    wire.run_for(SILENT_S)
    alice.say(legacy, b"y")
    wire.run()
    assert len(wire.hellos) == len(HELLO_TIMES_S) + 1


def test_a_refusal_of_another_question_changes_nothing(wire, alice, bob):
    wire.tap = lambda sender, data: False
    alice.say(bob, b"x")
    wire.run()
    reply = gsb.CallReply("12345", gsb.Code.BAD_REQUEST, data=b"Bad request")
    alice.hear(bob.as_peer, b"\0\1" + encode_unreliable(gsb.encode_packet(reply)))
    assert not alice.secure.is_ready(bob.node_id, wire.now)


def test_a_legacy_peer_is_heard_in_the_clear(wire, alice):
    legacy = Legacy(wire, KEYS[1])
    alice.hear(legacy.as_peer, b"\0\0ip packet")
    assert alice.payloads == [b"ip packet"]
    assert alice.assurances == {Assurance.PROVEN}


def test_a_legacy_peer_that_was_upgraded_is_understood_at_its_first_word(wire, alice):
    legacy = Legacy(wire, KEYS[1])
    alice.say(legacy, b"x")
    wire.run()
    upgraded = Node(wire, KEYS[1])
    upgraded.say(alice, b"now encrypted")
    wire.run()
    alice.say(upgraded, b"y")
    wire.run()
    assert alice.payloads == [b"now encrypted"]
    assert upgraded.payloads == [b"y"]
    assert out.StreamsTainted(legacy.node_id) in alice.secure.outputs()


# --- required, off, pins


def test_required_sends_nothing_in_the_clear_and_says_why(wire):
    alice = Node(wire, KEYS[0], REQUIRED)
    legacy = Legacy(wire, KEYS[1])
    alice.secure.connect(legacy.node_id, wire.now)
    alice.say(legacy, b"secret")
    wire.run()
    assert legacy.inbox == []
    [failed] = alice.secure.outputs()
    assert failed.node_id == legacy.node_id
    assert "does not speak encrypted" in failed.reason
    alice.secure.connect(legacy.node_id, wire.now + GIVEN_UP_S / 2)
    assert len(wire.hellos) == 1


@pytest.mark.parametrize("flags", [b"\0\0", b"\0\1"])
def test_required_hears_nothing_in_the_clear(wire, flags):
    alice = Node(wire, KEYS[0], REQUIRED)
    alice.hear(Legacy(wire, KEYS[1]).as_peer, flags + encode_unreliable(b"order"))
    assert alice.opened == []


def test_required_does_not_fall_back_on_silence(wire):
    alice = Node(wire, KEYS[0], REQUIRED)
    legacy = Legacy(wire, KEYS[1], answers=False)
    alice.say(legacy, b"secret")
    wire.run_for(HELLO_TIMEOUT_S * 3)
    assert legacy.inbox == []


def test_off_is_as_yagna(wire):
    alice, bob = Node(wire, KEYS[0], OFF), Node(wire, KEYS[1], OFF)
    alice.say(bob, b"x")
    alice.say(bob, b"y", Kind.UNRELIABLE)
    wire.run()
    assert [data for _, _, data in wire.seen] == [b"\0\0x", b"\0\1y"]
    assert bob.payloads == [b"x", b"y"]
    bob.hear(alice.as_peer, bytes((0, ENCRYPTED, DATA)) + bytes(60))
    assert len(bob.opened) == 2


def test_off_passes_greetings_on_to_be_refused_by_the_bus(wire, alice):
    bob = Node(wire, KEYS[1], OFF)
    alice.say(bob, b"x")
    wire.run()
    assert [o.kind for o in bob.opened] == [Kind.UNRELIABLE]


def test_who_once_spoke_encrypted_is_not_believed_in_the_clear(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    bob.hear(alice.as_peer, b"\0\0forged")
    bob.hear(alice.as_peer, b"\0\1" + encode_unreliable(b"forged"))
    assert bob.payloads == [b"x"]


def test_a_pin_outlives_the_channel_and_the_process(wire, bob):
    kept = []
    alice = Node(wire, KEYS[0], pins=Pins(on_pinned=kept.extend))
    alice.say(bob, b"x")
    wire.run()
    wire.run_for(REJECT_AFTER_S + 1)
    alice.hear(bob.as_peer, b"\0\0forged")
    again = Node(wire, KEYS[0], pins=Pins(kept))
    again.hear(bob.as_peer, b"\0\0forged")
    assert kept == [bob.node_id]
    assert alice.opened[-1].payload != b"forged"
    assert again.opened == []


def test_a_pinned_peer_is_never_spoken_to_in_the_clear(wire):
    alice = Node(wire, KEYS[0], pins=Pins([KEYS[1].node_id]))
    downgraded = Legacy(wire, KEYS[1])
    alice.say(downgraded, b"secret")
    wire.run_for(10)
    assert downgraded.inbox == []
    assert any(isinstance(told, out.RouteFailed) for told in alice.secure.outputs())


def test_a_pinned_identity_is_not_believed_as_somebodys_alias(wire):
    """A relay may say that its own node has the victim as alias."""
    alice = Node(wire, KEYS[0], pins=Pins([KEYS[2].node_id]))
    both = frozenset({KEYS[1].node_id, KEYS[2].node_id})
    alice.hear(Peer(KEYS[1].node_id, both, Assurance.VOUCHED), b"\0\0x")
    [opened] = alice.opened
    assert opened.peer.identities == {KEYS[1].node_id}


def test_a_forged_refusal_does_not_end_a_channel(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    wire.tap = lambda sender, data: not is_hello(data)
    alice.secure._say_hello(bob.node_id, wire.now)
    wire.run()
    attempt = alice.secure._greetings.attempt_for(bob.node_id)
    reply = gsb.CallReply(attempt.request_id, gsb.Code.BAD_REQUEST, data=b"Bad request")
    alice.hear(bob.as_peer, b"\0\1" + encode_unreliable(gsb.encode_packet(reply)))
    wire.tap = lambda sender, data: True
    alice.say(bob, b"y")
    wire.run()
    assert bob.payloads == [b"x", b"y"]


# --- who answers


def test_somebody_elses_answer_is_not_taken(wire, alice):
    """A relay hands the Hello to another node, which answers in its own name."""
    eve = Node(wire, KEYS[3], keys=[KEYS[3], KEYS[1]])
    alice.registry.learn_aliases(KEYS[1].node_id, [KEYS[1].node_id])
    wire.nodes[KEYS[1].node_id] = eve
    alice.say(type("To", (), {"node_id": KEYS[1].node_id}), b"secret")
    wire.run_for(2)
    assert eve.payloads == []
    assert not alice.secure.has_channel(KEYS[1].node_id, wire.now)


def test_a_hello_in_another_name_than_its_senders_is_not_answered(wire, alice, bob):
    alice.say(bob, b"x")
    [(_, _, hello)] = wire.under_way
    wire.under_way.clear()
    bob.hear(Peer(KEYS[3].node_id, frozenset({KEYS[3].node_id}), Assurance.PROVEN), hello)
    assert not wire.under_way


def test_d2_a_replayed_hello_and_its_old_finish_open_nothing(wire, alice, bob):
    alice.say(bob, b"pay")
    wire.run()
    recorded = [(s, d) for s, _, d in wire.seen if s is alice]
    again = Node(wire, KEYS[1])
    wire.tap = lambda sender, data: False
    for sender, data in recorded * 3:
        again.hear(sender.as_peer, data)
        wire.run()
    assert again.payloads == []
    assert not again.secure.has_channel(alice.node_id, wire.now)


def test_d14_greetings_cost_little_and_do_not_pile_up(wire, alice, bob):
    wire.tap = lambda sender, data: False
    for _ in range(500):
        alice.secure._greetings.end(bob.node_id)
        alice.secure._say_hello(bob.node_id, wire.now)
        *_, (_, _, hello) = wire.under_way
        bob.hear(alice.as_peer, hello)
    answers = [s for s, _, d in wire.under_way if s is bob]
    assert len(answers) == HELLO_BURST
    assert len(bob.secure._greetings._half_open) <= HALF_OPEN_PER_PEER_MAX
    wire.run()
    bob.secure._greetings.forget_old(wire.now + HALF_OPEN_LIFETIME_S)
    assert not bob.secure._greetings._half_open


def test_malformed_packets_are_dropped(wire, alice, bob):
    alice.say(bob, b"x")
    wire.run()
    for packet_type in range(256):
        for size in (0, 3, 4, 12, 40, 1400):
            bob.hear(alice.as_peer, bytes((0, ENCRYPTED, packet_type)) + bytes(size))
    for number in [
        link.channel.agreed.own_number for link in bob.secure._links._by_number.values()
    ]:
        for packet_type in (2, 3, 4):
            packet = bytes((0, ENCRYPTED, packet_type)) + number.to_bytes(4) + bytes(80)
            bob.hear(alice.as_peer, packet)
    bob.hear(alice.as_peer, bytes((0, ENCRYPTED)))
    assert bob.payloads == [b"x"]
    alice.say(bob, b"y")
    wire.run()
    assert bob.payloads == [b"x", b"y"]


def test_a_failing_session_search_during_a_greeting_ends_it(wire, alice, bob):
    wire.tap = lambda sender, data: False
    alice.secure.connect(bob.node_id, wire.now)
    wire.run()
    alice.secure.on_route_failed(bob.node_id, "gone")
    assert bob.node_id not in alice.secure._greetings
