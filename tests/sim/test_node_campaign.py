"""Whole nodes through storms: crashes at any await and commit, pauses, cuts, bad weather and disks.

Each test is a short campaign in a process of its own, with fixed hashes: what fails here fails
again with the command that is printed (`make sim PROFILE=node SEED=…`).
"""

import os
import subprocess
import sys

import pytest

from tests.sim.node_campaign import failed_seeds
from tests.sim.node_squalls import KINDS, drawn_kinds

LIVES = 60
AT_ONCE = 10


def lived(first: int, count: int, salt: str = "0") -> subprocess.CompletedProcess[str]:
    options = ["--first", str(first), "--seeds", str(count)]
    command = [sys.executable, "-m", "tests.sim.node_campaign", *options]
    env = {**os.environ, "PYTHONHASHSEED": salt}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, LIVES, AT_ONCE))
def test_after_a_storm_everything_ends_well_and_the_books_agree(first: int) -> None:
    done = lived(first, AT_ONCE)

    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", failed_seeds())
def test_a_life_that_once_went_wrong_stays_right(seed: int) -> None:
    done = lived(seed, 1)

    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]


def test_every_rare_misfortune_happens_in_some_lives_and_none_in_most() -> None:
    drawn = [drawn_kinds(seed) for seed in range(LIVES)]

    assert {kind for kinds in drawn for kind in kinds} == set(KINDS)
    assert sum(not kinds for kinds in drawn) > LIVES / 2
