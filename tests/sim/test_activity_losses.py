"""What is lost with a yagna (docs/protocol/activity-exeunit.md §5.5) and is not lost here.

The whole list, with the tests of each line: docs/protocol/gap-17.md.
"""

from tests.sim.activity_town import THREE, Play, Town, replies


def test_a_lost_results_reply_costs_time_and_nothing_else(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.provider.net.drops = replies("GetExecBatchResults", times=2)
        batch = await town.exec(activity, THREE)

        found = await town.results(activity, batch, timeout_s=60)

        assert [entry["stdout"] for entry in found] == ["out0\n", "out1\n", "out2\n"]
        assert town.provider.net.lost == ["GetExecBatchResults"] * 2
        assert await town.results(activity, batch) == found

    play(story)


def test_an_exeunit_that_hangs_is_an_empty_poll_and_no_error(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        batch = await town.exec(activity, THREE)
        town.agent.unit.finish(batch)
        assert len(await town.results(activity, batch, timeout_s=5, index=0)) == 1
        town.provider.net.drops = replies("GetExecBatchResults")

        assert len(await town.results(activity, batch, timeout_s=20)) == 1

        town.provider.net.drops = lambda _packet, _name: False
        town.agent.unit.finish_all(batch)
        assert len(await town.results(activity, batch, timeout_s=60)) == 3

    play(story)


def test_a_lost_destroy_reply_is_asked_for_again_and_ends_one_activity_once(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.provider.net.drops = replies("DestroyActivity", times=2)

        await town.requestor.service.destroy(town.requestor.caller, activity, 30)

        assert await town.state(activity) == ["Terminated", None]
        assert await town.state(activity, town.provider) == ["Terminated", None]
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]

    play(story)
