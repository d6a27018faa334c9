"""Keys and signatures against the recorded identity service and session handshakes."""

import hashlib
import json
from pathlib import Path

import pytest

from shem.identity.keys import PrivateKey, keccak256, node_id_of, recover, signer
from shem.kernel.errors import PeerError, UsageError
from shem.kernel.world import SeededRng

VECTORS = Path(__file__).parents[1] / "vectors"
SIGNING = json.loads((VECTORS / "identity_signing.json").read_text())
HANDSHAKE = json.loads((VECTORS / "net_handshake.json").read_text())
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = bytes(range(32))


@pytest.mark.parametrize("vector", SIGNING["keys"], ids=lambda v: v["node_id"])
def test_node_id_and_public_key_follow_from_the_private_key(vector: dict[str, str]) -> None:
    key = PrivateKey.from_hex(vector["private"])

    assert key.public_key.hex() == vector["public"]
    assert key.node_id == vector["node_id"]


@pytest.mark.parametrize("vector", SIGNING["signatures"])
def test_recorded_signatures_recover_and_are_made_again(vector: dict[str, object]) -> None:
    digest = bytes.fromhex(str(vector["digest"]))
    signature = bytes.fromhex(str(vector["signature"]))

    assert signer(digest, signature) == vector["node_id"]
    if vector.get("rfc6979_equal"):
        assert PrivateKey.from_hex(str(vector["private"])).sign(digest) == signature


def handshake_signatures() -> list[tuple[str, str, str]]:
    found = []
    for packet in HANDSHAKE["control_packets"]:
        response = packet["decoded"].get("request", {}).get("session", {}).get("challenge_resp")
        if response:
            found += [(response["solution"], s, packet["hex"]) for s in response["signatures"]]
    return found


def test_there_are_recorded_handshakes() -> None:
    assert handshake_signatures()


@pytest.mark.parametrize(("solution", "signature", "_packet"), handshake_signatures())
def test_handshake_signature_names_one_of_the_announced_identities(
    solution: str, signature: str, _packet: str
) -> None:
    announced = {
        identity["public_key"]
        for packet in HANDSHAKE["control_packets"]
        for side in ("request", "response")
        for identity in packet["decoded"].get(side, {}).get("session", {}).get("identities", [])
    }

    digest = hashlib.sha256(bytes.fromhex(solution)).digest()

    assert recover(digest, bytes.fromhex(signature)).hex() in announced


@pytest.mark.parametrize(
    "secret", ["00" * 32, f"{ORDER:064x}", "ff" * 32, "01" * 31, "zz" * 32, ""]
)
def test_unusable_private_keys_are_refused_without_being_repeated(secret: str) -> None:
    with pytest.raises(UsageError) as refusal:
        PrivateKey.from_hex(secret)

    assert not secret or secret not in str(refusal.value)


def test_only_a_32_byte_digest_is_signed() -> None:
    key = PrivateKey.from_hex("01" * 32)

    for digest in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(UsageError):
            key.sign(digest)


@pytest.mark.parametrize("recovery_id", [2, 3, 27, 28, 255])
def test_a_recovery_id_other_than_0_or_1_is_refused(recovery_id: int) -> None:
    signature = PrivateKey.from_hex("01" * 32).sign(DIGEST)

    with pytest.raises(PeerError, match="recovery id"):
        recover(DIGEST, bytes([recovery_id]) + signature[1:])


def test_the_malleable_twin_of_a_signature_is_refused() -> None:
    signature = PrivateKey.from_hex("01" * 32).sign(DIGEST)
    twin_s = ORDER - int.from_bytes(signature[33:], "big")
    twin = bytes([1 - signature[0]]) + signature[1:33] + twin_s.to_bytes(32, "big")

    with pytest.raises(PeerError, match="canonical"):
        recover(DIGEST, twin)


@pytest.mark.parametrize(
    "signature", [b"", b"\0" * 65, b"\0" * 64, b"\0" * 66, b"\1" + b"\0" * 32 + b"\1" * 32]
)
def test_malformed_signatures_are_the_peers_fault(signature: bytes) -> None:
    with pytest.raises(PeerError):
        recover(DIGEST, signature)


def test_a_signature_over_something_else_names_somebody_else() -> None:
    key = PrivateKey.from_hex("01" * 32)

    assert signer(keccak256(b"other"), key.sign(DIGEST)) != key.node_id


def test_a_public_key_of_a_wrong_size_has_no_node_id() -> None:
    with pytest.raises(PeerError):
        node_id_of(b"\x04" * 65)


def test_generated_keys_differ_and_never_show() -> None:
    rng = SeededRng(1)
    first, second = PrivateKey.generate(rng), PrivateKey.generate(rng)

    assert first.node_id != second.node_id
    assert first.secret_bytes().hex() not in repr(first)
    assert PrivateKey.from_bytes(first.secret_bytes()).node_id == first.node_id
