"""Ten thousand lives of small nets: whatever happens, no promise is broken.

A failure names the command that tells the life: `make sim SEED=…`.
"""

import os
import subprocess
import sys
from hashlib import sha256

import pytest

from shem.wire.forward import UNRELIABLE
from tests.sim.campaign import failed_seeds, live, silence
from tests.sim.net_ledger import Unsafe
from tests.sim.net_life import SHAPES, Life

LIVES = 10_000
AT_ONCE = 100


@pytest.mark.parametrize("first", range(0, LIVES, AT_ONCE))
def test_no_promise_is_broken_in_bad_times_and_all_is_well_soon_after(first):
    with silence():
        for seed in range(first, first + AT_ONCE):
            live(seed)


@pytest.mark.parametrize("seed", failed_seeds())
def test_what_once_went_wrong_stays_right(seed):
    with silence():
        live(seed)


def test_lives_are_of_every_kind():
    kinds = {Life(seed).shape_name for seed in range(100)}

    assert kinds == set(SHAPES)


def fingerprint(seeds):
    """Return a hash of all datagrams of these lives."""
    seen = sha256()
    with silence():
        for seed in seeds:
            life = Life(seed)
            life.network.arriving = lambda data, *_: seen.update(data)
            life.live()
    return seen.hexdigest()


def test_a_seed_is_the_same_life_in_every_process():
    code = f"from {__name__} import fingerprint; print(fingerprint(range(40)))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }

    assert len(found) == 1


# --- the judge can say no


def test_forged_message_is_found_and_the_command_to_repeat_it_told(monkeypatch):
    def be_wicked(life):
        one, two = life.nodes[:2]
        one.core.connect(two.node_id, life.network.now)
        one.core.send(two.node_id, UNRELIABLE, b"\0\0\0\1x", life.network.now)
        one.pump()

    monkeypatch.setattr(Life, "_talk", be_wicked)
    monkeypatch.setattr("tests.sim.net_life.EVENTS", [(1, be_wicked)])

    with silence(), pytest.raises(AssertionError, match=r"make sim SEED=\d") as raised:
        for seed in range(5):
            live(seed)

    assert isinstance(raised.value.__cause__, Unsafe)


@pytest.mark.parametrize("how", ["lost", "doubled"])
def test_lost_and_doubled_messages_are_found(how, monkeypatch):
    def deliver(ear, sender, channel, message):
        for _ in range({"lost": 0, "doubled": 2}[how]):
            ear._ledger.arrived(sender, ear._node_id, channel, message)

    monkeypatch.setattr("tests.sim.net_ledger.Ear.message", deliver)

    with silence(), pytest.raises(AssertionError):
        for seed in range(5):
            live(seed)
