"""A spare ExeUnit: it becomes an activity's process, is found again, and outlives no agent."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from shem.exeunit.spare import LINE_SIZE_MAX
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider import spares
from shem.provider.exeunits import ExeUnitProcess, activity_of, adopt
from shem.provider.spares import OWN, WarmProcesses
from tests.crash.exeunit_site import ACTIVITY, SETUP, Site, run, until

AN_AGENT = """
import asyncio, sys
from pathlib import Path
from shem.kernel.world import World
from shem.provider.spares import WarmProcesses
asyncio.run(WarmProcesses(World(), directory=Path(sys.argv[1]), gsb_url="unix:/x").run())
"""


def is_spare(process: psutil.Process) -> bool:
    return process.cmdline()[-2:] == ["exe-unit", "spare"]


def spares_of(parent: psutil.Process) -> list[psutil.Process]:
    """Return those that have no activity yet."""
    children = [child for child in parent.children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if is_spare(child) and activity_of(child) is None]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    monkeypatch.setattr(spares, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(spares, "SPARE_PAUSE_S", 0.01)
    monkeypatch.setenv("SHEM_IMAGE_DIRS", str(short_dir))
    monkeypatch.setenv("YAGNA_APPKEY", "secret")


@asynccontextmanager
async def warm(site: Site) -> AsyncIterator[WarmProcesses]:
    directory = site.directory / "spare"
    units = WarmProcesses(World(), directory=directory, gsb_url=f"unix:{site.socket}")
    async with TaskScope() as scope:
        scope.spawn(units.run(), "spare")
        yield units


async def ready(units: WarmProcesses) -> psutil.Process:
    await until(lambda: units.spare_pid is not None)
    assert units.spare_pid is not None
    return psutil.Process(units.spare_pid)


async def start(units: WarmProcesses, site: Site, *options: str) -> ExeUnitProcess:
    paths = ("-a", site.agreement, "-w", work_dir(site), "-c", site.directory / "cache")
    command = [*OWN, *options, "service-bus", ACTIVITY, "/local/activity", *map(str, paths)]
    unit = await units.start(command, work_dir=work_dir(site), gsb_url=f"unix:{site.socket}")
    assert isinstance(unit, ExeUnitProcess)
    return unit


def work_dir(site: Site) -> Path:
    return site.directory / "work" / ACTIVITY


async def gone(process: psutil.Process) -> None:
    await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


async def test_a_spare_becomes_the_process_of_an_activity(short_dir: Path) -> None:
    site = Site(short_dir)
    site.write_agreement()
    async with site.daemon() as daemon, warm(site) as units:
        spare = await ready(units)
        assert "YAGNA_APPKEY" not in spare.environ()
        unit = await start(units, site)
        await daemon.unit_is_bound()
        results = await daemon.run("setup", *SETUP, run("note", "warm"))
        found = adopt(None, None, ACTIVITY)
        following = await ready(units)
        await units.end(unit, patience_s=5)

    assert unit.pid == spare.pid != following.pid
    assert [result["result"] for result in results] == ["Ok"] * 3
    assert found is not None and (found.pid, found.started) == (unit.pid, unit.started)
    assert adopt(None, None, "f" * 32) is None
    assert "exeunit.up" in (work_dir(site) / "exe-unit.log").read_text()
    assert daemon.reasons[-1] is not None and "signal" in daemon.reasons[-1]
    await gone(following)


async def test_several_at_once_have_one_spare_and_the_rest_start_cold(short_dir: Path) -> None:
    site = Site(short_dir)
    site.write_agreement()
    async with site.daemon(), warm(site) as units:
        spare = await ready(units)
        first = await start(units, site)
        second = await start(units, site)  # the journal is locked: it ends by itself
        assert await second.wait(World()) != 0
        await units.end(first, patience_s=5)
    assert first.pid == spare.pid and second.pid != spare.pid


async def test_another_supervisor_is_started_as_ever(short_dir: Path) -> None:
    site = Site(short_dir)
    async with warm(site) as units:
        spare = await ready(units)
        other = [sys.executable, "-c", "", "service-bus", ACTIVITY]
        unit = await units.start(other, work_dir=work_dir(site), gsb_url=f"unix:{site.socket}")
        assert unit.pid != spare.pid
        assert await unit.wait(World()) == 0
        assert units.spare_pid == spare.pid


async def test_a_spare_that_dies_is_replaced_and_one_that_dies_as_it_is_taken_is_seen(
    short_dir: Path,
) -> None:
    site = Site(short_dir)
    site.write_agreement()
    async with site.daemon(), warm(site) as units:
        first = await ready(units)
        first.kill()
        await until(lambda: units.spare_pid not in {None, first.pid})
        second = await ready(units)
        second.send_signal(signal.SIGSTOP)
        unit = await start(units, site)
        second.kill()
        assert unit.pid == second.pid
        assert await unit.wait(World()) == -signal.SIGKILL


async def test_a_spare_ends_with_its_agent_however_that_ends(short_dir: Path) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AN_AGENT, str(short_dir / "spare")
    )
    found = psutil.Process(agent.pid)
    await until(lambda: bool(spares_of(found)))
    [spare] = spares_of(found)

    agent.kill()
    await agent.wait()

    await gone(spare)


async def test_without_a_bus_and_without_the_command_there_is_no_spare(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "OWN", (sys.executable, "-c", "", "exe-unit"))
    monkeypatch.setattr(spares, "FAILURE_PAUSE_S", 0.01)
    site = Site(short_dir)
    async with warm(site) as units:
        await until((site.directory / "spare" / spares.SPARE_LOG).exists)
        cold = [sys.executable, "-c", "", "exe-unit", "service-bus", ACTIVITY]
        unit = await units.start(cold, work_dir=work_dir(site), gsb_url=f"unix:{site.socket}")
        assert await unit.wait(World()) == 0
        assert units.spare_pid is None


@pytest.mark.parametrize("said", [b"", b"x", b"{}\n", b"[" * LINE_SIZE_MAX, b'{"args":[]}\n'])
async def test_a_spare_that_is_told_nonsense_ends(short_dir: Path, said: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*OWN, "spare"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=short_dir,
        env=dict(os.environ),
    )
    output, _ = await asyncio.wait_for(process.communicate(said), 30)
    assert output == b"ready\n"
    assert process.returncode == (0 if not said.endswith(b"\n") else 1)
