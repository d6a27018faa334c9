"""Noise XX: the published vectors, turns, and messages that are no good."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shem.kernel.errors import PeerError
from shem.net.secure.noise import Handshake, KeyPair, nonce

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/noise_xx.json").read_text())
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 19 - 1).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 19 + 1).to_bytes(32, "little"),
]


def sides(vector):
    def key(name):
        return KeyPair(bytes.fromhex(vector[name]))

    return tuple(
        Handshake(
            is_initiator=side == "init",
            prologue=bytes.fromhex(vector[f"{side}_prologue"]),
            static=key(f"{side}_static"),
            ephemeral=key(f"{side}_ephemeral"),
        )
        for side in ("init", "resp")
    )


def fresh(prologue=(b"p", b"p")):
    return tuple(
        Handshake(
            is_initiator=not index,
            prologue=prologue[index],
            static=KeyPair(bytes([1 + index]) * 32),
            ephemeral=KeyPair(bytes([11 + index]) * 32),
        )
        for index in range(2)
    )


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["protocol_name"])
def test_published_vectors(vector):
    initiator, responder = sides(vector)
    messages = [
        (bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]
    ]
    for turn, (payload, ciphertext) in enumerate(messages[:3]):
        writer, reader = (initiator, responder) if turn % 2 == 0 else (responder, initiator)
        assert writer.write(payload) == ciphertext
        after, read = reader.read(ciphertext)
        assert read == payload
        initiator, responder = (writer, after) if turn % 2 == 0 else (after, writer)

    assert initiator.hash == responder.hash == bytes.fromhex(vector["handshake_hash"])
    keys = initiator.split(), responder.split()
    assert keys[0] == keys[1][::-1]
    counters = [0, 0]
    for turn, (payload, ciphertext) in enumerate(messages[3:], start=3):
        side = turn % 2
        cipher = ChaCha20Poly1305(keys[side][0])
        assert cipher.encrypt(nonce(counters[side]), payload, b"") == ciphertext
        counters[side] += 1


def greeted():
    """Return both sides after the first message, and the responder's answer."""
    initiator, responder = fresh()
    responder, _ = responder.read(initiator.write(b""))
    return initiator, responder, responder.write(b"answer")


def test_each_learns_the_others_static_key():
    initiator, responder, answer = greeted()
    initiator, _ = initiator.read(answer)
    responder, _ = responder.read(initiator.write(b""))

    assert initiator.remote_static == KeyPair(bytes([2]) * 32).public
    assert responder.remote_static == KeyPair(bytes([1]) * 32).public


@pytest.mark.parametrize("position", range(0, 102, 3))
def test_a_changed_answer_is_refused_and_the_true_one_still_taken(position):
    initiator, _, answer = greeted()
    forged = bytearray(answer)
    forged[position] ^= 0x01

    with pytest.raises(PeerError):
        initiator.read(bytes(forged))
    assert initiator.read(answer)[1] == b"answer"


@pytest.mark.parametrize("size", [0, 1, 31, 32, 79, 80, 95])
def test_a_cut_off_answer_is_refused_and_the_true_one_still_taken(size):
    initiator, _, answer = greeted()

    with pytest.raises(PeerError):
        initiator.read(answer[:size])
    assert initiator.read(answer)[1] == b"answer"


def test_a_changed_first_message_is_found_out_by_the_answer():
    initiator, responder = fresh()
    first = initiator.write(b"hello")
    responder, _ = responder.read(first.replace(b"hello", b"hullo"))

    with pytest.raises(PeerError):
        initiator.read(responder.write(b""))


def test_another_prologue_is_refused():
    initiator, responder = fresh((b"to you", b"to me"))
    responder, _ = responder.read(initiator.write(b""))

    with pytest.raises(PeerError):
        initiator.read(responder.write(b""))


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda p: p[:4].hex())
def test_d13_points_of_low_order_are_refused(point):
    responder, _ = fresh()[1].read(point)
    with pytest.raises(PeerError):
        responder.write(b"")


def test_messages_out_of_turn_are_refused():
    initiator, responder = fresh()
    with pytest.raises(PeerError):
        initiator.read(bytes(32))
    responder, _ = responder.read(initiator.write(b""))
    with pytest.raises(PeerError):
        responder.read(bytes(96))
    initiator, _ = initiator.read(responder.write(b""))
    responder, _ = responder.read(initiator.write(b""))
    assert initiator.is_complete and responder.is_complete
    with pytest.raises(PeerError):
        responder.read(bytes(64))


def test_private_keys_do_not_show():
    secret = bytes(range(32))
    assert secret.hex() not in repr(KeyPair(secret))
