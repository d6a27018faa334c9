"""ExeUnit processes: found again by pid and start time, never confused with another."""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from shem.kernel.world import SystemClock, World
from shem.provider.exeunits import LOG_NAME, ExeUnitProcess, adopt, end_process, start_process

OBEDIENT = "import time; print('up', flush=True)\nwhile True: time.sleep(1)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + OBEDIENT


async def start(tmp_path: Path, code: str, *args: str) -> ExeUnitProcess:
    """Start a process in a directory of its own, whose log says when it is up."""
    command = [sys.executable, "-c", code, *args]
    process = await start_process(command, work_dir=tmp_path, gsb_url="unix:/x", world=World())
    async with asyncio.timeout(10):
        while "up" not in (tmp_path / LOG_NAME).read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return process


async def test_a_process_is_adopted_by_pid_and_start_time(tmp_path: Path) -> None:
    process = await start(tmp_path, OBEDIENT)

    adopted = adopt(process.pid, process.started, "any")

    assert adopted is not None
    assert adopted.is_alive()
    await end_process(adopted, World(), patience_s=5)
    assert adopt(process.pid, process.started, "any") is None


async def test_another_process_with_the_same_pid_is_not_adopted(tmp_path: Path) -> None:
    process = await start(tmp_path, OBEDIENT)

    assert adopt(process.pid, process.started - 60, "any") is None

    await end_process(process, World(), patience_s=5)


async def test_a_process_that_was_not_written_down_is_found_by_its_command_line(
    tmp_path: Path,
) -> None:
    process = await start(tmp_path, OBEDIENT, "service-bus", "activity-4711")

    found = adopt(None, None, "activity-4711")

    assert found is not None
    assert found.pid == process.pid
    assert adopt(None, None, "activity-4712") is None
    await end_process(process, World(), patience_s=5)


async def test_one_started_in_the_place_of_one_that_was_written_down_is_found(
    tmp_path: Path,
) -> None:
    first = await start(tmp_path / "first", OBEDIENT, "service-bus", "activity-4713")
    await end_process(first, World(), patience_s=5)
    second = await start(tmp_path / "second", OBEDIENT, "service-bus", "activity-4713")

    found = adopt(first.pid, first.started, "activity-4713")

    assert found is not None
    assert found.pid == second.pid
    await end_process(second, World(), patience_s=5)


async def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    process = await start(tmp_path, STUBBORN)

    await end_process(process, World(), patience_s=0.1)

    assert not process.is_alive()
    assert await process.wait(World()) == -signal.SIGKILL


async def test_ending_what_has_ended_does_nothing(tmp_path: Path) -> None:
    process = await start(tmp_path, OBEDIENT)
    await end_process(process, World(), patience_s=5)

    await end_process(process, World(), patience_s=5)
    await end_process(ExeUnitProcess(process.pid, process.started), World(), patience_s=5)


class Restless(SystemClock):
    """A clock that allows nobody to look again and again."""

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"looks every {seconds} s")


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def adopted(process: ExeUnitProcess) -> ExeUnitProcess:
    """Return the process as another agent would have it, which is not its parent."""
    return ExeUnitProcess(process.pid, process.started)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_end_of_an_adopted_process_is_told_by_the_system(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def live() -> None:
        process = await start(tmp_path, OBEDIENT)
        waiting = asyncio.ensure_future(adopted(process).wait(World(clock=Restless())))
        await asyncio.sleep(0)
        assert not waiting.done()
        process.send(signal.SIGKILL)
        async with asyncio.timeout(5):
            assert await waiting is None

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(live())


async def test_whoever_waits_no_more_leaves_no_descriptor(tmp_path: Path) -> None:
    process = await start(tmp_path, OBEDIENT)
    before = descriptors()
    waiting = [asyncio.ensure_future(adopted(process).wait(World())) for _ in range(20)]
    await asyncio.sleep(0)
    assert descriptors() == before + 20
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert descriptors() == before
    await end_process(process, World(), patience_s=5)


async def test_another_process_of_the_same_pid_is_not_waited_for(tmp_path: Path) -> None:
    process = await start(tmp_path, OBEDIENT)
    other = ExeUnitProcess(process.pid, process.started - 60)
    async with asyncio.timeout(5):
        assert await other.wait(World(clock=Restless())) is None
    await end_process(process, World(), patience_s=5)


async def test_without_a_free_descriptor_the_end_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_free(_pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    process = await start(tmp_path, OBEDIENT)
    monkeypatch.setattr(os, "pidfd_open", none_free)
    waiting = asyncio.ensure_future(adopted(process).wait(World()))
    await end_process(process, World(), patience_s=5)
    async with asyncio.timeout(5):
        assert await waiting is None
