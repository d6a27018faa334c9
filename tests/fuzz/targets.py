"""What is fuzzed: everything that takes bytes from outside.

A target takes any bytes and answers with what it made of them, as something that can be compared; a
typed error (`PeerError`) is an answer, too. Whatever else it raises is a bug. Readers of streams
get their input whole and split, and readers whose words can be written again have to read the same.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path

from shem.exeunit.outbound.heads import parse_head
from shem.identity.keys import PrivateKey
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.frames import FrameBuffer
from shem.net.secure.channel import Channel
from shem.net.secure.handshake import Initiator, Responder
from shem.net.secure.noise import KeyPair
from shem.net.secure.packets import Kind, is_refusal, read_head, read_hello
from shem.net.streams import Streams
from shem.net.types import Channel as Lane
from shem.provider.certificates import read_certificate, read_descriptor
from shem.provider.x509 import read_certificates
from shem.relay.core import RelayCore
from shem.relay.directory import Directory
from shem.relay.mesh import decode_message
from shem.relay.registry import MemoryRegistry
from shem.relay.snapshot import restore_snapshot
from shem.rest.manifest import decode_manifest
from shem.rest.patterns import Budget, Pattern
from shem.wire import flexbuffers, gsb
from shem.wire.forward import decode_forward, decode_unreliable, encode_forward, kind_of
from shem.wire.relay_codec import decode_packet, encode_packet
from shem.wire.tcp import decode_segment, encode_segment, read_sack_blocks, read_syn_options
from tests.relay_town import Town, joined
from tests.sim.attack_town import TappedNetwork
from tests.sim.net_world import RELAY, SimNode, SimRelay, host, new_key

RNG = SeededRng(1)
ALICE, BOB = (PrivateKey.generate(RNG) for _ in range(2))
STATICS = [KeyPair(RNG.token(32)) for _ in range(4)]
PEER = NodeId("0x" + "11" * 20)
SAID = ((Kind.STREAM, b"secret"), (Kind.UNRELIABLE, b"other"))
Target = Callable[[bytes], object]


def _flexbuffers(data: bytes) -> object:
    value = flexbuffers.unpack(data)
    assert _as_text(flexbuffers.loads(flexbuffers.dumps(value))) == _as_text(value)
    return type(value).__name__


def _as_text(value: object) -> str:
    """Make values comparable, those that are no numbers and the order of keys included."""
    if isinstance(value, dict):
        return str(sorted((key, _as_text(each)) for key, each in value.items()))
    return str([_as_text(each) for each in value]) if isinstance(value, list) else repr(value)


def _split(data: bytes, reader: Callable[[], Callable[[bytes], list[bytes]]]) -> list[bytes]:
    """Read whole and in pieces; both must agree, errors included."""
    results: list[list[bytes] | str] = []
    for step in (len(data) or 1, 1, 7):
        feed, got = reader(), []
        try:
            for at in range(0, len(data), step):
                got += feed(data[at : at + step])
            results.append(got)
        except PeerError:
            results.append("refused")
    assert results[0] == results[1] == results[2], results
    if isinstance(results[0], str):
        raise PeerError(results[0])
    return results[0]


def _gsb_frames(data: bytes) -> object:
    return len(_split(data, lambda: gsb.FrameReader(4096).feed))


def _gsb_packet(data: bytes) -> object:
    packet = gsb.decode_packet(data)
    assert gsb.decode_packet(gsb.encode_packet(packet)) == packet
    return type(packet).__name__


def _stream_frames(data: bytes) -> object:
    return len(_split(data, lambda: FrameBuffer().feed))


def _relay_packet(data: bytes) -> object:
    packet = decode_packet(data)
    body = packet.content.body
    if body is not None:
        assert decode_packet(encode_packet(packet)) == packet
    return type(packet.content).__name__, type(body).__name__


def _forward(data: bytes) -> object:
    forward = decode_forward(data)
    again = encode_forward(forward.session_id, forward.slot, forward.flags, forward.payload)
    assert decode_forward(again) == forward
    if forward.is_unreliable:
        decode_unreliable(forward.payload)
    return kind_of(data), forward.is_unreliable


def _tcp(data: bytes) -> object:
    segment = decode_segment(data)
    assert decode_segment(encode_segment(segment)) == segment
    read_syn_options(segment.options)
    read_sack_blocks(segment.options)
    return segment.flags


def _streams(data: bytes) -> object:
    """Two nodes in the middle of a talk; what comes is taken as from the other."""
    one, two = (Streams(node, SeededRng(2)) for node in (ALICE.node_id, PEER))
    one.send(PEER, Lane.RELIABLE, b"hello", 1.0)
    for _ in range(3):
        for source, target, name in ((one, two, ALICE.node_id), (two, one, PEER)):
            for output in source.outputs():
                if packet := getattr(output, "packet", None):
                    target.receive(name, packet, 1.0)
    one.receive(PEER, data, 1.0)
    one.tick(2.0)
    kinds = tuple(type(output).__name__ for output in one.outputs())
    one.tick(5.0)
    return kinds, len(one.sockets())


def _hello(data: bytes) -> object:
    is_refusal(data, "7")
    hello = read_hello(data)
    if hello is None:
        return None
    Responder([BOB], hello, 9, STATICS[2], STATICS[3])
    return "hello"


def initiator() -> Initiator:
    return Initiator([ALICE], BOB.node_id, 7, STATICS[0], STATICS[1])


def _answer(data: bytes) -> object:
    read_head(data)
    agreed, _ = initiator().on_answer(data)
    return agreed.peer_ids


def _finish(data: bytes) -> object:
    agreed = Responder([BOB], initiator().hello, 9, STATICS[2], STATICS[3]).on_finish(data)
    return agreed.peer_ids


def channels() -> tuple[Channel, Channel]:
    begun = initiator()
    responder = Responder([BOB], begun.hello, 9, STATICS[2], STATICS[3])
    agreed, finish = begun.on_answer(responder.answer)
    return Channel(agreed, 1.0), Channel(responder.on_finish(finish), 1.0)


def _sealed(data: bytes) -> object:
    one, two = channels()
    said = {one.seal(kind, word): (kind, word) for kind, word in SAID}
    opened = two.open(data)
    assert opened == said.get(data), opened
    return opened


def _node(data: bytes) -> object:
    """A node with a session, a channel and a relay; from the peer, the relay and a stranger."""
    network = _node_town()
    one = network.one
    one.core.outputs()
    kinds = []
    for source in (network.two.address, RELAY, ("10.0.9.9", 9)):
        one.core.receive(data, source, network.now)
        kinds += [type(output).__name__ for output in one.core.outputs()]
    return tuple(kinds)


def _node_town() -> TappedNetwork:
    global _TOWN, _TOWN_USED  # noqa: PLW0603
    if _TOWN is None or _TOWN_USED >= TOWN_USES:
        network = TappedNetwork(3)
        SimRelay(network)
        network.one, network.two = (SimNode(network, new_key(network), host(n)) for n in (0, 1))
        network.run_for(1)
        network.one.say(network.two.node_id, Lane.UNRELIABLE, b"hello")
        network.run_for(1)
        _TOWN, _TOWN_USED = network, 0
    _TOWN_USED += 1
    return _TOWN


TOWN_USES = 50
"""Inputs before a town is built anew; a crash names the last one, and the state is theirs all."""
_TOWN: TappedNetwork | None = None
_TOWN_USED = 0


def _relay(data: bytes) -> object:
    town = Town(4)
    client = joined(town, 1)
    for source in (client.address, ("10.0.9.9", 9)):
        town.core.receive(data, source, town.now)
        town.core.receive_check(data, source, town.now)
    assert isinstance(town.core, RelayCore)
    return tuple(type(output).__name__ for output in town.core.outputs())


def _mesh(data: bytes) -> object:
    return type(decode_message(data)).__name__


def _snapshot(data: bytes) -> object:
    registry = MemoryRegistry([bytes(19) + b"\1"])
    return restore_snapshot(data, Directory(registry), 10.0, 100.0)


def _asked(read: Callable[[bytes], object]) -> Target:
    """Make a target of a part whose callers are told what is wrong with their words."""

    def target(data: bytes) -> object:
        try:
            return read(data)
        except UsageError as error:
            raise PeerError(error.message) from error

    return target


def _manifest(data: bytes) -> object:
    manifest = decode_manifest(base64.b64encode(data).decode())
    if manifest.script is not None:
        manifest.script.require_run("/bin/sh", ("-c", "true"), Budget(20_000))
    return manifest.outbound.is_requested, manifest.task_package("x86_64", "linux")


def _certificate(data: bytes) -> object:
    if not data.lstrip().startswith(b"{"):
        return len(read_certificates(data))
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise PeerError("not JSON") from None
    if "nodeDescriptor" in body:
        return read_descriptor(body, 1_795_465_792 * 10**9).node_id
    return len(read_certificate(body).chain)


def _proxy_head(data: bytes) -> object:
    asked = parse_head(data)
    if asked.head:
        again = parse_head(asked.head.replace(b" /", b" http://a.com/", 1))
        assert again.host == "a.com"
    return asked.port, bool(asked.head)


def _pattern(data: bytes) -> object:
    pattern, _, text = data.decode(errors="replace").partition("\n")
    return Pattern(pattern, ignore_case=True).is_in(text, Budget(20_000))


TARGETS: dict[str, Target] = {
    "flexbuffers": _flexbuffers,
    "gsb_frames": _gsb_frames,
    "gsb_packet": _gsb_packet,
    "stream_frames": _stream_frames,
    "relay_packet": _relay_packet,
    "forward": _forward,
    "tcp": _tcp,
    "streams": _streams,
    "hello": _hello,
    "answer": _answer,
    "finish": _finish,
    "sealed": _sealed,
    "node": _node,
    "relay": _relay,
    "mesh": _mesh,
    "snapshot": _snapshot,
    "manifest": _asked(_manifest),
    "certificate": _certificate,
    "proxy_head": _asked(_proxy_head),
    "pattern": _asked(_pattern),
}


def vectors(name: str) -> dict[str, object]:
    path = Path(__file__).parent.parent / "vectors" / f"{name}.json"
    return dict(json.loads(path.read_text()))
