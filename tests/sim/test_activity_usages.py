"""Usage reports: seen at once, written together, and on disk when the activity has ended."""

import asyncio
from typing import Any

from shem.activity.records import Role, load_activity, provided_topic
from shem.activity.usages import WRITE_PERIOD_S
from tests.sim.activity_town import Play, Town


async def seen(town: Town, activity: str) -> Any:
    usage = await town.provider.service.usage(town.provider.caller, activity, 5)
    return usage["currentUsage"]


async def written(town: Town, activity: str) -> tuple[float, ...] | None:
    found = await load_activity(town.provider.service.store.fetch, activity, Role.PROVIDER)
    assert found is not None
    return found.usage


def test_reports_of_a_second_are_seen_at_once_and_written_together(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        await unit.report_usage(0.0)
        unit.alive = False  # nobody else reports
        await asyncio.sleep(2 * WRITE_PERIOD_S)
        topics = town.provider.service.store.topics
        topic = provided_topic(str(town.provider.node_id))
        before = topics.version(topic)

        for number in range(50):
            await unit.report_usage(float(number))
            assert await seen(town, activity) == [float(number)]
        await asyncio.sleep(2 * WRITE_PERIOD_S)

        assert await written(town, activity) == (49.0,)
        assert topics.version(topic) - before <= 2

    play(story)


def test_the_last_usage_is_committed_with_the_end(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        await unit.report_usage(1.0)
        unit.alive = False
        await unit.report_usage(7.0)

        await unit.report_state("Terminated", None)

        assert await written(town, activity) == (7.0,)
        await asyncio.sleep(2 * WRITE_PERIOD_S)
        assert await written(town, activity) == (7.0,)

    play(story)


def test_a_report_after_the_end_changes_no_state(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.alive = False
        await unit.report_state("Terminated", None)

        for _ in range(3):
            await unit.report_usage(9.0)
            await asyncio.sleep(WRITE_PERIOD_S)

        assert await town.state(activity) == ["Terminated", None]

    play(story)


def test_silent_again_and_again_it_comes_back_each_time(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.alive = False
        for number in range(3):
            await asyncio.sleep(7)
            assert await town.state(activity) == ["Unresponsive", None]
            await unit.report_usage(float(number))
            assert await town.state(activity) == ["Initialized", None]
            await unit.report_usage(number + 0.5)
            assert await seen(town, activity) == [number + 0.5]

    play(story)
