"""A node's session layer: what a message costs it, by the number of its peers.

In one process and without sockets: the core gets and sends unreliable messages of 200 bytes, plain
ones, so that routing is measured and not the cipher.
"""

import time

from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance
from shem.kernel.config import Encryption
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.core import NodeCore
from shem.net.session import Session
from shem.net.types import Peer
from shem.wire.forward import UNRELIABLE, encode_forward, encode_unreliable

PEERS = (1, 100, 10_000)
MESSAGES = 20_000
MESSAGE = encode_unreliable(bytes(200))
TICKS = 20


def measure_node() -> dict[str, float]:
    figures: dict[str, float] = {}
    for count in PEERS:
        core, sessions = _node_with(count)
        at = f"at {count} peers"
        datagrams = [
            (encode_forward(session.session_id, 0, UNRELIABLE, MESSAGE), session.address)
            for session in sessions
        ]
        begun = time.process_time()
        for number in range(MESSAGES):
            core.receive(*datagrams[number % count], 1.0)
            core.outputs()
            core.next_deadline()
        figures[f"node, message received {at} [µs]"] = _each(begun, MESSAGES) * 1e6
        targets = [session.peer.node_id for session in sessions if session.peer]
        begun = time.process_time()
        for number in range(MESSAGES):
            core.send(targets[number % count], UNRELIABLE, MESSAGE, 1.0)
            core.outputs()
            core.next_deadline()
        figures[f"node, message sent {at} [µs]"] = _each(begun, MESSAGES) * 1e6
        for session in sessions:
            session.heard(1, 1.0)
        begun = time.process_time()
        for number in range(TICKS):
            core.tick(1.0 + number / 2)
            core.outputs()
        figures[f"node, looking after its sessions {at}, twice a second [µs]"] = (
            _each(begun, TICKS) * 1e6
        )
    return figures


def _node_with(peers: int) -> tuple[NodeCore, list[Session]]:
    rng = SeededRng(1)
    core = NodeCore(rng, [PrivateKey.generate(rng)], relay=None, encryption=Encryption.OFF)
    core.start(0.0)
    for number in range(1, peers + 1):
        node_id = NodeId(f"0x{number:040x}")
        peer = Peer(node_id, frozenset([node_id]), Assurance.PROVEN)
        address = (f"10.0.{number // 200}.1", 1_000 + number)
        core.router.on_session(Session(address, rng.token(16), peer, 0.0, 0.0), 0.0)
    core.outputs()
    sessions = list(core.router.sessions)
    assert len(sessions) == peers
    return core, sessions


def _each(begun: float, count: int) -> float:
    return (time.process_time() - begun) / count
