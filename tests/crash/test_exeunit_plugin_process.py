"""An ExeUnit with a runtime binary: nothing of the runtime outlives it, everything is told."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shem.exeunit.core import INTERRUPTED
from tests.crash.exeunit_site import SETUP, Site, until
from tests.runtime_binary import write_runtime

COUNTER = "golem.usage.custom"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    made.write_agreement(counters=(COUNTER,))
    write_runtime(tmp_path)
    yield made
    await made.kill_all()


async def start(site: Site, mode: str) -> asyncio.subprocess.Process:
    binary = site.directory / "ya-runtime-small"
    return await site.start("-b", str(binary), "-r", mode, "--cap-handoff")


def command(entry_point: str, *args: str) -> dict[str, Any]:
    capture = {"stdout": {"atEnd": {}}, "stderr": {"atEnd": {}}}
    return {"run": {"entry_point": entry_point, "args": list(args), "capture": capture}}


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def pids(site: Site) -> list[int]:
    return [int((site.work_dir / name).read_text()) for name in ("sleeping", "child")]


@pytest.mark.parametrize(
    ("mode", "echo", "fail"), [("service", "/echo", "/exit"), ("process", "echo", "exit")]
)
async def test_runs_a_batch_in_both_modes(site: Site, mode: str, echo: str, fail: str) -> None:
    async with site.daemon() as daemon:
        await start(site, mode)
        await daemon.unit_is_bound()

        results = await daemon.run("b1", *SETUP, command(echo, "hi"), command(fail, "3"))

        assert [result["result"] for result in results] == ["Ok", "Ok", "Ok", "Error"]
        assert results[0]["stderr"] == "deploying"
        assert results[2]["stdout"].endswith("hi")
        assert results[3]["message"] == "ExeScript command exited with code 3"
        assert await daemon.run("b2", {"terminate": {}})
        assert len(await daemon.run("b3", *SETUP, command(echo, "again"))) == 3


async def test_counters_of_the_runtime_are_reported_in_the_agreements_order(site: Site) -> None:
    async with site.daemon() as daemon:
        await start(site, "service")
        await daemon.unit_is_bound()

        await daemon.run("b1", *SETUP, command("/count", COUNTER, "12.5"))

        await until(lambda: daemon.usages[-1:] != [] and daemon.usages[-1][2] == 12.5)
        assert daemon.usages[-1][0] > 0


@pytest.mark.parametrize(("mode", "sleep"), [("service", "/sleep"), ("process", "sleep")])
async def test_a_killed_exe_unit_takes_its_runtime_along(site: Site, mode: str, sleep: str) -> None:
    async with site.daemon() as daemon:
        process = await start(site, mode)
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP)
        await daemon.exec("b2", command(sleep))
        await until((site.work_dir / "child").exists)
        await until((site.work_dir / "sleeping").exists)
        old = pids(site)
        process.send_signal(signal.SIGKILL)
        await process.wait()

        await start(site, mode)
        await daemon.unit_is_bound()

        await until(lambda: all(map(gone, old)))
        [interrupted] = await daemon.results("b2")
        assert interrupted["message"] == INTERRUPTED
        await until(lambda: daemon.states[-1:] == [["Ready", None]])
        echo = sleep.replace("sleep", "echo")
        assert (await daemon.run("b3", command(echo, "back")))[0]["result"] == "Ok"


async def test_a_destroyed_activity_leaves_no_process(site: Site) -> None:
    async with site.daemon() as daemon:
        process = await start(site, "service")
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP)
        await daemon.exec("b2", command("/sleep"))
        await until((site.work_dir / "sleeping").exists)
        (site.work_dir / "stubborn").touch()

        process.send_signal(signal.SIGTERM)

        assert await process.wait() == 0
        await until(lambda: all(map(gone, pids(site))))
        assert daemon.states[-1] == ["Terminated", None]


async def test_a_runtime_that_dies_alone_leaves_the_activity_usable(site: Site) -> None:
    async with site.daemon() as daemon:
        await start(site, "service")
        await daemon.unit_is_bound()

        results = await daemon.run("b1", *SETUP, command("/die", "9"))
        assert "ended with exit code 9" in results[-1]["message"]
        [refused] = await daemon.run("b2", command("/echo", "x"))
        assert "not running" in refused["message"]

        results = await daemon.run("b3", {"terminate": {}}, *SETUP, command("/echo", "x"))
        assert [result["result"] for result in results] == ["Ok"] * 4
