"""Message streams between two nodes: dialling, losing, dialling again (net.md §8.3, §9.1)."""

import pytest

from shem.kernel.errors import Unreachable, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.frames import FrameBuffer, encode_frame
from shem.net.streams import QUEUED_BYTES_MAX, SendPacket, StreamLost, Streams, StreamUp
from shem.net.types import MESSAGE_SIZE_MAX, Channel
from shem.net.vtcp.connection import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, USER_TIMEOUT_S
from shem.net.vtcp.stack import ACCEPTED_PER_PEER_MAX
from shem.net.vtcp.timing import SEGMENT_SIZE
from shem.wire import tcp
from tests.sim.stream_link import NODES, Faults, Link

RELIABLE, TRANSFER = Channel.RELIABLE, Channel.TRANSFER
STRANGER = NodeId("0x" + "33" * 20)


def packets(streams: Streams) -> list[tcp.Segment]:
    return [
        tcp.decode_segment(output.packet)
        for output in streams.outputs()
        if isinstance(output, SendPacket)
    ]


def segment(**fields) -> bytes:
    """Return a packet from node 1 to node 0."""
    given = {
        "source": tcp.ipv6_of_node(NODES[1]),
        "destination": tcp.ipv6_of_node(NODES[0]),
        "source_port": 5000,
        "destination_port": 1,
        "seq": 100,
        "ack": 0,
        "flags": tcp.SYN,
        "window": 65_535,
    }
    return tcp.encode_segment(tcp.Segment(**{**given, **fields}))


def pair_that_talked(channel: Channel = RELIABLE) -> Link:
    """Return two nodes that have sent each other a message."""
    link = Link()
    link.send(0, channel, b"question")
    link.send(1, channel, b"answer")
    link.run(1)
    assert link.received(1, channel) == [b"question"]
    assert link.received(0, channel) == [b"answer"]
    return link


# --- sending and receiving ---


def test_the_first_message_dials_the_port_of_its_channel():
    for channel, port in ((RELIABLE, 1), (TRANSFER, 2)):
        streams = Streams(NODES[0], SeededRng(1))
        streams.send(NODES[1], channel, b"hello", 0.0)

        [syn] = packets(streams)

        assert syn.flags == tcp.SYN
        assert syn.destination_port == port
        assert 1000 <= syn.source_port <= 65_535
        assert syn.destination == tcp.ipv6_of_node(NODES[1])
        assert syn.options == tcp.SYN_OPTIONS
        assert syn.window == 65_535


def test_a_message_is_delivered_once_and_whole():
    link = Link()

    link.send(0, RELIABLE, b"hello")
    link.run(1)

    assert link.received(1) == [b"hello"]
    assert link.ends[0].ups == [StreamUp(NODES[1], RELIABLE)]
    assert link.ends[1].ups == []


def test_each_side_sends_on_the_connection_it_dialled():
    link = pair_that_talked()

    [mine] = [s for s in link.ends[0].streams.sockets() if s.sent_bytes]
    [theirs] = [s for s in link.ends[0].streams.sockets() if s.received_bytes]

    assert mine.remote_port == 1
    assert theirs.local_port == 1
    assert theirs.remote_port != 1


def test_a_second_message_uses_the_same_connection():
    link = pair_that_talked()
    before = len(link.ends[0].streams.sockets())

    link.send(0, RELIABLE, b"again")
    link.run(1)

    assert len(link.ends[0].streams.sockets()) == before
    assert link.received(1) == [b"question", b"again"]


def test_channels_do_not_mix():
    link = Link()
    link.send(0, RELIABLE, b"r" * 5000)
    link.send(0, TRANSFER, b"t" * 5000)
    link.run(1)

    assert link.received(1, RELIABLE) == [b"r" * 5000]
    assert link.received(1, TRANSFER) == [b"t" * 5000]


def test_messages_of_two_megabytes_arrive_in_order():
    link = Link()
    messages = [link.random.randbytes(2_000_000), b"small", link.random.randbytes(100_001)]
    for message in messages:
        link.send(0, RELIABLE, message)

    link.run(5)

    assert link.received(1) == messages


class EdgeRng(SeededRng):
    """Begins every sequence just before it wraps."""

    def below(self, limit: int) -> int:
        return limit - 5000 if limit == 2**32 else super().below(limit)


def test_sequence_numbers_wrap_within_a_message():
    link = Link(faults=Faults(loss=0.05, jitter_s=0.001))
    for side in (0, 1):
        link.ends[side].streams = Streams(NODES[side], EdgeRng(side))
    message = link.random.randbytes(200_000)

    link.send(0, RELIABLE, message)
    link.run(20)

    assert link.received(1) == [message]


def test_a_flood_of_dials_leaves_no_timers_behind():
    streams = Streams(NODES[0], SeededRng(1))

    for n in range(2000):
        streams.receive(NODES[1], segment(source_port=2000 + n), 0.0)
        streams.outputs()

    assert len(streams._stack._timers) < 200


@pytest.mark.parametrize("message", [b"", bytes(MESSAGE_SIZE_MAX + 1)], ids=["empty", "long"])
def test_an_empty_or_too_long_message_is_refused(message):
    with pytest.raises(UsageError):
        Streams(NODES[0], SeededRng(1)).send(NODES[1], RELIABLE, message, 0.0)


def test_the_unreliable_channel_is_no_stream():
    with pytest.raises(UsageError):
        Streams(NODES[0], SeededRng(1)).send(NODES[1], Channel.UNRELIABLE, b"x", 0.0)


def test_a_full_queue_refuses_the_message_and_keeps_the_others():
    streams = Streams(NODES[0], SeededRng(1))
    big = bytes(MESSAGE_SIZE_MAX)
    for _ in range(QUEUED_BYTES_MAX // MESSAGE_SIZE_MAX):
        streams.send(NODES[1], RELIABLE, big, 0.0)

    with pytest.raises(Unreachable, match="waiting"):
        streams.send(NODES[1], RELIABLE, b"one more", 0.0)
    streams.send(NODES[1], TRANSFER, b"another channel", 0.0)


# --- strangers and nonsense ---


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x60" * 70,
        segment(source=tcp.ipv6_of_node(STRANGER)),
        segment(destination=tcp.ipv6_of_node(STRANGER)),
        segment(options=b"\x02\x09\x01\x01"),
        segment()[:-1],
    ],
    ids=["empty", "noise", "foreign source", "foreign target", "bad option", "cut"],
)
def test_a_packet_that_is_no_segment_of_the_peer_is_dropped(packet):
    streams = Streams(NODES[0], SeededRng(1))

    streams.receive(NODES[1], packet, 0.0)

    assert streams.outputs() == []
    assert streams.closed


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"flags": tcp.ACK, "ack": 77}, (77, 100, tcp.RST | tcp.ACK)),
        ({"flags": tcp.PSH | tcp.ACK, "ack": 78, "payload": b"data"}, (78, 104, tcp.RST | tcp.ACK)),
        ({"flags": tcp.SYN, "destination_port": 3}, (0, 101, tcp.RST | tcp.ACK)),
        ({"flags": tcp.FIN, "payload": b"ab"}, (0, 103, tcp.RST | tcp.ACK)),
        ({"flags": tcp.SYN | tcp.ACK, "ack": 79}, (79, 101, tcp.RST | tcp.ACK)),
    ],
)
def test_a_segment_of_no_connection_is_answered_with_rst(fields, answer):
    streams = Streams(NODES[0], SeededRng(1))

    streams.receive(NODES[1], segment(**fields), 0.0)

    [reset] = packets(streams)
    assert (reset.seq, reset.ack, reset.flags) == answer
    assert (reset.source_port, reset.destination_port) == (
        fields.get("destination_port", 1),
        5000,
    )


def test_a_rst_is_never_answered():
    streams = Streams(NODES[0], SeededRng(1))

    streams.receive(NODES[1], segment(flags=tcp.RST), 0.0)
    streams.receive(NODES[1], segment(flags=tcp.RST | tcp.ACK), 0.0)

    assert streams.outputs() == []


def open_by_hand(streams: Streams, port: int = 5000, channel_port: int = 1) -> tcp.Segment:
    """Dial node 0 with raw segments; return its SYN-ACK."""
    ports = {"source_port": port, "destination_port": channel_port}
    streams.receive(NODES[1], segment(**ports, options=tcp.SYN_OPTIONS), 0.0)
    syn_ack = next(p for p in packets(streams) if p.flags & tcp.SYN)
    streams.receive(NODES[1], segment(**ports, **after(syn_ack)), 0.0)
    return syn_ack


def after(syn_ack: tcp.Segment, sent: int = 0) -> dict[str, int]:
    return {"flags": tcp.ACK, "seq": 101 + sent, "ack": (syn_ack.seq + 1) % 2**32}


def test_a_stream_out_of_step_is_reset():
    streams = Streams(NODES[0], SeededRng(1))
    syn_ack = open_by_hand(streams)

    streams.receive(NODES[1], segment(**after(syn_ack), payload=b"\xff\xff\xff\xff"), 0.1)

    outputs = streams.outputs()
    [lost] = [o for o in outputs if isinstance(o, StreamLost)]
    assert (lost.peer, lost.channel) == (NODES[1], RELIABLE)
    [reset] = [tcp.decode_segment(o.packet) for o in outputs if isinstance(o, SendPacket)]
    assert reset.flags & tcp.RST
    assert streams.closed


def test_bytes_written_on_our_own_connection_are_ignored():
    streams = Streams(NODES[0], SeededRng(1))
    streams.send(NODES[1], RELIABLE, b"hello", 0.0)
    [syn] = packets(streams)
    ports = {"source_port": 1, "destination_port": syn.source_port}
    acked = {"ack": (syn.seq + 1) % 2**32}
    streams.receive(NODES[1], segment(**ports, **acked, flags=tcp.SYN | tcp.ACK), 0.0)
    streams.outputs()

    stray = {"flags": tcp.ACK, "seq": 101, "payload": encode_frame(b"not for you")}
    streams.receive(NODES[1], segment(**ports, **acked, **stray), 0.1)

    assert streams.outputs() == []


def test_a_keep_alive_probe_is_answered_and_its_byte_is_not_delivered():
    streams = Streams(NODES[0], SeededRng(1))
    syn_ack = open_by_hand(streams)
    packets(streams)
    probe = {**after(syn_ack), "seq": 100, "payload": b"\x00"}

    streams.receive(NODES[1], segment(**probe), 5.0)

    [ack] = packets(streams)
    assert (ack.flags, ack.ack, ack.payload) == (tcp.ACK, 101, b"")


def test_an_early_segment_is_acknowledged_at_once_with_its_block():
    streams = Streams(NODES[0], SeededRng(1))
    syn_ack = open_by_hand(streams)
    packets(streams)

    streams.receive(NODES[1], segment(**after(syn_ack, 8), payload=b"later"), 0.1)

    [ack] = packets(streams)
    assert ack.ack == 101
    assert tcp.read_sack_blocks(ack.options) == [(109, 114)]


def test_what_fills_two_segments_is_acknowledged_at_once_and_less_after_a_while():
    streams = Streams(NODES[0], SeededRng(1))
    syn_ack = open_by_hand(streams)
    packets(streams)

    for n in (0, 4, 8):
        streams.receive(NODES[1], segment(**after(syn_ack, n), payload=b"\0\0\0\0"), 1.0)
    streams.tick(1.039)
    assert packets(streams) == []
    assert streams.next_deadline() == pytest.approx(1.04)
    streams.tick(1.04)
    assert [p.ack for p in packets(streams)] == [113]

    for n in (0, SEGMENT_SIZE):
        assert packets(streams) == []
        full = segment(**after(syn_ack, 12 + n), payload=bytes(SEGMENT_SIZE))
        streams.receive(NODES[1], full, 2.0)
    assert [p.ack for p in packets(streams)] == [113 + 2 * SEGMENT_SIZE]


def test_a_repeated_syn_gets_the_same_answer():
    streams = Streams(NODES[0], SeededRng(1))
    streams.receive(NODES[1], segment(), 0.0)
    [first] = packets(streams)

    streams.receive(NODES[1], segment(), 0.5)

    assert packets(streams) == [first]


def test_a_peer_cannot_hold_more_than_a_few_connections():
    streams = Streams(NODES[0], SeededRng(1))

    for n in range(ACCEPTED_PER_PEER_MAX + 5):
        open_by_hand(streams, 5000 + n)

    open_now = [s for s in streams.sockets() if s.state != "Listen"]
    assert len(open_now) == ACCEPTED_PER_PEER_MAX


def open_lane_by_hand(streams: Streams, window: int) -> dict[str, int]:
    """Let node 0 dial and node 1 accept; return the fields of node 1's next segment."""
    streams.send(NODES[1], RELIABLE, b"hello", 0.0)
    [syn] = packets(streams)
    ports = {"source_port": 1, "destination_port": syn.source_port}
    acked = {**ports, "ack": (syn.seq + 1) % 2**32, "window": window}
    streams.receive(NODES[1], segment(**acked, flags=tcp.SYN | tcp.ACK), 0.0)
    return {**acked, "flags": tcp.ACK, "seq": 101}


def test_a_shut_window_is_probed_until_it_opens():
    streams = Streams(NODES[0], SeededRng(1))
    fields = open_lane_by_hand(streams, window=0)
    [ack] = packets(streams)
    probes = []
    while len(probes) < 3:
        now = streams.next_deadline()
        assert now < KEEP_ALIVE_S
        streams.tick(now)
        probes += packets(streams)

    assert [(p.seq, p.payload) for p in probes] == [((ack.seq - 1) % 2**32, b"\0")] * 3

    streams.receive(NODES[1], segment(**{**fields, "window": 100}), now)
    [data] = packets(streams)
    assert data.payload == encode_frame(b"hello")


def test_an_answer_for_an_older_connection_on_the_same_ports_is_reset():
    streams = Streams(NODES[0], SeededRng(1))
    streams.send(NODES[1], RELIABLE, b"hello", 0.0)
    [syn] = packets(streams)
    ports = {"source_port": 1, "destination_port": syn.source_port}
    stale = (syn.seq + 1000) % 2**32

    streams.receive(NODES[1], segment(**ports, flags=tcp.ACK, ack=stale), 0.1)

    [reset] = packets(streams)
    assert (reset.flags, reset.seq) == (tcp.RST | tcp.ACK, stale)
    assert [s.state for s in streams.sockets() if s.remote] == ["SynSent"]


def test_a_refusal_counts_only_when_repeated():
    streams = Streams(NODES[0], SeededRng(1))
    streams.send(NODES[1], RELIABLE, b"hello", 0.0)
    told = []
    for _ in range(3):
        [syn] = packets(streams)
        refusal = {"source_port": 1, "destination_port": syn.source_port}
        refusal |= {"ack": (syn.seq + 1) % 2**32, "flags": tcp.RST | tcp.ACK}
        streams.receive(NODES[1], segment(**refusal), 0.1)
        told.append([o for o in streams.outputs() if isinstance(o, StreamLost)])
        if not streams.closed:
            streams.tick(streams.next_deadline())

    assert [len(each) for each in told] == [0, 0, 1]


# --- idle, silent, gone ---


def test_an_idle_connection_is_probed_and_lives_on():
    link = pair_that_talked()
    before = link.sent_packets

    link.run(KEEP_ALIVE_S * 10)

    assert link.sent_packets > before
    assert link.sent_packets - before <= 2 * 2 * 10 * 2
    assert link.ends[0].lost == link.ends[1].lost == []


def test_a_silent_peer_is_lost_after_two_minutes():
    link = pair_that_talked()
    link.faults.loss = 1.0
    link.send(0, RELIABLE, b"into the void")

    link.run(USER_TIMEOUT_S - 5)
    assert link.ends[0].lost == []
    link.run(10)

    assert [lost.channel for lost in link.ends[0].lost] == [RELIABLE]
    assert link.ends[0].streams.closed


def test_a_peer_that_never_answers_takes_the_waiting_messages_with_it():
    link = Link()
    link.faults.loss = 1.0
    link.send(0, RELIABLE, b"hello?")

    link.run(CONNECT_TIMEOUT_S + 1)
    [lost] = link.ends[0].lost
    assert (lost.peer, lost.channel) == (NODES[1], RELIABLE)
    link.faults.loss = 0.0
    link.send(0, RELIABLE, b"are you back?")
    link.run(1)

    assert link.received(1) == [b"are you back?"]


def test_an_outage_shorter_than_the_timeout_loses_nothing():
    link = pair_that_talked()
    link.faults.loss = 1.0
    link.send(0, RELIABLE, b"x" * 300_000)
    link.run(60)
    link.faults.loss = 0.0

    link.run(15)

    assert link.received(1)[-1] == b"x" * 300_000
    assert link.ends[0].lost == []


# --- restarts ---


def test_a_restarted_peer_resets_and_the_next_message_arrives():
    link = pair_that_talked()
    link.restart(1)

    link.send(0, RELIABLE, b"lost with the old one")
    link.run(1)
    assert [lost.channel for lost in link.ends[0].lost] == [RELIABLE]
    assert link.received(1) == []
    link.send(0, RELIABLE, b"new")
    link.run(1)

    assert link.received(1) == [b"new"]


def test_messages_not_yet_begun_go_out_on_the_next_connection():
    link = pair_that_talked()
    link.restart(1)
    link.send(0, RELIABLE, b"a" * 200_000)
    link.send(0, RELIABLE, b"b" * 1000)
    link.send(0, RELIABLE, b"c" * 1000)

    link.run(2)

    assert link.ends[0].lost != []
    assert link.received(1) == [b"b" * 1000, b"c" * 1000]


def test_both_channels_are_lost_with_a_restarted_peer():
    link = pair_that_talked()
    link.send(0, TRANSFER, b"file")
    link.run(1)
    link.restart(1)

    link.send(0, RELIABLE, b"x")
    link.run(1)

    assert {lost.channel for lost in link.ends[0].lost} == {RELIABLE, TRANSFER}
    assert link.ends[0].streams.closed


def test_a_restarted_peer_that_speaks_first_gets_its_answer():
    link = pair_that_talked()
    link.restart(0)

    link.send(0, RELIABLE, b"I am back")
    link.run(1)
    assert link.received(1)[-1] == b"I am back"
    assert [lost.channel for lost in link.ends[1].lost] == [RELIABLE]
    link.send(1, RELIABLE, b"welcome")
    link.run(1)

    assert link.received(0) == [b"welcome"]
    assert link.ends[0].lost == []


def test_a_dead_connection_does_not_take_the_peers_fresh_one_with_it():
    link = pair_that_talked(TRANSFER)
    link.restart(0)
    link.send(0, RELIABLE, b"I am back")
    link.run(1)

    link.send(1, TRANSFER, b"sent on a dead connection")
    link.run(1)
    link.send(0, RELIABLE, b"still here")
    link.run(1)

    assert [lost.channel for lost in link.ends[1].lost] == [TRANSFER]
    assert link.ends[0].lost == []
    assert len(link.ends[0].ups) == 1
    assert link.received(1) == [b"I am back", b"still here"]


def test_a_cut_off_frame_is_completed_with_zeros_on_the_next_connection():
    link = pair_that_talked()
    link.send(0, RELIABLE, bytes([7]) * 500_000)
    link.run(0.0015)  # the first segments arrived
    sent = next(s.sent_bytes for s in link.ends[0].streams.sockets() if s.remote_port == 1)
    assert sent < 500_000
    streams = link.ends[0].streams
    streams.drop_peer(NODES[1], link.now)
    streams.outputs()

    streams.send(NODES[1], RELIABLE, b"next", link.now)
    stream = written_to_a_new_peer(streams, link.now)

    zeros = len(stream) - len(encode_frame(b"next"))
    assert stream[:zeros] == bytes(zeros)
    assert 500_012 - sent <= zeros <= 500_012
    assert FrameBuffer().feed(stream) == [b"next"]


def written_to_a_new_peer(streams: Streams, now: float) -> bytes:
    """Let a fresh node 1 accept; return the raw stream bytes it gets."""
    [syn] = packets(streams)
    ports = {"source_port": 1, "destination_port": syn.source_port}
    origin = (syn.seq + 1) % 2**32
    answer = {"ack": origin, "flags": tcp.SYN | tcp.ACK, "options": tcp.SYN_OPTIONS}
    streams.receive(NODES[1], segment(**ports, **answer), now)
    stream = bytearray()
    for _ in range(10_000):
        data = [p for p in packets(streams) if p.payload]
        if not data:
            break
        stream += b"".join(p.payload for p in data)
        acked = {"ack": (origin + len(stream)) % 2**32, "flags": tcp.ACK, "seq": 101}
        streams.receive(NODES[1], segment(**ports, **acked, window=32_768), now)
    return bytes(stream)


# --- the end ---


def test_a_dropped_peer_is_told_and_both_sides_lose_the_stream():
    link = pair_that_talked()

    link.ends[0].streams.drop_peer(NODES[1], link.now)
    link.run(1)

    assert [lost.channel for lost in link.ends[0].lost] == [RELIABLE]
    assert [lost.channel for lost in link.ends[1].lost] == [RELIABLE]
    assert link.ends[0].streams.closed
    assert link.ends[1].streams.closed


def test_a_shutdown_finishes_what_is_queued():
    link = pair_that_talked()
    link.send(0, RELIABLE, b"y" * 1_000_000)

    link.ends[0].streams.shutdown(link.now)
    link.run(5)

    assert link.received(1)[-1] == b"y" * 1_000_000
    assert link.ends[0].streams.closed
    assert link.ends[0].streams.sockets() == []
    assert link.ends[0].lost == []
    assert [lost.channel for lost in link.ends[1].lost] == [RELIABLE]


def test_a_shutdown_does_not_wait_for_a_peer_that_is_gone():
    link = pair_that_talked()
    link.faults.loss = 1.0

    link.ends[0].streams.shutdown(link.now)
    link.run(3)

    assert link.ends[0].streams.closed


def test_nothing_is_sent_or_accepted_after_a_shutdown():
    streams = Streams(NODES[0], SeededRng(1))
    streams.shutdown(0.0)

    with pytest.raises(Unreachable):
        streams.send(NODES[1], RELIABLE, b"late", 1.0)
    streams.receive(NODES[1], segment(), 1.0)

    [reset] = packets(streams)
    assert reset.flags & tcp.RST


def test_a_shutdown_finishes_both_channels_before_it_closes_either():
    link = pair_that_talked()
    link.send(0, RELIABLE, b"short")
    link.send(0, TRANSFER, b"z" * 1_000_000)

    link.ends[0].streams.shutdown(link.now)
    link.run(5)

    assert link.received(1, RELIABLE)[-1] == b"short"
    assert link.received(1, TRANSFER) == [b"z" * 1_000_000]
