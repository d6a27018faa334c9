"""A short directory for each devnet: unix socket paths are limited to about a hundred bytes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a new directory under /tmp; it is kept when the test fails, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="shem-crash-", dir="/tmp"))
    failed_before = request.session.testsfailed
    yield path
    if request.session.testsfailed == failed_before:
        shutil.rmtree(path, ignore_errors=True)
