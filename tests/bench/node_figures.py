"""A node's session layer: what a message and a handshake cost it, by the number of its peers.

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
from tests.sim.campaign import silence
from tests.sim.net_world import Network, SimNode, SimRelay, Weather, host, new_key

PEERS = (1, 100, 10_000)
MESSAGES = 20_000
MESSAGE = encode_unreliable(bytes(200))
TICKS = 20
CALLERS = 100


def measure_node() -> dict[str, float]:
    figures: dict[str, float] = {}
    for policy in (Encryption.OFF, Encryption.PREFERRED):
        what = "session and channel" if policy is Encryption.PREFERRED else "session alone"
        with silence():
            figures[f"node, handshakes per second of its CPU, {what}"] = _handshakes(policy)
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


def _handshakes(policy: Encryption) -> float:
    """Have many nodes look one up, dial it and make a channel; both sides count."""
    network = Network(1, Weather(delay_s=0.0))
    SimRelay(network)
    nodes = [
        SimNode(network, new_key(network), host(number), encryption=policy)
        for number in range(CALLERS + 1)
    ]
    network.run_for(5)
    called, *callers = nodes
    begun = time.process_time()
    for caller in callers:
        caller.core.connect(called.node_id, network.now)
        caller.pump()
        assert network.run_until(lambda c=caller: c.has_route(called.node_id), 5)
    return 2 * CALLERS / (time.process_time() - begun)


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
