"""Every malformed input gives a typed error: the corpus, and some thousands of new inputs.

`FUZZ_RUNS` says how many per target; hours by hand: `make fuzz MINUTES=60`.
"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.kernel.world import SeededRng
from shem.net.secure.packets import Kind
from tests.fuzz.fuzzer import Crash, alter, corpus, fuzz, outcome
from tests.fuzz.targets import TARGETS, channels

RUNS = int(os.environ.get("FUZZ_RUNS", "3000"))
SEED = 20


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_answered_as_ever(name):
    for data in corpus(name):
        outcome(name, TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_altered_inputs_are_read_or_refused(name):
    for _ in fuzz(name, SEED, runs=RUNS):
        pass


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"streams", "snapshot"}))
def test_a_corpus_has_what_is_taken_and_what_is_refused(name):
    outcomes = {outcome(name, TARGETS[name], data) for data in corpus(name)}

    assert len(outcomes) >= 2


@given(st.sampled_from(list(TARGETS)), st.binary(max_size=64))
def test_anything_is_read_or_refused(name, data):
    outcome(name, TARGETS[name], data)


def test_a_crash_is_told_with_the_command_that_repeats_it():
    def target(data):
        raise IndexError("at 7")

    with pytest.raises(Crash, match=r"python -m tests\.fuzz --target gsb_packet --input 0102"):
        outcome("gsb_packet", target, b"\1\2")


def test_alterations_are_many():
    rng = SeededRng(1)

    assert len({alter(rng, [bytes(20), b"\1" * 20]) for _ in range(200)}) > 150


def test_what_one_side_seals_the_other_opens():
    one, two = channels()

    assert two.open(one.seal(Kind.UNRELIABLE, b"x")) == (Kind.UNRELIABLE, b"x")
