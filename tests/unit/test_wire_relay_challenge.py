"""Solving, verifying and signing challenges (docs/protocol/net.md §3, §11.3)."""

import json
from pathlib import Path

import pytest

from shem.identity.keys import PrivateKey
from shem.identity.proof import SIGNATURES_MAX, prove, sign_solution
from shem.kernel.errors import PeerError
from shem.wire.challenge import DIFFICULTY_MAX, Solver, digest_to_sign, is_solution

VECTORS = json.loads(Path("tests/vectors/net_handshake.json").read_text())
COMPUTED = VECTORS["challenges_computed"]


def test_solver_finds_the_first_counter_in_slices():
    for entry in COMPUTED:
        solver = Solver(bytes.fromhex(entry["challenge"]), entry["difficulty"])
        steps = 1
        while (solution := solver.step(1000)) is None:
            steps += 1
        assert solution.hex() == entry["solution"]
        assert steps == entry["counter"] // 1000 + 1


def test_signature_over_the_solution_is_that_of_the_vector():
    for entry in COMPUTED:
        solution = bytes.fromhex(entry["solution"])
        key = PrivateKey.from_hex(entry["private"])
        assert digest_to_sign(solution).hex() == entry["sha256"]
        assert [s.hex() for s in sign_solution(solution, [key])] == [entry["signature"]]


def test_identities_of_observed_answers_are_recovered_in_order():
    for entry in VECTORS["challenges_observed"]:
        proven = prove(
            bytes.fromhex(entry["challenge"]),
            entry["difficulty"],
            bytes.fromhex(entry["solution"]),
            [bytes.fromhex(s) for s in entry["signatures"]],
        )
        assert [p.node_id for p in proven] == entry["node_ids"]
        assert [p.public_key.hex() for p in proven] == entry["public_keys"]


@pytest.mark.parametrize("entry", VECTORS["challenges_invalid"], ids=lambda e: e["what"])
def test_invalid_solution_is_refused(entry):
    challenge, solution = bytes.fromhex(entry["challenge"]), bytes.fromhex(entry["solution"])

    assert not is_solution(solution, challenge, entry["difficulty"])
    with pytest.raises(PeerError):
        prove(challenge, entry["difficulty"], solution, [bytes(65)])


@pytest.mark.parametrize(
    "signatures",
    [[], [bytes(65)], [b"\x01" * 64], [bytes(65)] * (SIGNATURES_MAX + 1)],
    ids=["none", "zeros", "short", "too many"],
)
def test_solution_without_usable_signatures_proves_nobody(signatures):
    entry = COMPUTED[0]

    with pytest.raises(PeerError):
        prove(
            bytes.fromhex(entry["challenge"]),
            entry["difficulty"],
            bytes.fromhex(entry["solution"]),
            signatures,
        )


def test_repeated_signature_counts_once():
    entry = COMPUTED[0]
    signature = bytes.fromhex(entry["signature"])

    proven = prove(
        bytes.fromhex(entry["challenge"]),
        entry["difficulty"],
        bytes.fromhex(entry["solution"]),
        [signature, signature],
    )

    assert len(proven) == 1


def test_absurd_difficulty_is_refused_at_once():
    with pytest.raises(PeerError):
        Solver(bytes(16), DIFFICULTY_MAX + 1)
