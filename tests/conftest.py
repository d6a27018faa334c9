"""What all suites share.

Hypothesis draws no conclusions from a slow machine. A devnet gets a short directory, because unix
socket paths are limited to about a hundred bytes. A run in the background of a shell inherits an
ignored SIGINT and would hand it on to every process; tests interrupt some of them.
"""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shem")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a new directory under /tmp; it is kept when the test fails, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="shem-e2e-", dir="/tmp"))
    failed_before = request.session.testsfailed
    yield path
    if request.session.testsfailed == failed_before:
        shutil.rmtree(path, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have long tests begin first, so that none runs alone at the end.

    A worker of xdist is given two tests ahead: behind each long one stands a short one.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    short = [item for item in items if not item.get_closest_marker("long")]
    pairs = zip_longest(long, short)
    items[:] = [item for pair in pairs for item in pair if item is not None]
