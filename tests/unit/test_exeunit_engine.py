"""The engine in one process, with the real runtime and a disk that can fail."""

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shem.activity.messages import ActivityEnding
from shem.devnet import payload
from shem.exeunit import engine as engine_module
from shem.exeunit import journal as journal_module
from shem.exeunit.core import State
from shem.exeunit.engine import Engine
from shem.exeunit.journal import Journal, decode_records
from shem.exeunit.performer import Performer
from shem.exeunit.runtimes.base import Limits
from shem.exeunit.runtimes.wasm import WasmRuntime
from shem.exeunit.script import Script, parse_script
from shem.kernel.errors import Conflict, NotFound, StorageFault, TimedOut
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World

ENDLESS = "centre 0 0\nwidth 0.1 0.1\nsize 1000 1000\niterations 10000000\n"


def script(*runs: tuple[str, ...], setup: bool = False) -> Script:
    before: list[dict[str, object]] = [{"deploy": {}}, {"start": {}}] if setup else []
    capture = {"stdout": {"atEnd": {}}}
    commands: list[dict[str, object]] = [
        {"run": {"entry_point": "mandel", "args": list(args), "capture": capture}} for args in runs
    ]
    return parse_script(before + commands)


async def no_files(*_: object) -> None:
    raise AssertionError("no script here moves files")


class Place:
    """A work directory and the engines that run in it, one after another."""

    def __init__(self, directory: Path) -> None:
        self.work_dir = directory / "work"
        self.work_dir.mkdir()
        self.package = payload.write_package(directory).path

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        world = World()
        scope = TaskScope()

        async def image(_: object) -> Path:
            return self.package

        runtime = WasmRuntime(self.work_dir, world.rng, Limits())
        engine = Engine(
            journal=Journal(self.work_dir / "journal"),
            performer=Performer(runtime, fetch_image=image, move_files=no_files, world=world),
            world=world,
            scope=scope,
        )
        await engine.open()
        async with scope:
            yield engine
            await engine.shut_down()

    def records(self) -> list[dict[str, object]]:
        return decode_records((self.work_dir / "journal").read_bytes())[0]

    def ledger(self) -> list[str]:
        return [
            line
            for path in self.work_dir.glob("vol-*/ledger.txt")
            for line in path.read_text().splitlines()
        ]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class FailingDisk:
    """A sync that fails a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures = 0
        self._fsync = os.fsync
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(journal_module.os, name, self)

    def __call__(self, handle: int) -> None:
        if self.failures > 0:
            self.failures -= 1
            if self.failures % 2 == 1:  # the write fails, taking it back works
                raise OSError(28, "No space left on device")
        self._fsync(handle)


class SlowDisk:
    """A sync that waits to be released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self._fsync = os.fsync
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(journal_module.os, name, self)

    def __call__(self, handle: int) -> None:
        self.reached.set()
        assert self.released.wait(10)
        self._fsync(handle)


async def test_repeats_that_come_together_are_accepted_once(place: Place) -> None:
    async with place.engine() as engine:
        await engine.exec("setup", script(setup=True))
        await engine.results("setup", timeout_s=10, command_index=None)

        await asyncio.gather(*(engine.exec("b", script(("note", "x"))) for _ in range(20)))

        [result] = await engine.results("b", timeout_s=10, command_index=None)
        assert result["result"] == "Ok"
    assert place.ledger() == ["x"]
    assert [r["batch"] for r in place.records() if r["kind"] == "accepted"] == ["setup", "b"]


async def test_an_exec_that_was_given_up_is_whole_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.engine() as engine:
        await engine.exec("setup", script(setup=True))
        await engine.results("setup", timeout_s=10, command_index=None)
        disk = SlowDisk(monkeypatch)

        giving_up = asyncio.create_task(engine.exec("b", script(("note", "x"))))
        await asyncio.to_thread(disk.reached.wait)
        giving_up.cancel()
        await asyncio.wait((giving_up,))
        disk.released.set()

        await engine.exec("b", script(("note", "x")))
        [result] = await engine.results("b", timeout_s=10, command_index=None)
        assert giving_up.cancelled()
        assert result["result"] == "Ok"
    assert place.ledger() == ["x"]
    assert [r["batch"] for r in place.records() if r["kind"] == "accepted"] == ["setup", "b"]


async def test_what_an_ending_process_does_not_begin_any_more_leaves_nothing_behind(
    place: Place,
) -> None:
    async with place.engine() as engine:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            giving_up = asyncio.create_task(engine.note_end(lambda: None))
            await asyncio.sleep(0)  # its work is about to begin
            await engine._scope.__aexit__(None, None, None)

            giving_up.cancel()
            await asyncio.wait((giving_up,))
            del giving_up
            gc.collect()
        assert [str(w.message) for w in found] == []


async def test_a_batch_that_cannot_be_written_down_is_refused_and_no_copy_of_it_runs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requestor was told; a copy of the Exec may still be on its way."""
    disk = FailingDisk(monkeypatch)
    async with place.engine() as engine:
        disk.failures = 4

        for _ in range(2):
            with pytest.raises(StorageFault):
                await engine.exec("setup", script(setup=True))
        assert disk.failures == 0
        with pytest.raises(NotFound):
            await engine.results("setup", timeout_s=0, command_index=None)

        for _ in range(2):
            with pytest.raises(Conflict, match="never accepted"):
                await engine.exec("setup", script(setup=True))
        assert not await engine.resolve("setup")
        await engine.exec("other", script(setup=True))
        results = await engine.results("other", timeout_s=10, command_index=None)
        assert [result["result"] for result in results] == ["Ok", "Ok"]
    assert [r["batch"] for r in place.records() if r["kind"] == "refused"] == ["setup"]


async def test_a_result_that_cannot_be_written_down_is_told_when_it_can(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "JOURNAL_RETRY_S", 0.01)
    disk = FailingDisk(monkeypatch)
    async with place.engine() as engine:
        await engine.exec("setup", script(("scene", "size 60 60\niterations 200\n"), setup=True))
        await engine.results("setup", timeout_s=10, command_index=None)
        await engine.exec("b", script(("zoom", "1", "1"), ("ledger",)))
        disk.failures = 6

        results = await engine.results("b", timeout_s=20, command_index=None)

        assert [result["result"] for result in results] == ["Ok", "Ok"]
        assert disk.failures == 0
    assert len(place.ledger()) == 2


async def test_results_with_an_index_wait_for_that_command_alone(place: Place) -> None:
    async with place.engine() as engine:
        await engine.exec("setup", script(("scene", ENDLESS), setup=True))
        await engine.results("setup", timeout_s=10, command_index=None)
        await engine.exec("b", script(("note", "x"), ("zoom", "1", "1")))

        [first] = await engine.results("b", timeout_s=10, command_index=0)

        assert first["isBatchFinished"] is False
        with pytest.raises(TimedOut):
            await engine.results("b", timeout_s=0.01, command_index=1)
        assert len(await engine.results("b", timeout_s=0.01, command_index=None)) == 1


async def test_only_the_result_asked_for_carries_output(place: Place) -> None:
    async with place.engine() as engine:
        await engine.exec("b", script(("render", "4", "2"), ("render", "4", "2"), setup=True))
        await engine.results("b", timeout_s=10, command_index=None)

        results = await engine.results("b", timeout_s=0, command_index=3)

        assert [result["stdout"] is not None for result in results] == [False] * 3 + [True]


async def test_a_failed_batch_is_answered_at_once(place: Place) -> None:
    async with place.engine() as engine:
        await engine.exec("b", script(("bogus",), ("note", "never"), setup=True))

        async with asyncio.timeout(10):
            results = await engine.results("b", timeout_s=3_600, command_index=None)

        assert [result["isBatchFinished"] for result in results] == [False, False, True]


async def test_an_empty_script_has_no_results_and_needs_no_wait(place: Place) -> None:
    async with place.engine() as engine:
        await engine.exec("b", script())

        async with asyncio.timeout(10):
            assert await engine.results("b", timeout_s=3_600, command_index=None) == []


async def test_shutting_down_stops_what_runs_and_accepts_nothing_more(place: Place) -> None:
    async with place.engine() as engine:
        await engine.exec("setup", script(("scene", ENDLESS), setup=True))
        await engine.results("setup", timeout_s=10, command_index=None)
        await engine.exec("b", script(("zoom", "1", "1"), ("note", "never")))
        while engine.running() is None:
            await engine.changed.wait()

        await engine.shut_down()

        [stopped] = await engine.results("b", timeout_s=0, command_index=None)
        assert stopped["message"] is not None
        assert engine.states == (State.TERMINATED, None)
        with pytest.raises(ActivityEnding):
            await engine.exec("late", script())
        await engine.exec("b", script(("zoom", "1", "1"), ("note", "never")))  # accepted it stays
    assert "never" not in place.ledger()


async def test_a_new_engine_has_the_same_results_and_goes_on(place: Place) -> None:
    async with place.engine() as first:
        await first.exec("b", script(("render", "4", "2"), setup=True))
        told = await first.results("b", timeout_s=10, command_index=None)
        journal = (place.work_dir / "journal").read_bytes()
    (place.work_dir / "journal").write_bytes(journal)

    async with place.engine() as second:
        assert await second.results("b", timeout_s=0, command_index=None) == told
        assert second.states == (State.READY, None)
        await second.exec("c", script(("note", "on")))
        [result] = await second.results("c", timeout_s=10, command_index=None)
        assert result["result"] == "Ok"
        story = [event["kind"] async for event in second.events("b")]
        assert "finished" in story[-1]  # type: ignore[operator]


async def test_an_interrupted_batch_is_taken_up_when_there_is_room_to_note_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ExeUnit that gave up here would be started again and again, until its agent does too."""
    async with place.engine() as first:
        await first.exec("b", script(("scene", ENDLESS), ("zoom", "1", "1"), setup=True))
        while first.running() is None:
            await first.changed.wait()
        journal = (place.work_dir / "journal").read_bytes()
    (place.work_dir / "journal").write_bytes(journal)
    monkeypatch.setattr(engine_module, "JOURNAL_RETRY_S", 0.01)
    disk = FailingDisk(monkeypatch)
    disk.failures = 7  # the first is that of the directory

    async with place.engine() as second:
        assert disk.failures == 0
        results = await second.results("b", timeout_s=0, command_index=None)
        assert "interrupted" in str(results[-1]["message"])


async def test_an_end_is_noted_when_there_is_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "JOURNAL_RETRY_S", 0.01)
    disk = FailingDisk(monkeypatch)
    async with place.engine() as engine:
        disk.failures = 6

        assert await engine.note_end(lambda: {"kind": "usage", "values": {}})

        assert disk.failures == 0


async def test_a_deployment_that_is_gone_is_deployed_again(place: Place) -> None:
    async with place.engine() as first:
        await first.exec("b", script(setup=True))
        await first.results("b", timeout_s=10, command_index=None)
        journal = (place.work_dir / "journal").read_bytes()
    (place.work_dir / "journal").write_bytes(journal)
    (place.work_dir / "deployment.json").unlink()

    async with place.engine() as second:
        assert second.states == (State.INITIALIZED, None)
        await second.exec("c", script(("note", "on"), setup=True))
        assert len(await second.results("c", timeout_s=10, command_index=None)) == 3
