"""Two nodes with activities between them, for stories told on virtual time."""

from pathlib import Path

import pytest

from tests.sim.activity_town import Play, players


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return players(tmp_path, legacy=False)


@pytest.fixture
def play_legacy(tmp_path: Path) -> Play:
    """As `play`, and the provider's node knows yagna's messages alone."""
    return players(tmp_path, legacy=True)
