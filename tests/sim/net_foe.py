"""Somebody on the wire who sees every datagram, and sends what it likes under any address.

It also runs a node of its own, honestly, so that sessions and slots of its own are there to abuse.
It does not hold datagrams back: losses are the weather's.
"""

from collections import deque

from shem.identity.proof import sign_solution
from shem.kernel.ids import node_id_to_bytes
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.forward import UNRELIABLE, encode_forward, encode_unreliable
from shem.wire.relay_codec import decode_packet, encode_packet
from tests.sim.net_world import RELAY, Network

SEEN_MAX = 400
FORWARD = 0x0A
FORGED = encode_unreliable(b"forged")


class WatchedNetwork(Network):
    """A network on which everything is seen."""

    def __init__(self, seed, weather=None):
        super().__init__(seed, weather)
        self.watch = lambda data, source, target: None
        self.arriving = None

    def _arrive(self, data, source, target):
        if self.arriving is not None:
            self.arriving(data, source, target)
        super()._arrive(data, source, target)

    def send(self, data, source, target):
        self.watch(data, source, target)
        super().send(data, source, target)

    def forge(self, data, source, target):
        super().send(data, source, target)


class Foe:
    """See the module; `node` is its own, the rest are its victims."""

    def __init__(self, network, choice, node, victims):
        self._network = network
        self._choice = choice
        self._node = node
        self._victims = victims
        self._seen = deque(maxlen=SEEN_MAX)
        self._acts = (
            self._replay,
            self._replay_elsewhere,
            self._alter,
            self._splice,
            self._forge_control,
            self._forge_forward,
            self._refuse,
            self._claim,
            self._noise,
        )
        network.watch = self._see

    def act(self):
        """Do one thing out of spite."""
        if self._seen:
            self._acts[self._choice.below(len(self._acts))]()

    def stop(self):
        self._network.watch = lambda data, source, target: None

    # --- what it sees

    def _see(self, data, source, target):
        self._seen.append((data, source, target))
        if target == RELAY and data[0] != FORWARD and self._choice.below(6) == 0:
            self._answer_first(data, source)
        elif source != RELAY and data[0] != FORWARD and self._choice.below(20) == 0:
            self._answer_proof(data, source, target)

    def _answer_first(self, data, asker):
        """Answer a question about a node before the relay does: it is where I am."""
        packet = decode_packet(data)
        match packet.content:
            case r.Request(number, r.FindNode(node_id)):
                victim = self._any(self._victims)
                identity = r.Identity(victim.key.public_key, node_id)
                here = (r.Endpoint(*self._node.address),)
                body = r.Node((identity,), here, slot=self._choice.below(5))
            case r.Request(number, r.Register()):
                body = r.Register((r.Endpoint(*self._node.address),))
            case r.Request(number, r.Ping()):
                body = r.Pong()
            case _:
                return
        code = self._any((r.Code.OK, r.Code.OK, r.Code.NOT_FOUND, r.Code.UNAUTHORIZED))
        answer = r.Packet(packet.session_id, r.Response(number, code, body))
        self._forge(encode_packet(answer), RELAY, asker)

    def _answer_proof(self, data, source, target):
        """Answer a challenge in the place of whom it was meant for, with the own key."""
        packet = decode_packet(data)
        match packet.content:
            case r.Response(number, _, r.Session(challenge_req=asked)) if asked is not None:
                proof = r.Session(challenge_resp=self._prove(asked))
                answer = r.Packet(packet.session_id, r.Request(number + 1, proof))
                self._forge(encode_packet(answer), target, source)

    # --- what it does

    def _replay(self):
        self._forge(*self._any(self._seen))

    def _replay_elsewhere(self):
        data, source, target = self._any(self._seen)
        _, other_source, other_target = self._any(self._seen)
        if self._choice.below(2):
            self._forge(data, other_source, target)
        else:
            self._forge(data, source, other_target)

    def _alter(self):
        data, source, target = self._any(self._seen)
        altered = bytearray(data)
        match self._choice.below(4):
            case 0:
                del altered[self._choice.below(len(altered)) :]
            case 1:
                altered += self._choice.token(1 + self._choice.below(20))
            case _:
                altered[self._choice.below(len(altered))] ^= 1 << self._choice.below(8)
        self._forge(bytes(altered), source, target)

    def _splice(self):
        head, source, target = self._any(self._seen)
        tail, _, _ = self._any(self._seen)
        at = self._choice.below(40)
        self._forge(head[:at] + tail[at:], source, target)

    def _forge_control(self):
        data, source, target = self._any(self._seen)
        session_id, node = data[1:17], self._any(self._victims)
        if data[0] != FORWARD:
            session_id = decode_packet(data).session_id
        node_id = node_id_to_bytes(node.node_id)
        body = self._any(
            (
                r.Disconnected(session_id=session_id),
                r.Disconnected(node_id=node_id),
                r.Disconnected(slot=1 + self._choice.below(4)),
                r.PauseForwarding(),
                r.ResumeForwarding(),
                r.DialBack(node_id, (r.Endpoint(*self._node.address),)),
                r.StopForwarding(1),
            )
        )
        content = self._any(
            (
                r.Control(body),
                r.Control(body),
                r.Request(self._choice.below(1 << 53), r.Ping()),
                r.Request(7, r.Register()),
                r.Request(8, r.AskReverse(node_id)),
                r.Response(9, r.Code.UNAUTHORIZED, r.Pong()),
            )
        )
        self._forge(encode_packet(r.Packet(session_id, content)), source, target)

    def _forge_forward(self):
        """Speak in the clear, under a session that is somebody else's."""
        data, source, target = self._any(self._seen)
        if data[0] == FORWARD:
            slot = int.from_bytes(data[17:21]) if self._choice.below(2) else self._choice.below(5)
            flags, payload = self._any(((UNRELIABLE, FORGED), (0, data[23:]), (3, FORGED)))
            self._forge(encode_forward(data[1:17], slot, flags, payload), source, target)

    def _refuse(self):
        """Claim by ICMP that nobody is there."""
        victim, (_, _, address) = self._any(self._victims), self._any(self._seen)
        if told := self._network.refused.get(victim.address):
            told(address)

    def _claim(self):
        """Greet in somebody else's name, from anywhere."""
        claimed, victim = self._any(self._victims), self._any(self._victims)
        identity = r.Identity(claimed.key.public_key, node_id_to_bytes(claimed.node_id))
        ask = r.ChallengeRequest(self._choice.token(16), self._any((1, 8, 13, 200)))
        greeting = r.Request(self._choice.below(1 << 53), r.Session(ask, identities=(identity,)))
        source = self._any((self._node.address, claimed.address, ("10.0.9.9", 9)))
        self._forge(encode_packet(r.Packet(b"", greeting)), source, victim.address)

    def _noise(self):
        _, source, target = self._any(self._seen)
        self._forge(self._choice.token(1 + self._choice.below(60)), source, target)

    # --- small things

    def _prove(self, asked):
        solution = None
        solver = Solver(asked.challenge, min(asked.difficulty, 4))
        while solution is None:
            solution = solver.step()
        return r.ChallengeResponse(solution, sign_solution(solution, [self._node.key]))

    def _any(self, things):
        return things[self._choice.below(len(things))]

    def _forge(self, data, source, target):
        if data:
            self._network.forge(data, source, target)
