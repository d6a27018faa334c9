"""Opening a channel: both prove their identities, and everybody else is refused."""

import json
from pathlib import Path

import pytest

from shem.identity.keys import PrivateKey
from shem.identity.proof import SIGNATURES_MAX, prove, sign_solution
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.secure import proof
from shem.net.secure.channel import Channel
from shem.net.secure.handshake import LABEL, Initiator, Responder
from shem.net.secure.noise import Handshake, KeyPair
from shem.net.secure.packets import HEAD, Hello, Kind
from shem.net.secure.proof import Role
from shem.wire.challenge import Solver

VECTOR = json.loads((Path(__file__).parent.parent / "vectors/secure_channel.json").read_text())
RNG = SeededRng(11)
ALICE, BOB, EVE = (PrivateKey.generate(RNG) for _ in range(3))
ALICE_TOO, BOB_TOO = (PrivateKey.generate(RNG) for _ in range(2))


def key_pair():
    return KeyPair(RNG.token(32))


def hello_from(keys=(ALICE,), target=BOB.node_id):
    return Initiator(keys, target, 7, key_pair(), key_pair())


def answer_to(initiator, keys=(BOB,)):
    return Responder(keys, initiator.hello, 9, key_pair(), key_pair())


def talk(one, two):
    """Send a word each way."""
    first, second = Channel(one, 0.0), Channel(two, 0.0)
    assert second.open(first.seal(Kind.STREAM, b"there")) == (Kind.STREAM, b"there")
    assert first.open(second.seal(Kind.STREAM, b"back")) == (Kind.STREAM, b"back")


def test_both_learn_all_identities_of_the_other_and_can_talk():
    initiator = hello_from((ALICE, ALICE_TOO))
    responder = answer_to(initiator, (BOB, BOB_TOO))
    at_alice, finish = initiator.on_answer(responder.answer)
    at_bob = responder.on_finish(finish)

    assert at_alice.peer_ids == (BOB.node_id, BOB_TOO.node_id)
    assert at_bob.peer_ids == (ALICE.node_id, ALICE_TOO.node_id)
    assert (at_alice.own_number, at_alice.peer_number) == (7, 9)
    assert (at_bob.own_number, at_bob.peer_number) == (9, 7)
    talk(at_alice, at_bob)


def test_vector_of_the_documentation():
    def pair(name):
        return KeyPair(bytes.fromhex(VECTOR[name]))

    alice, bob = (PrivateKey.from_hex(VECTOR[f"{side}_identity"]) for side in ("init", "resp"))
    initiator = Initiator(
        (alice,), bob.node_id, VECTOR["init_number"], pair("init_static"), pair("init_ephemeral")
    )
    responder = Responder(
        (bob,), initiator.hello, VECTOR["resp_number"], pair("resp_static"), pair("resp_ephemeral")
    )
    assert (LABEL + initiator.hello.prologue).hex() == VECTOR["prologue"]
    assert (initiator.hello.prologue + initiator.hello.noise).hex() == VECTOR["hello"]
    assert responder.answer.hex() == VECTOR["answer"]
    agreed, finish = initiator.on_answer(responder.answer)
    assert finish.hex() == VECTOR["finish"]
    assert (agreed.send_key.hex(), agreed.receive_key.hex()) == (
        VECTOR["init_send_key"],
        VECTOR["resp_send_key"],
    )
    channel, other = Channel(agreed, 0.0), Channel(responder.on_finish(finish), 0.0)
    for index, data in enumerate(VECTOR["data"]):
        sender, receiver = (channel, other) if data["from"] == "init" else (other, channel)
        packet = sender.seal(Kind(data["kind"]), bytes.fromhex(data["payload"]))
        assert packet.hex() == data["packet"], index
        assert receiver.open(packet)[1].hex() == data["payload"]


def test_a_greeting_for_somebody_else_is_refused():
    with pytest.raises(PeerError, match="came here"):
        answer_to(hello_from(target=EVE.node_id))


def test_a_greeting_for_an_alias_is_answered():
    initiator = hello_from(target=BOB_TOO.node_id)
    agreed, _ = initiator.on_answer(answer_to(initiator, (BOB, BOB_TOO)).answer)
    assert agreed.peer_ids[0] == BOB.node_id


def test_an_answer_without_the_key_of_the_wanted_identity_names_its_true_signer():
    """Whoever greeted decides by the proven names: the layer refuses others."""
    initiator = hello_from()
    forged = Responder((EVE, BOB), initiator.hello, 9, key_pair(), key_pair())
    real, _ = initiator.on_answer(forged.answer)
    assert real.peer_ids == (EVE.node_id, BOB.node_id)  # a test has Bob's key, Eve has not


def test_d10_an_answer_is_good_for_one_greeting_only():
    one, two = hello_from(), hello_from()
    with pytest.raises(PeerError):
        two.on_answer(answer_to(one).answer)


def test_d10_a_man_in_the_middle_cannot_pass_on_a_proof():
    """Eve greets Bob and answers Alice: Bob's proof does not fit her handshake with Alice."""
    to_eve = hello_from(target=BOB.node_id)
    to_bob = hello_from((EVE,), target=BOB.node_id)
    answer = answer_to(to_bob).answer
    static = key_pair()
    noise = Handshake(
        is_initiator=False,
        prologue=LABEL + to_eve.hello.prologue,
        static=static,
        ephemeral=key_pair(),
    )
    noise, _ = noise.read(to_eve.hello.noise)
    stolen = payload_of(to_bob, answer)
    try:
        names = to_eve.on_answer(answer[: HEAD.size] + noise.write(stolen))[0].peer_ids
    except PeerError:
        names = ()
    assert BOB.node_id not in names


def payload_of(initiator, answer):
    """Return what an initiator reads in an answer, as a malicious one may."""
    _, payload = initiator._noise.read(answer[HEAD.size :])
    return payload


def test_a_bad_answer_does_not_spoil_the_true_one():
    initiator = hello_from()
    true = answer_to(initiator).answer
    noise = Handshake(
        is_initiator=False,
        prologue=LABEL + initiator.hello.prologue,
        static=key_pair(),
        ephemeral=key_pair(),
    )
    noise, _ = noise.read(initiator.hello.noise)
    unsigned = true[: HEAD.size] + noise.write(bytes(4) + bytes(65))
    with pytest.raises(PeerError):
        initiator.on_answer(unsigned)
    agreed, _ = initiator.on_answer(true)
    assert agreed.peer_ids == (BOB.node_id,)


def test_a_bad_finish_does_not_spoil_the_true_one():
    initiator = hello_from()
    responder = answer_to(initiator)
    _, finish = initiator.on_answer(responder.answer)
    forged = bytearray(finish)
    forged[-1] ^= 1
    with pytest.raises(PeerError):
        responder.on_finish(bytes(forged))
    assert responder.on_finish(finish).peer_ids == (ALICE.node_id,)


def test_d4_greeting_in_the_name_of_another_is_found_out():
    """Eve says Hello as Alice; she can sign as Eve only."""
    hello = Hello(ALICE.node_id, BOB.node_id, 7, b"")
    static = key_pair()
    noise = Handshake(
        is_initiator=True, prologue=LABEL + hello.prologue, static=static, ephemeral=key_pair()
    )
    hello = Hello(hello.initiator, hello.target, hello.number, noise.write(b""))
    responder = Responder((BOB,), hello, 9, key_pair(), key_pair())
    noise, _ = noise.read(responder.answer[HEAD.size :])
    signed = proof.digest(Role.INITIATOR, LABEL + hello.prologue, static.public, noise.hash)
    finish = responder.answer[: HEAD.size] + noise.write(proof.sign(signed, [EVE]))
    with pytest.raises(PeerError, match="says Hello as"):
        responder.on_finish(finish)


def test_our_own_identity_does_not_answer_us():
    initiator = hello_from(target=ALICE_TOO.node_id)
    with pytest.raises(PeerError, match="our own"):
        initiator.on_answer(answer_to(initiator, (ALICE, ALICE_TOO)).answer)


@pytest.mark.parametrize(
    "part", ["role", "prologue", "static", "transcript"], ids=lambda part: f"another {part}"
)
def test_d13_a_signature_is_bound_to_every_part(part):
    parts = {
        "role": Role.INITIATOR,
        "prologue": b"p" * 50,
        "static": b"s" * 32,
        "transcript": b"t" * 32,
    }
    signature = ALICE.sign(proof.digest(*parts.values()))
    parts[part] = Role.RESPONDER if part == "role" else parts[part][:-1] + b"!"
    assert proof.verify(proof.digest(*parts.values()), signature) != (ALICE.node_id,)


def test_d13_malleable_and_malformed_signatures_are_refused():
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    digest = bytes(range(32))
    good = ALICE.sign(digest)
    high_s = (order - int.from_bytes(good[33:])).to_bytes(32)
    for bad in (
        bytes([good[0] ^ 1]) + good[1:33] + high_s,
        bytes([good[0] + 2]) + good[1:],
        bytes([good[0] + 27]) + good[1:],
        good[:1] + bytes(64),
        good[:-1],
        b"",
        good + b"\0",
        good * (SIGNATURES_MAX + 1),
        good + bytes(65),
    ):
        with pytest.raises(PeerError):
            proof.verify(digest, bad)
    assert proof.verify(digest, good) == (ALICE.node_id,)
    other = proof.verify(digest, bytes([good[0] ^ 1]) + good[1:])
    assert other != (ALICE.node_id,)


def test_the_most_identities_fit_a_datagram():
    keys = [PrivateKey.generate(RNG) for _ in range(SIGNATURES_MAX)]
    initiator = hello_from(keys)
    responder = answer_to(initiator, (BOB, *keys[1:]))
    _, finish = initiator.on_answer(responder.answer)
    assert 23 + max(len(responder.answer), len(finish)) <= 1426
    assert isinstance(responder.on_finish(finish).peer_ids[0], str)
    assert NodeId(keys[0].node_id) == responder.hello.initiator


def test_d13_a_solution_is_good_for_its_own_challenge_only():
    challenge, other = b"c" * 16, b"d" * 16
    solution = Solver(challenge, 1).step()
    signatures = sign_solution(solution, [ALICE])
    assert prove(challenge, 1, solution, signatures)[0].node_id == ALICE.node_id
    with pytest.raises(PeerError, match="not solved"):
        prove(other, 1, solution, signatures)
    with pytest.raises(PeerError, match="not solved"):
        prove(challenge, 1, solution[:8] + bytes(64), signatures)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\1" * 31])
def test_d13_zero_and_oversized_keys_are_refused(secret):
    with pytest.raises(UsageError):
        PrivateKey.from_bytes(secret)
