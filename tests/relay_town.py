"""A relay core and its clients without a network: for the tests of the relay's rules."""

from shem.identity.keys import PrivateKey
from shem.identity.proof import sign_solution
from shem.kernel.world import SeededRng
from shem.relay.core import RelayCore
from shem.relay.outputs import SaveSlot, SendDatagram, SendRelay
from shem.wire import relay as r
from shem.wire.challenge import Solver
from shem.wire.forward import FORWARD_BYTE, decode_forward, encode_forward
from shem.wire.relay_codec import decode_packet, encode_packet

DIFFICULTY = 2


class Town:
    """A relay core and its clients, without a network."""

    def __init__(self, seed=1, name="", registry=None, mesh=None):
        self.rng = SeededRng(seed)
        self.now = 100.0
        self.name = name
        self.mesh = mesh
        self.core = RelayCore(
            self.rng,
            name=name,
            registry=registry,
            difficulty=DIFFICULTY,
            unix_offset_s=1_700_000_000,
            now=self.now,
        )
        self.slots = []
        if mesh is not None:
            mesh.join(name, lambda message: self.core.receive_relay(message, self.now))

    def send(self, packet, source):
        """Deliver a packet; return what the relay sends to that source."""
        self.core.receive(encode_packet(packet), source, self.now)
        return self.answers(source)

    def forward(self, data, source):
        """Deliver a Forward; return what it became and where it goes."""
        return next(iter(self.core.receive_batch([(data, source)], self.now)), None)

    def answers(self, source):
        return [packet for packet, to in self.sent() if to == source]

    def sent(self):
        out = []
        for output in self.core.outputs():
            match output:
                case SendDatagram(data, address) if data.startswith(FORWARD_BYTE):
                    out.append((decode_forward(data), address))
                case SendDatagram(data, address):
                    out.append((decode_packet(data), address))
                case SendRelay(relay, message) if self.mesh is not None:
                    self.mesh.send(self.name, relay, message)
                case SaveSlot(node_id):
                    self.slots.append(node_id)
        return out

    def pass_time(self, seconds):
        self.now += seconds
        self.core.tick(self.now)


class Client:
    """One node at one address."""

    def __init__(self, town, port, *keys, host="10.0.0.9"):
        self.town = town
        self.address = (host, port)
        self.keys = keys or (PrivateKey.generate(town.rng),)
        self.session_id = b""

    @property
    def node_id(self):
        return self.keys[0].node_id

    def ask(self, body, request_id=7):
        answers = self.town.send(
            r.Packet(self.session_id, r.Request(request_id, body)), self.address
        )
        return answers[0] if answers else None

    def greet(self):
        return self.town.send(r.Packet(b"", r.Request(1, r.Session())), self.address)[0]

    def prove(self, ticket, keys=None):
        asked = ticket.content.body.challenge_req
        solution = Solver(asked.challenge, asked.difficulty).step()
        proof = r.ChallengeResponse(solution, sign_solution(solution, keys or self.keys))
        packet = r.Packet(ticket.session_id, r.Request(2, r.Session(challenge_resp=proof)))
        return self.town.send(packet, self.address)[0]

    def open(self):
        ticket = self.greet()
        assert self.prove(ticket).content.code == r.Code.OK
        self.session_id = ticket.session_id
        return self

    def register(self, *, is_public=True):
        """Register, with the check of the address unless its verdict is known."""
        request = r.Packet(self.session_id, r.Request(7, r.Register()))
        self.town.core.receive(encode_packet(request), self.address, self.town.now)
        sent = self.town.sent()
        if not sent and is_public:
            pong = r.Packet(self.session_id, r.Response(1, r.Code.OK, r.Pong()))
            self.town.core.receive_check(encode_packet(pong), self.address, self.town.now)
            sent = self.town.sent()
        elif not sent:
            self.town.pass_time(1.1)
            sent = self.town.sent()
        packets = [(p, to) for p, to in sent if isinstance(p, r.Packet)]
        answers = [
            p for p, to in packets if to == self.address and isinstance(p.content, r.Response)
        ]
        self.noticed = [(p, to) for p, to in packets if isinstance(p.content, r.Control)]
        return answers[0]

    def forward(self, slot, payload=b"x", flags=1):
        return self.town.forward(
            encode_forward(self.session_id, slot, flags, payload), self.address
        )


def joined(town, port, *keys, is_public=True, host="10.0.0.9"):
    client = Client(town, port, *keys, host=host).open()
    client.register(is_public=is_public)
    return client
