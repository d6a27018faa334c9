"""The requestor's daemon is killed at random moments, again and again, under load."""

import os
from pathlib import Path

import pytest

from tests.crash.slice_siege import siege

ROUNDS = int(os.environ.get("SHEM_CRASH_ROUNDS", "25"))


@pytest.mark.long
@pytest.mark.timeout(200 + 16 * ROUNDS)
async def test_a_requestor_daemon_killed_at_any_moment_loses_and_doubles_nothing(
    short_dir: Path,
) -> None:
    async with siege(short_dir) as under:
        for _ in range(ROUNDS):
            await under.strike(under.net.requestor.program)
        await under.settle()

    under.require_unbroken(ROUNDS)
