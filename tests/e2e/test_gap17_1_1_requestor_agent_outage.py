"""GAP-17 scenario 1.1 with real processes: the requestor's agent dies, the daemon stays."""

from pathlib import Path

from shem.devnet.compose import Devnet
from shem.devnet.processes import left_behind
from shem.devnet.story import Story


async def test_a_killed_program_is_replaced_by_one_that_knows_only_the_activity_id(
    short_dir: Path,
) -> None:
    async with Devnet(short_dir) as net:
        story = Story(net)

        await story.agent_outage()

    broken = [check for check in story.checks if not check.kept]
    assert broken == []
    assert len(story.checks) >= 8
    assert left_behind(net.mark, net.directory) == []
