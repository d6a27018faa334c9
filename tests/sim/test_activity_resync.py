"""After an absence the node tells the present: lost creates are found, states are fresh."""

import asyncio

import pytest

from shem.activity.intents import load_unanswered
from shem.activity.records import Role, load_activity
from shem.kernel.errors import Conflict, ShemError, TimedOut, UsageError
from shem.kernel.ids import BatchId
from tests.sim.activity_town import AGREEMENT, PROVIDER, RUN, Play, Town, replies, requests

INTENT = "f" * 32


async def activities(town: Town) -> list[str]:
    return await town.requestor.service.activities_of(town.requestor.caller, AGREEMENT)


async def create(town: Town, intent_id: str | None = None, timeout_s: float = 10) -> str:
    service, caller = town.requestor.service, town.requestor.caller
    return await service.create(caller, AGREEMENT, intent_id=intent_id, timeout_s=timeout_s)


async def comes_back(town: Town) -> None:
    """The link breaks and is mended, and the nodes meet again."""
    town.requestor.net.drops = town.provider.net.drops = lambda _packet, _name: False
    town.cut()
    await asyncio.sleep(30)
    town.join()
    await asyncio.sleep(120)


def test_a_create_whose_answer_was_lost_is_found_in_the_background(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")
        with pytest.raises(TimedOut):
            await town.create(timeout_s=3)
        assert await activities(town) == []

        await comes_back(town)

        (found,) = await activities(town)
        assert list(town.agent.units) == [found]
        assert await town.create() == found, "the next create is told of it"
        assert await load_unanswered(town.requestor.store.fetch, PROVIDER) == []
        assert await town.create() != found, "and no later one"

    play(story)


def test_a_program_that_repeats_its_intent_gets_what_was_found(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")
        with pytest.raises(TimedOut):
            await create(town, INTENT, timeout_s=3)
        await comes_back(town)

        assert [await create(town, INTENT)] == await activities(town) == list(town.agent.units)

    play(story)


def test_a_create_that_never_arrived_is_ruled_out_for_ever(play: Play) -> None:
    async def story(town: Town) -> None:
        town.requestor.net.drops = requests("CreateActivity")
        with pytest.raises(TimedOut):
            await create(town, INTENT, timeout_s=3)
        await comes_back(town)

        assert await activities(town) == [] and not town.agent.units
        with pytest.raises(Conflict) as error:
            await create(town, INTENT)
        assert error.value.code == "create-never"
        late = {"agreementId": AGREEMENT, "timeout": 5, "intentId": INTENT}
        with pytest.raises(UsageError, match="never will"):
            await town.requestor.service._peers.ask(
                town.requestor.node_id, PROVIDER, "activity/CreateActivity", late, timeout_s=5
            )
        assert await town.create() in town.agent.units

    play(story)


def test_a_found_activity_that_has_ended_is_not_given_to_the_next_create(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")
        with pytest.raises(TimedOut):
            await town.create(timeout_s=3)
        unit = town.agent.unit
        unit.alive = False
        unit.unbind()
        await unit.report_state("Terminated", None, reason="gone")
        await comes_back(town)

        fresh = await town.create()
        assert fresh != unit.activity_id and fresh in town.agent.units

    play(story)


def test_a_restart_resolves_what_an_earlier_run_left(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")
        with pytest.raises(TimedOut):
            await create(town, INTENT, timeout_s=3)
        town.provider.net.drops = lambda _packet, _name: False
        await town.requestor.restart()
        await asyncio.sleep(60)

        assert await activities(town) == list(town.agent.units)

    play(story)


def test_a_create_and_its_resolution_at_once_make_one_activity(play: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity", times=3)
        with pytest.raises(TimedOut):
            await create(town, INTENT, timeout_s=3)
        creator = town.requestor.service._creator

        both = await asyncio.gather(
            creator.reconcile(PROVIDER), create(town, INTENT), create(town, INTENT)
        )

        assert both[1] == both[2] and list(town.agent.units) == [both[1]]

    play(story)


def test_a_legacy_provider_is_not_asked_about_intents(play_legacy: Play) -> None:
    async def story(town: Town) -> None:
        town.provider.net.drops = replies("CreateActivity")
        with pytest.raises(TimedOut, match="terminate agreement"):
            await create(town, INTENT, timeout_s=3)
        await comes_back(town)

        assert await activities(town) == []
        assert len(await load_unanswered(town.requestor.store.fetch, PROVIDER)) == 1

    play_legacy(story)


def test_a_stranger_may_not_rule_intents_out(play: Play) -> None:
    async def story(town: Town) -> None:
        body = {"agreementId": AGREEMENT, "intentId": INTENT}
        stranger = town.stranger
        with pytest.raises(ShemError, match="Forbidden"):
            await stranger.service._peers.ask(
                stranger.node_id, PROVIDER, "activity/ResolveIntent", body, timeout_s=5
            )
        assert await create(town, INTENT) in town.agent.units

    play(story)


def test_states_are_fresh_after_an_absence_without_being_asked_for(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.cut()
        await asyncio.sleep(5)
        await town.agent.unit.report_state("Terminated", None, reason="execution aborted")
        await asyncio.sleep(120)
        known = await load_activity(town.requestor.store.fetch, activity, Role.REQUESTOR)
        assert known is not None and not known.state.ended

        town.join()
        await asyncio.sleep(120)

        found = await load_activity(town.requestor.store.fetch, activity, Role.REQUESTOR)
        assert found is not None and found.state.ended
        assert found.state.reason == "execution aborted"
        assert found.usage == (1.0, 2.0), "the last usage is there as well"

    play(story)


def test_long_polls_do_not_keep_others_from_catching_up(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.activity.puller.CATCH_UPS_MAX", 1)

    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        running = [BatchId(f"{n:032x}") for n in range(5)]
        for batch in running:
            await town.exec(activity, batch_id=batch)
        last = await town.exec(activity, RUN)
        clock = town.world.clock
        started = clock.monotonic()
        town.agent.unit.finish(last)

        assert len(await town.results(activity, last, timeout_s=60)) == 1
        assert clock.monotonic() - started < 1

    play(story)
