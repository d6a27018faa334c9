"""What all suites share.

Hypothesis draws no conclusions from a slow machine. A devnet gets a short directory, because unix
socket paths are limited to about a hundred bytes.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shem")


@pytest.fixture
def short_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a new directory under /tmp; it is kept when the test fails, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="shem-e2e-", dir="/tmp"))
    failed_before = request.session.testsfailed
    yield path
    if request.session.testsfailed == failed_before:
        shutil.rmtree(path, ignore_errors=True)
