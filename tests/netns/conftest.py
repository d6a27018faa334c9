"""Whole hosts on a network of their own, which needs root; without it these tests skip."""

import pytest

from tests.netns.internet import internet
from tests.netns.namespace import obstacle, sweep


@pytest.fixture(scope="package", autouse=True)
def namespaces():
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
    sweep()


@pytest.fixture
def net(namespaces):
    with internet() as made:
        yield made
