"""Keystores: a private key as Ethereum's version 3 JSON (docs/protocol/gsb-identity.md §3.3).

Pure. Written with PBKDF2 as the network's nodes write them; read with PBKDF2 or scrypt. A keystore
is outside input: cost parameters are limited, and the `address` it claims must be its key's.
"""

import hashlib
import hmac
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shem.identity.keys import PrivateKey, keccak256
from shem.kernel.errors import UsageError
from shem.kernel.ids import NodeId, parse_node_id
from shem.kernel.world import Rng

PBKDF2_ROUNDS: Final = 10_240
PBKDF2_ROUNDS_MAX: Final = 1_000_000
SCRYPT_MEMORY_MAX: Final = 256 << 20
KEYSTORE_SIZE_MAX: Final = 16 << 10
DERIVED_SIZE: Final = 32


class BadKeystore(UsageError):
    """The text is no keystore, or none that can be read."""

    code = "bad-keystore"


class WrongPassword(UsageError):
    """The password does not open the keystore."""

    code = "wrong-password"

    def __init__(self) -> None:
        super().__init__("the password does not open this keystore")


def seal(key: PrivateKey, password: str, rng: Rng) -> str:
    """Return the keystore of `key` as compact JSON."""
    salt, iv = rng.token(32), rng.token(16)
    derived = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, PBKDF2_ROUNDS, DERIVED_SIZE)
    ciphertext = _aes_ctr(derived[:16], iv, key.secret_bytes())
    document = {
        "id": str(uuid.UUID(bytes=rng.token(16), version=4)),
        "version": 3,
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": PBKDF2_ROUNDS,
                "dklen": DERIVED_SIZE,
                "prf": "hmac-sha256",
                "salt": salt.hex(),
            },
            "mac": keccak256(derived[16:32] + ciphertext).hex(),
        },
        "address": key.node_id.removeprefix("0x"),
    }
    return msgspec.json.encode(document).decode()


def open_keystore(text: str, password: str) -> PrivateKey:
    """Return the key; BadKeystore for what is none, WrongPassword when it stays shut."""
    if len(text) > KEYSTORE_SIZE_MAX:
        raise BadKeystore(f"a keystore has at most {KEYSTORE_SIZE_MAX} characters")
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
        crypto = document.get("crypto") or document["Crypto"]
        if document["version"] != 3 or crypto["cipher"] != "aes-128-ctr":
            raise BadKeystore("only keystores of version 3 with aes-128-ctr can be read")
        ciphertext = bytes.fromhex(crypto["ciphertext"])
        iv = bytes.fromhex(crypto["cipherparams"]["iv"])
        mac = bytes.fromhex(crypto["mac"])
        derived = _derive(crypto["kdf"], crypto["kdfparams"], password)
        claimed = str(document.get("address", "")).lower().removeprefix("0x")
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError) as error:
        raise BadKeystore(f"this is not a keystore: {type(error).__name__}") from error
    if not hmac.compare_digest(keccak256(derived[16:32] + ciphertext), mac):
        raise WrongPassword
    if len(iv) != 16:
        raise BadKeystore("this is not a keystore: the iv has 16 bytes")
    key = PrivateKey.from_bytes(_aes_ctr(derived[:16], iv, ciphertext))
    if claimed and claimed != key.node_id.removeprefix("0x"):
        raise BadKeystore("the keystore's address is not that of its key")
    return key


def address_of(text: str) -> NodeId:
    """Return the node id that a keystore claims, which only its password can prove."""
    try:
        claimed = str(msgspec.json.decode(text, type=dict[str, Any])["address"])
        return parse_node_id("0x" + claimed.lower().removeprefix("0x"))
    except (KeyError, msgspec.MsgspecError, UsageError) as error:
        raise BadKeystore("a keystore with a password must state its address") from error


def for_people(text: str) -> str:
    """Return a stored keystore as it is exported: indented."""
    return msgspec.json.format(text, indent=2)


def _derive(kdf: str, params: Mapping[str, Any], password: str) -> bytes:
    """Stretch the password; ValueError for parameters out of bounds."""
    salt = bytes.fromhex(params["salt"])
    if params["dklen"] != DERIVED_SIZE:
        raise ValueError("dklen")
    if kdf == "pbkdf2":
        rounds = params["c"]
        if params["prf"] != "hmac-sha256" or not 1 <= rounds <= PBKDF2_ROUNDS_MAX:
            raise ValueError("pbkdf2")
        return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds, DERIVED_SIZE)
    if kdf == "scrypt":
        n, r, p = params["n"], params["r"], params["p"]
        if min(n, r, p) < 1 or 128 * n * r * p > SCRYPT_MEMORY_MAX:
            raise ValueError("scrypt")
        return hashlib.scrypt(
            password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * SCRYPT_MEMORY_MAX, dklen=32
        )
    raise ValueError("kdf")


def _aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt, which is the same."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()
