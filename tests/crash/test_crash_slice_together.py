"""Agent, relay, both daemons, and everybody at once are killed at random moments, under load."""

from pathlib import Path

import pytest

from shem.devnet.daemons import Program
from tests.crash.slice_siege import siege

BOTH_ROUNDS = 10
AGENT_ROUNDS = 6
RELAY_ROUNDS = 5
ALL_ROUNDS = 3


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_any_of_them_and_all_of_them_killed_lose_and_double_nothing(short_dir: Path) -> None:
    async with siege(short_dir) as under:
        net = under.net
        daemons = (net.requestor.program, net.provider.program)
        rounds: list[tuple[Program, ...]] = [daemons] * BOTH_ROUNDS
        rounds += [(net.agent,)] * AGENT_ROUNDS
        rounds += [(net.relay,)] * RELAY_ROUNDS
        rounds += [(net.relay, *daemons, net.agent)] * ALL_ROUNDS
        under.rng.shuffle(rounds)

        for victims in rounds:
            await under.strike(*victims)
        await under.settle()

    under.require_unbroken(len(rounds))
