"""Whatever arrives, the relay neither fails nor sends much more than it got."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shem.kernel.ids import NodeId
from shem.relay.directory import RelaySession
from shem.relay.outputs import SendDatagram
from shem.wire import relay as r
from shem.wire.forward import encode_forward
from shem.wire.relay_codec import encode_packet
from tests.relay_town import Town

HOME = ("10.0.0.1", 1)
STRANGER = ("10.0.0.66", 9)
SID = b"S" * 16
AMPLIFICATION_MAX = 3.0
"""Bytes sent to an unproven address for each one received, UDP and IP heads included: the challenge
for an empty greeting. The one for a real node's greeting is shorter than that."""
HEADS = 28

BODIES = st.one_of(
    st.just(r.Session()),
    st.just(r.Register()),
    st.just(r.Ping()),
    st.builds(r.FindNode, st.binary(max_size=24)),
    st.builds(r.FindSlot, st.integers(0, (1 << 32) - 1)),
    st.builds(r.FindNeighbours, st.integers(0, (1 << 32) - 1)),
    st.builds(r.AskReverse, st.binary(max_size=24)),
    st.builds(
        lambda *parts: r.Session(challenge_resp=r.ChallengeResponse(*parts)),
        st.binary(max_size=80),
        st.lists(st.binary(max_size=66), max_size=3).map(tuple),
    ),
)
SIDS = st.sampled_from([b"", SID, b"s" * 16]) | st.binary(max_size=18)
PACKETS = st.builds(
    lambda sid, content: encode_packet(r.Packet(sid, content)),
    SIDS,
    st.builds(r.Request, st.integers(0, (1 << 63) - 1), BODIES)
    | st.builds(r.Response, st.integers(0, 99), st.just(r.Code.OK), st.just(r.Pong()))
    | st.builds(r.Control, st.builds(lambda sid: r.Disconnected(session_id=sid), SIDS)),
)
FORWARDS = st.builds(
    encode_forward,
    st.sampled_from([SID, b"s" * 16]),
    st.integers(0, 5),
    st.integers(0, 0xFFFF),
    st.binary(max_size=40),
)
DATAGRAMS = st.one_of(st.binary(max_size=80), PACKETS, FORWARDS)


@st.composite
def damaged(draw):
    data = bytearray(draw(st.one_of(PACKETS, FORWARDS)))
    at = draw(st.integers(0, len(data) - 1))
    data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))])


def town_with_two_nodes():
    town = Town()
    for number, sid in ((1, SID), (2, b"T" * 16)):
        identity = (NodeId(f"0x{number:040x}"), bytes(64))
        session = RelaySession(sid, ("10.0.0.1", number), (identity,), number, town.now)
        town.core.directory.add(session)
        town.core.directory.register(session)
    return town


@given(st.lists(st.tuples(DATAGRAMS | damaged(), st.sampled_from([HOME, STRANGER])), max_size=12))
@settings(deadline=None)
def test_any_datagrams_from_anybody_are_survived(batch):
    town = town_with_two_nodes()

    town.core.receive_batch(batch, town.now)
    for data, source in batch:
        town.core.receive_check(data, source, town.now)
        town.core.receive_relay(data, town.now)
    town.pass_time(200)

    assert not town.core.directory.sessions  # all have expired, and it still works


@given(DATAGRAMS | damaged())
def test_stranger_is_not_sent_much_more_than_it_sent(data):
    town = town_with_two_nodes()

    town.core.receive(data, STRANGER, town.now)
    sent = [o for o in town.core.outputs() if isinstance(o, SendDatagram)]

    assert all(output.address == STRANGER for output in sent)
    assert len(sent) <= 1
    size = sum(len(output.data) + HEADS for output in sent)
    assert size <= AMPLIFICATION_MAX * (len(data) + HEADS)


@given(DATAGRAMS | damaged())
def test_stranger_changes_nothing(data):
    town = town_with_two_nodes()
    before = dict(town.core.directory.sessions)

    town.core.receive(data, STRANGER, town.now)

    assert town.core.directory.sessions == before
