"""Two nodes, a relay, and somebody on the wire who reads, drops, alters, replays and forges."""

from shem.identity.proof import sign_solution
from shem.kernel.config import Encryption
from shem.kernel.ids import node_id_to_bytes
from shem.net.types import Channel
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.relay_codec import decode_packet, encode_packet
from tests.sim.net_world import Network, SimNode, SimRelay, host, new_key

FORWARD = 0x0A


class TappedNetwork(Network):
    """Shows every datagram to `tap`, which returns those to carry instead."""

    def __init__(self, seed, weather=None):
        super().__init__(seed, weather)
        self.seen = []
        self.tap = lambda data, source, target: [(data, source, target)]

    def send(self, data, source, target):
        self.seen.append((data, source, target))
        for carried in self.tap(data, source, target):
            super().send(*carried)

    def forge(self, data, source, target):
        """Send past the tap; the source may be anybody's."""
        super().send(data, source, target)


class Stranger:
    """A host with a key of its own that speaks the protocol as it likes."""

    def __init__(self, network, address, key=None):
        self.network = network
        self.address = address
        self.key = key or new_key(network)
        self.inbox = []
        network.hosts[address] = lambda data, source: self.inbox.append((data, source))

    @property
    def node_id(self):
        return self.key.node_id

    def send(self, content, to, session_id=b"", source=None):
        packet = encode_packet(r.Packet(session_id, content))
        self.network.forge(packet, source or self.address, to)

    def take(self, kind):
        """Wait a little; return and forget the control packets with a body of this type."""
        self.network.run_for(0.1)
        packets = [decode_packet(data) for data, _ in self.inbox if data[0] != FORWARD]
        self.inbox = []
        return [packet for packet in packets if isinstance(packet.content.body, kind)]

    def forwards(self):
        return [data for data, _ in self.inbox if data[0] == FORWARD]

    def greeting(self, node_ids, challenge=b"c" * 16, difficulty=1):
        """Return message 1; the identities are a claim."""
        identities = tuple(
            r.Identity(self.key.public_key, node_id_to_bytes(each)) for each in node_ids
        )
        ask = r.ChallengeRequest(challenge, difficulty) if challenge else None
        return r.Session(ask, identities=identities)

    @staticmethod
    def solve(ask, keys):
        solution = Solver(ask.challenge, ask.difficulty).step()
        return r.Session(
            challenge_resp=r.ChallengeResponse(solution, sign_solution(solution, keys))
        )

    def dial(self, to, claims=None, keys=None):
        """Do a whole handshake; return the last answer, or None when there is none."""
        challenge = b"c" * 16 if to[1] != 7477 else b""
        claims = claims or [self.node_id]
        self.send(r.Request(11, self.greeting(claims, challenge)), to)
        answers = self.take(r.Session)
        if not answers:
            return None
        self.session_id = answers[0].session_id
        proof = self.solve(answers[0].content.body.challenge_req, keys or [self.key])
        self.send(r.Request(12, proof), to, self.session_id)
        last = self.take(r.Session)
        return last[0] if last else None

    def register(self, relay, **how):
        answer = self.dial(relay, **how)
        if answer is None or answer.content.code != r.Code.OK:
            return None
        self.send(r.Request(13, r.Register()), relay, self.session_id)
        self.network.run_for(2)
        return self.session_id


def town(seed=1, *, encryption=Encryption.PREFERRED, nat=False, relay=SimRelay, weather=None):
    """Return a tapped network, its relay and two nodes that are online."""
    network = TappedNetwork(seed, weather)
    relay = relay(network)
    nodes = [
        SimNode(network, new_key(network), host(n), is_nat=nat, encryption=encryption)
        for n in range(2)
    ]
    assert network.run_until(lambda: all(node.core.link.is_up for node in nodes), 10)
    return network, relay, *nodes


def heard(receiver, sender, channel=Channel.UNRELIABLE):
    return receiver.heard.messages[sender.node_id, channel]


def say(network, sender, receiver, message, channel=Channel.UNRELIABLE, *, limit_s=20):
    """Send until it has arrived once; tell whether it did in time."""
    box = heard(receiver, sender, channel)
    end = network.now + limit_s
    while message not in box and network.now < end:
        sender.say(receiver.node_id, channel, message)
        network.run_until(lambda: message in box, 0.5)
    return message in box


def direct_session(node, peer):
    return node.core.router.sessions.find(peer.node_id)


def everything_heard(*nodes):
    return [m for node in nodes for box in node.heard.messages.values() for m in box]
