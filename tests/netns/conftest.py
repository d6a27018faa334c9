"""Whole hosts on a network of their own, which needs root; without it these tests skip."""

import pytest

from shem.devnet.internet import internet
from shem.devnet.namespace import obstacle, sweep
from shem.kernel.world import SeededRng, World


@pytest.fixture(scope="package", autouse=True)
def namespaces():
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
    sweep()


@pytest.fixture
def net(namespaces):
    with internet(World(rng=SeededRng(1))) as made:
        yield made
