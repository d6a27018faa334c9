"""The live view of the net: what is said of what passes, and to whom."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import LOCAL_CALLER
from shem.cli.net_trace import line
from shem.kernel.config import Encryption
from shem.kernel.errors import Conflict, ShemError
from shem.kernel.ids import ZERO_NODE, NodeId
from shem.kernel.world import SystemClock, World
from shem.net.outputs import RelayUp
from shem.net.trace import ROWS_MAX, WATCHERS_MAX, Layer, Trace
from shem.net.trace_text import datagram_text, message_text, packet_text
from shem.net.types import Channel
from shem.node.local_net import LocalNet, bind_diagnostics
from shem.wire import gsb
from shem.wire import relay as r
from shem.wire.flexbuffers import pack, unpack
from shem.wire.forward import encode_forward
from shem.wire.relay_codec import encode_packet
from shem.wire.tcp import ACK, SYN, Segment, encode_segment
from tests.unit.test_net_loopback import two_nets

SID = b"s" * 16
NODE = NodeId("0x" + "ab" * 20)
OTHER = NodeId("0x" + "cd" * 20)
ID = bytes.fromhex("ab" * 20)


def request(body):
    return encode_packet(r.Packet(SID, r.Request(7, body)))


def response(code, body):
    return encode_packet(r.Packet(SID, r.Response(7, code, body)))


def control(body):
    return encode_packet(r.Packet(SID, r.Control(body)))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (request(r.Ping()), "Ping #7"),
        (response(401, r.Pong()), "Pong 401 #7"),
        (request(r.FindNode(ID)), f"FindNode {NODE} #7"),
        (request(r.FindNode(b"short")), "FindNode ? #7"),
        (request(r.FindNeighbours(5)), "FindNeighbours 5 #7"),
        (
            request(r.Session(challenge_req=r.ChallengeRequest(bytes(16), 16))),
            "Session challenge of difficulty 16 #7",
        ),
        (
            request(r.Session(challenge_resp=r.ChallengeResponse(bytes(72), (bytes(65),)))),
            "Session proof of 1 identities #7",
        ),
        (
            response(200, r.Node((r.Identity(bytes(64), ID),), (r.Endpoint("10.0.0.1", 5),), 1, 3)),
            f"Node {NODE} slot 3 at 10.0.0.1:5 200 #7",
        ),
        (response(404, r.Node()), "Node 404 #7"),
        (control(r.ResumeForwarding()), "ResumeForwarding"),
        (control(r.Disconnected(slot=2)), "Disconnected slot 2"),
        (control(r.Disconnected(node_id=ID)), f"Disconnected node {NODE}"),
        (control(r.Disconnected(session_id=SID)), f"Disconnected session {SID.hex()}"),
        (control(r.DialBack(ID, ())), f"DialBack {NODE} at no address"),
        (encode_forward(SID, 0, 1, b"1234"), "Forward unreliable, 4 B"),
        (encode_forward(SID, 9, 0, b"1234"), "Forward slot 9 stream, 4 B"),
        (encode_forward(SID, 0, 2, b"\x04secret"), "Forward encrypted, 7 B"),
        (encode_forward(SID, 0, 2, b""), "Forward empty, 0 B"),
        (b"\x0a" + SID, "unreadable: a Forward has at least 23 bytes, not 17"),
    ],
)
def test_datagram_is_described(data, text):
    assert datagram_text(data) == text


def test_segment_is_described():
    segment = Segment(bytes(16), bytes(15) + b"\1", 5_000, 1, 10, 20, SYN | ACK, 7, b"abc")

    text = packet_text(0, encode_segment(segment))

    assert text == "tcp 5000 > 1 SYN|ACK seq 10 ack 20 win 7, 3 B"


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (gsb.CallRequest("me", "/net/x/y", "12", b"secret"), "call /net/x/y #12, 6 B"),
        (gsb.CallRequest("me", "/net/x/y", "12", b"", True), "push /net/x/y #12, 0 B"),
        (gsb.CallReply("12", data=b"secret"), "reply #12 OK, 6 B"),
        (
            gsb.CallReply("12", gsb.Code.BAD_REQUEST, gsb.ReplyType.PARTIAL, b"no"),
            "reply #12 BAD_REQUEST, 2 B, more to come",
        ),
        (gsb.BroadcastRequest("me", b"offers", "topic"), "broadcast topic, 6 B"),
        (gsb.Ping(), "Ping"),
    ],
)
def test_message_is_described_without_its_content(packet, text):
    assert message_text(gsb.encode_packet(packet)) == text


@given(st.binary(max_size=200))
def test_anything_can_be_described(data):
    for text in (datagram_text(data), packet_text(0, data), packet_text(1, data)):
        assert text
    assert message_text(data)


# --- watching


def new_trace():
    changes = []
    return Trace(SystemClock(), changes.append), changes


async def rows_of(watch, interval_s=0.01):
    """Return all rows that are there."""
    found = []
    async with aclosing(watch.batches(interval_s)) as batches:
        async for rows in batches:
            found += rows
            if not rows:
                break
    return found


async def test_trace_is_on_while_somebody_watches():
    trace, changes = new_trace()

    with trace.watch(), trace.watch():
        assert trace.is_on
    assert not trace.is_on
    assert changes == [True, True, True, False]


async def test_watcher_gets_its_layers_and_its_peer():
    trace, _ = new_trace()
    with trace.watch([Layer.MESSAGE], NODE) as one, trace.watch([Layer.EVENT]) as two:
        message = gsb.encode_packet(gsb.Ping())
        trace.message("out", NODE, Channel.RELIABLE, message)
        trace.message("out", OTHER, Channel.RELIABLE, message)
        trace.core_output(RelayUp(None), lambda *_: None)

        [row] = await rows_of(one)
        [event] = await rows_of(two)

    assert (row["peer"], row["layer"], row["direction"]) == (NODE, "message", "out")
    assert row["text"] == "reliable Ping"
    assert (event["peer"], event["text"]) == (ZERO_NODE, "registered at the relay, not public")


async def test_slow_watcher_loses_the_oldest_rows_and_they_are_counted():
    trace, _ = new_trace()
    with trace.watch([Layer.MESSAGE]) as watch:
        for number in range(ROWS_MAX + 3):
            packet = gsb.CallReply(str(number))
            trace.message("in", NODE, Channel.RELIABLE, gsb.encode_packet(packet))

        rows = await rows_of(watch)

    assert (len(rows), watch.lost) == (ROWS_MAX, 3)
    assert rows[0]["text"] == "reliable reply #3 OK, 0 B"


async def test_watchers_are_few():
    trace, _ = new_trace()
    watches = [trace.watch() for _ in range(WATCHERS_MAX)]
    for watch in watches:
        watch.__enter__()

    with pytest.raises(Conflict), trace.watch():
        pass


# --- on a running node


@asynccontextmanager
async def watched_pair(**settings):
    """Two nodes with buses; the first one's trace is asked for over its bus."""
    async with two_nets(**settings) as (_, one, two):
        buses = [Bus(), Bus()]
        for net, bus in zip((one, two), buses, strict=True):
            bind_diagnostics(bus)
            LocalNet(net, World().clock).bind(bus)
        remotes = [
            RemoteBus(bus, net, [net.default_id], rng=World().rng)
            for bus, net in zip(buses, (one, two), strict=True)
        ]
        async with remotes[0], remotes[1]:
            yield one, two, buses[0]


@asynccontextmanager
async def watching(bus, layers, peer=None):
    """Ask for the trace; give the rows from now on."""
    body = pack({"peer": peer, "layers": layers})
    answers = bus.stream(LOCAL_CALLER, "/local/net/Trace", body, timeout_s=10)
    async with aclosing(answers):
        assert unpack(await anext(answers)) == {"Ok": {"rows": [], "lost": 0}}
        yield rows_in(answers)


async def rows_in(answers):
    async for data in answers:
        for row in unpack(data)["Ok"]["rows"]:
            yield row


async def ping(bus, target):
    address = f"/net/{target.default_id}/diagnostic/net/GsbRemotePing"
    await bus.request(LOCAL_CALLER, address, {}, timeout_s=5)


async def until(rows, text):
    """Return the rows up to the first one that says this."""
    found = []
    async with asyncio.timeout(10):
        async for row in rows:
            found.append(row)
            if text in row["text"]:
                break
    return found


@pytest.mark.parametrize("encryption", list(Encryption))
async def test_first_ping_shows_the_whole_story(encryption):
    async with watched_pair(encryption=encryption) as (one, two, bus):
        async with watching(bus, list(Layer)) as rows:
            await ping(bus, two)
            told = await until(rows, "reliable reply")
        assert not one.trace.is_on

        texts = [row["text"] for row in told]
        sessions = [i for i, text in enumerate(texts) if text.startswith("Session")]
        [call] = [i for i, text in enumerate(texts) if text.startswith("reliable call")]
        syn = next(i for i, text in enumerate(texts) if " SYN " in text)
        events = {row["text"] for row in told if row["layer"] == "event"}
        assert len(sessions) >= 4 and sessions[0] < call < syn
        assert {"route up", "reliable stream up"} <= events
        assert ("encrypted channel up" in events) is (encryption is not Encryption.OFF)
        assert {row["peer"] for row in told} <= {two.default_id, ZERO_NODE}
        assert all(line(row) for row in told)


async def test_control_packets_inside_a_channel_are_shown():
    async with watched_pair() as (one, two, bus), watching(bus, ["control"]) as rows:
        await one.connect(two.default_id)

        told = await until(rows, "Pong 200 ")
        while not any(row["text"].endswith(", encrypted") for row in told):
            told += await until(rows, ", encrypted")


async def test_one_peer_can_be_watched():
    async with watched_pair() as (one, two, bus), watching(bus, list(Layer), NODE) as rows:
        await one.find(two.default_id)
        await ping(bus, two)
        one.trace.message("in", NODE, Channel.UNRELIABLE, b"not a packet")

        [row] = await until(rows, "")

    assert row["peer"] == NODE
    assert row["text"].startswith("unreliable unreadable")


@pytest.mark.parametrize(
    "body", [{"layers": ["nonsense"]}, {"peer": "0x12"}, {"layers": "event"}, 5, {"layers": [1]}]
)
async def test_nonsense_is_refused_and_nobody_watches(body):
    async with watched_pair() as (one, _, bus):
        with pytest.raises(ShemError):
            await anext(bus.stream(LOCAL_CALLER, "/local/net/Trace", pack(body), timeout_s=5))
        assert not one.trace.is_on
