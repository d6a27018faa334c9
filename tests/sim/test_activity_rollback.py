"""A requestor whose data directory is put back to an earlier state, on virtual time."""

import asyncio
import shutil
from pathlib import Path

import pytest
import structlog

from shem.kernel.errors import Conflict, ShemError, UsageError
from tests.sim.activity_town import RUN, THREE, Play, Town, replies

BATCH = "0123456789abcdef" * 2


def files(town: Town) -> list[Path]:
    return sorted(town.directory.glob(f"{town.requestor._path.name}*"))


async def back_up(town: Town) -> Path:
    await town.requestor.stop()
    copy = town.directory / "copy"
    copy.mkdir()
    for path in files(town):
        shutil.copy(path, copy / path.name)
    await town.requestor.start()
    return copy


async def put_back(town: Town, copy: Path) -> None:
    await town.requestor.stop()
    replace_files(town, copy)
    await town.requestor.start()


def replace_files(town: Town, copy: Path) -> None:
    for path in files(town):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy(path, town.directory / path.name)


def test_batches_that_are_not_in_the_backup_are_found_and_their_results_read(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        first = await town.exec(activity)
        copy = await back_up(town)
        second = await town.exec(activity, THREE)
        await town.results(activity, second)

        with structlog.testing.capture_logs() as told:
            await put_back(town, copy)
            listed = await town.batches(activity)

        assert set(listed) == {first, second}
        assert {row["state"] for row in listed.values()} == {"accepted"}
        assert len(await town.results(activity, second)) == 3
        [said] = [line for line in told if line["event"] == "batches.found"]
        assert (said["log_level"], said["batches"]) == ("warning", 1)

    play(story)


def test_a_batch_that_ran_after_the_backup_is_not_run_again(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        copy = await back_up(town)
        await town.exec(activity, RUN, batch_id=BATCH)
        await put_back(town, copy)

        assert await town.exec(activity, RUN, batch_id=BATCH) == BATCH
        with pytest.raises((UsageError, Conflict)):
            await town.exec(activity, THREE, batch_id=BATCH)

        assert town.agent.unit.ran == [f"{BATCH}:0"]
        assert len(await town.results(activity, BATCH)) == 1

    play(story)


def test_a_batch_without_an_answer_at_the_time_of_the_backup_is_known_again(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.requestor.net.drops = lambda _packet, _name: False
        town.provider.net.drops = replies("Exec", "GetExecBatchResults")
        with pytest.raises(ShemError):
            await town.exec(activity, RUN, batch_id=BATCH, timeout_s=1)
        copy = await back_up(town)
        town.provider.net.drops = lambda _packet, _name: False
        await put_back(town, copy)

        listed = await town.batches(activity)

        assert listed[BATCH]["state"] == "accepted"
        assert town.agent.unit.ran == [f"{BATCH}:0"]

    play(story)


def test_an_activity_that_has_ended_since_is_not_alive_again(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        copy = await back_up(town)
        await town.exec(activity)
        await town.requestor.service.destroy(town.requestor.caller, activity, 10)
        await put_back(town, copy)
        await asyncio.sleep(5)

        assert await town.state(activity) == ["Terminated", None]
        with pytest.raises(ShemError, match="has ended"):
            await town.exec(activity)
        assert len(town.agent.unit.ran) == 1

    play(story)


def test_a_node_that_knows_all_asks_once_and_says_nothing(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await town.exec(activity)
        with structlog.testing.capture_logs() as told:
            await town.requestor.restart()
            await asyncio.sleep(60)
            await town.provider.restart()
            await asyncio.sleep(60)
        assert town.agent.unit.calls.count("ListBatches") == 1
        assert "batches.found" not in [line["event"] for line in told]

    play(story)


def test_an_exeunit_that_does_not_tell_its_batches_holds_up_nobody(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        copy = await back_up(town)
        await town.exec(activity, RUN, batch_id=BATCH)
        town.provider.net.drops = replies("ListBatches", times=3)
        with structlog.testing.capture_logs() as told:
            await put_back(town, copy)
            await asyncio.sleep(10)
            assert "resync.done" in [line["event"] for line in told]
            await asyncio.sleep(120)
        assert town.provider.net.lost == ["ListBatches"] * 3
        assert (await town.batches(activity))[BATCH]["state"] == "accepted"

    play(story)
