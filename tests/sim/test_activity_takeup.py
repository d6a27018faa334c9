"""A new machine that holds only the requestor's key takes its activity up (GAP-17, 1.4)."""

from typing import Any

import pytest

from shem.activity.messages import EndpointGone
from shem.activity.records import UnknownActivity
from shem.kernel.errors import Conflict, NotFound, ShemError, Unreachable
from shem.kernel.ids import AgreementId, BatchId
from tests.sim.activity_town import AGREEMENT, PROVIDER, RUN, STRANGER, THREE, Node, Play, Town

BATCHES = [BatchId(f"{number:032x}") for number in range(5)]


async def take_up(town: Town, activity: str, node: Node | None = None, **other: Any) -> None:
    asked = node or town.requestor
    names = {"agreement_id": AgreementId(AGREEMENT), "provider": PROVIDER, **other}
    await asked.service.take_up(asked.caller, activity, **names)


def test_everything_is_there_again(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        for batch in BATCHES:
            await town.exec(activity, THREE, batch_id=batch)
            await town.results(activity, batch)
        before = {
            name: {**row, "createdDate": ""} for name, row in (await town.batches(activity)).items()
        }
        await town.requestor.restart_empty()
        with pytest.raises(UnknownActivity):
            await town.state(activity)

        await take_up(town, activity)

        assert await town.state(activity) == ["Initialized", None]
        for batch in BATCHES:
            assert len(await town.results(activity, batch)) == 3
        after = await town.batches(activity)
        assert list(after) == BATCHES
        assert {name: {**row, "createdDate": ""} for name, row in after.items()} == before

    play(story)


def test_work_goes_on_and_nothing_runs_twice(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.auto = False
        await town.exec(activity, THREE, batch_id=BATCHES[0])
        town.agent.unit.finish(BATCHES[0])
        await town.requestor.restart_empty()

        await take_up(town, activity)
        await take_up(town, activity)
        town.agent.unit.finish_all(BATCHES[0])

        assert len(await town.results(activity, BATCHES[0])) == 3
        await town.exec(activity, THREE, batch_id=BATCHES[0])
        town.agent.unit.auto = True
        await town.exec(activity, RUN, batch_id=BATCHES[1])
        assert len(town.agent.unit.ran) == len(set(town.agent.unit.ran)) == 4
        await town.destroy(activity)
        assert await town.state(activity, town.provider) == ["Terminated", None]

    play(story)


def test_a_legacy_exeunit_tells_of_no_batches_but_gives_their_results(play_legacy: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        batch = await town.exec(activity, THREE)
        await town.requestor.restart_empty()

        await take_up(town, activity)

        assert await town.batches(activity) == {}
        assert len(await town.results(activity, batch)) == 3

    play_legacy(story)


def test_one_that_has_ended_is_taken_up_as_ended(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await town.destroy(activity)
        await town.requestor.restart_empty()

        await take_up(town, activity)

        assert await town.state(activity) == ["Terminated", None]
        with pytest.raises(EndpointGone):
            await town.exec(activity)

    play(story)


def test_while_the_provider_is_away_it_is_refused_and_can_be_repeated(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await town.requestor.restart_empty()
        town.cut()
        with pytest.raises(Unreachable):
            await take_up(town, activity)
        with pytest.raises(UnknownActivity):
            await town.state(activity)

        town.join()
        await take_up(town, activity)

        assert await town.state(activity) == ["Initialized", None]

    play(story)


def test_what_the_provider_does_not_know_is_not_taken_up(play: Play) -> None:
    async def story(town: Town) -> None:
        await town.create()
        await town.requestor.restart_empty()
        with pytest.raises(ShemError, match="ot found"):
            await take_up(town, "f" * 32)
        with pytest.raises(UnknownActivity):
            await town.state("f" * 32)

    play(story)


def test_a_stranger_takes_nothing_up(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.stranger.market.rows = dict(town.requestor.market.rows)
        with pytest.raises(NotFound):
            await take_up(town, activity, town.stranger)
        with pytest.raises(NotFound):
            await take_up(town, activity, provider=STRANGER)
        with pytest.raises(UnknownActivity):
            await town.state(activity, town.stranger)

    play(story)


def test_an_activity_of_another_agreement_is_not_mixed_up(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        other = AgreementId("cd" * 32)
        rows = town.requestor.market.rows
        rows |= {(other, role): row for (_, role), row in list(rows.items())}
        with pytest.raises(Conflict):
            await take_up(town, activity, agreement_id=other)

    play(story)


NONSENSE: dict[str, object] = {
    "no map": "no",
    "no list": {"batches": 7, "total": 1},
    "no total": {"batches": [], "total": "x"},
    "no batch": {"batches": ["x"], "total": 1},
    "no id": {"batches": [{"batchId": "..", "script": [], "acceptedNs": 1}], "total": 1},
    "no script": {"batches": [{"batchId": "a" * 32, "script": 5, "acceptedNs": 1}], "total": 1},
    "too long": {
        "batches": [{"batchId": "a" * 32, "script": [{"run": {}}] * 5000, "acceptedNs": 1}],
        "total": 1,
    },
    "an endless list": {"batches": [], "total": 1 << 60},
}


@pytest.mark.parametrize("lie", NONSENSE)
def test_what_an_exeunit_says_of_its_batches_is_checked(
    play: Play, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.unbind()

        async def say(_call: object, _body: object) -> object:
            return NONSENSE[lie]

        monkeypatch.setattr(unit, "_list", say)
        unit.bind()
        await town.requestor.restart_empty()

        await take_up(town, activity)

        assert await town.batches(activity) == {}
        assert await town.state(activity) == ["Initialized", None]

    play(story)
