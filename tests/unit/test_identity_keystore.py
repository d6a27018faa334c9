"""Keystores as the network's nodes write and accept them."""

import json
from pathlib import Path
from typing import Any

import pytest

from shem.identity.keys import PrivateKey
from shem.identity.keystore import WrongPassword, open_keystore, seal
from shem.kernel.errors import UsageError
from shem.kernel.world import SeededRng

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "identity_signing.json").read_text())
KEY = PrivateKey.from_hex("01" * 32)


@pytest.mark.parametrize("vector", VECTORS["keystores"], ids=lambda v: v["what"])
def test_recorded_keystores_open(vector: dict[str, Any]) -> None:
    key = open_keystore(json.dumps(vector["keystore"]), vector["password"])

    assert key.secret_bytes().hex() == vector["private"]
    assert key.node_id == vector["node_id"]


@pytest.mark.parametrize("vector", VECTORS["keystores_invalid"], ids=lambda v: v["what"])
def test_recorded_bad_keystores_stay_shut(vector: dict[str, Any]) -> None:
    with pytest.raises(WrongPassword):
        open_keystore(json.dumps(vector["keystore"]), vector["password"])


@pytest.mark.parametrize("password", ["", "s3cret", "пароль"])
def test_a_sealed_key_opens_with_its_password_alone(password: str) -> None:
    text = seal(KEY, password, SeededRng(1))

    assert open_keystore(text, password).node_id == KEY.node_id
    assert KEY.secret_bytes().hex() not in text
    with pytest.raises(WrongPassword):
        open_keystore(text, password + "x")


def test_a_sealed_key_has_the_shape_of_the_networks_keystores() -> None:
    recorded = next(v for v in VECTORS["keystores"] if v["what"] == "exported by the daemon")

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {name: shape(item) for name, item in value.items()}
        return len(value) if isinstance(value, str) else value

    document = json.loads(seal(KEY, "", SeededRng(1)))
    assert shape(document) == shape(recorded["keystore"])
    assert list(document) == list(recorded["keystore"])


def changed(**changes: object) -> str:
    """Return a keystore with values replaced, named by their path with `__`."""
    document = json.loads(seal(KEY, "", SeededRng(1)))
    for path, value in changes.items():
        *way, last = path.split("__")
        place = document
        for name in way:
            place = place[name]
        place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"version": 3}',
        "{" * 1000,
        "x" * 20_000,
        changed(version=1),
        changed(version="3"),
        changed(crypto=None),
        changed(crypto__cipher="aes-256-gcm"),
        changed(crypto__ciphertext="zz"),
        changed(crypto__ciphertext=7),
        changed(crypto__kdf="argon2"),
        changed(crypto__kdfparams={}),
        changed(crypto__kdfparams__prf="hmac-md5"),
        changed(crypto__kdfparams__dklen=16),
        changed(crypto__kdfparams__c=0),
        changed(crypto__kdfparams__c=10**12),
        changed(crypto__kdfparams__c="many"),
        changed(crypto__cipherparams__iv="00"),
        changed(
            crypto__kdf="scrypt",
            crypto__kdfparams={"n": 2**30, "r": 8, "p": 1, "dklen": 32, "salt": "00"},
        ),
        changed(
            crypto__kdf="scrypt",
            crypto__kdfparams={"n": 3, "r": 8, "p": 1, "dklen": 32, "salt": "00"},
        ),
    ],
)
def test_what_is_no_keystore_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        open_keystore(text, "")

    assert not isinstance(refusal.value, WrongPassword)


def test_an_address_that_is_not_the_keys_is_refused() -> None:
    with pytest.raises(UsageError, match="address"):
        open_keystore(changed(address="00" * 20), "")


@pytest.mark.parametrize("address", ["0x" + KEY.node_id[2:].upper(), KEY.node_id])
def test_an_address_may_have_any_case_and_a_prefix(address: str) -> None:
    assert open_keystore(changed(address=address), "").node_id == KEY.node_id
