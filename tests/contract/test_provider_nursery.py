"""The nursery: it forks ExeUnits that are their own, are found again, and outlive everything."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import wasmtime

from shem.devnet import payload
from shem.devnet.processes import sweep
from shem.exeunit.nursery import LINE_SIZE_MAX, Order, encode_order
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider import nursery
from shem.provider.exeunits import ExeUnitProcess, activity_of, adopt
from shem.provider.nursery import COMMAND, OWN, NurseryProcesses
from tests.crash import exeunit_site
from tests.crash.exeunit_site import SETUP, Site, run, until

ACTIVITY, SECOND = uuid4().hex, uuid4().hex
"""Found by name among all processes of the machine."""
AN_AGENT = """
import asyncio, sys
from pathlib import Path
from shem.kernel.world import World
from shem.provider.nursery import OWN, NurseryProcesses

async def main(directory, work_dir, gsb_url, *args):
    units = NurseryProcesses(World(), directory=Path(directory), gsb_url=gsb_url)
    run = asyncio.create_task(units.run())
    await units.start([*OWN, *args], work_dir=Path(work_dir), gsb_url=gsb_url)
    await run

asyncio.run(main(*sys.argv[1:]))
"""
DICE = """(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $i i32)
    (drop (call $random (i32.const 64) (i32.const 16)))
    (loop $letters
      (i32.store8 (i32.add (i32.const 64) (local.get $i))
        (i32.add (i32.const 65)
          (i32.and (i32.load8_u (i32.add (i32.const 64) (local.get $i))) (i32.const 15))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $letters (i32.lt_u (local.get $i) (i32.const 16))))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
"""Prints sixteen random letters."""


@pytest.fixture(autouse=True)
async def surroundings(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> AsyncIterator[None]:
    monkeypatch.setattr(exeunit_site, "ACTIVITY", ACTIVITY)
    monkeypatch.setattr(nursery, "REPLACE_PAUSE_S", 0.01)
    monkeypatch.setenv("SHEM_IMAGE_DIRS", str(short_dir))
    monkeypatch.setenv("YAGNA_APPKEY", "secret")
    yield
    await sweep("no mark", short_dir, World())


@pytest.fixture
def site(short_dir: Path) -> Site:
    site = Site(short_dir)
    site.write_agreement()
    return site


@asynccontextmanager
async def forking(site: Site) -> AsyncIterator[NurseryProcesses]:
    directory = site.directory / "nursery"
    units = NurseryProcesses(World(), directory=directory, gsb_url=f"unix:{site.socket}")
    async with TaskScope() as scope:
        scope.spawn(units.run(), "nursery")
        yield units


def work_dir(site: Site, activity: str = ACTIVITY) -> Path:
    return site.directory / "work" / activity


def arguments(site: Site, activity: str = ACTIVITY) -> list[str]:
    paths = ("-a", site.agreement, "-w", work_dir(site, activity), "-c", site.directory / "cache")
    return ["service-bus", activity, "/local/activity", *map(str, paths)]


async def start(
    units: NurseryProcesses, site: Site, activity: str = ACTIVITY, *, own: tuple[str, ...] = OWN
) -> ExeUnitProcess:
    command = [*own, *arguments(site, activity)]
    unit = await units.start(
        command, work_dir=work_dir(site, activity), gsb_url=f"unix:{site.socket}"
    )
    assert isinstance(unit, ExeUnitProcess)
    return unit


async def up(units: NurseryProcesses, *, other_than: int | None = None) -> psutil.Process:
    await until(lambda: units.nursery_pid not in {None, other_than})
    assert units.nursery_pid is not None
    return psutil.Process(units.nursery_pid)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def is_forked(unit: ExeUnitProcess) -> bool:
    return psutil.Process(unit.pid).cmdline()[-2:] == ["exe-unit", "nursery"]


def opened(process: psutil.Process) -> set[str]:
    return {str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()}


async def exit_code(unit: ExeUnitProcess) -> int | None:
    async with asyncio.timeout(20):
        return await unit.wait(World())


async def test_an_activity_gets_a_process_that_shares_nothing_with_the_nursery(site: Site) -> None:
    async with site.daemon() as daemon, forking(site) as units:
        unit = await start(units, site)
        await daemon.unit_is_bound()
        results = await daemon.run("setup", *SETUP, run("note", "forked"))
        parent, child = await up(units), psutil.Process(unit.pid)
        assert child.ppid() == parent.pid
        assert len({os.getsid(pid) for pid in (0, parent.pid, child.pid)}) == 3
        assert parent.num_threads() == 1
        assert not {name for name in opened(parent) & opened(child) if name.startswith("pipe")}
        assert "YAGNA_APPKEY" not in child.environ()
        found = adopt(None, None, ACTIVITY)
        await units.end(unit, patience_s=5)

    assert [result["result"] for result in results] == ["Ok"] * 3
    assert found is not None and (found.pid, found.started) == (unit.pid, unit.started)
    assert adopt(None, None, SECOND) is None
    assert "exeunit.up" in (work_dir(site) / "exe-unit.log").read_text()
    assert daemon.reasons[-1] is not None and "signal" in daemon.reasons[-1]
    await until(lambda: is_gone(parent))


async def test_many_at_once_are_told_apart_and_their_exit_codes_too(site: Site) -> None:
    names = [f"{number:032x}" for number in range(12)]
    async with site.daemon() as daemon, forking(site) as units:
        born = await asyncio.gather(*(start(units, site, name) for name in names))
        assert [activity_of(psutil.Process(unit.pid)) for unit in born] == names
        await until(lambda: all(daemon.bus.is_bound(f"/public/exeunit/{name}") for name in names))
        again = await start(units, site, names[0])  # the journal is locked: it ends by itself
        assert is_forked(again) and await exit_code(again) == 1
        born[1].send(signal.SIGKILL)
        assert await exit_code(born[1]) == -signal.SIGKILL
        await asyncio.gather(*(units.end(unit, patience_s=10) for unit in born))
        assert [await exit_code(unit) for unit in born] == [0, -signal.SIGKILL] + [0] * 10
        parent = await up(units)
        assert parent.children() == []  # nobody is left unwaited for


async def test_each_has_randomness_of_its_own(site: Site) -> None:
    write_dice(site)
    said: set[str] = set()
    async with forking(site) as units:
        for _ in range(2):
            async with site.daemon() as daemon:
                unit = await start(units, site)
                await daemon.unit_is_bound()
                results = await daemon.run("throw", *SETUP, run())
                assert results[-1]["result"] == "Ok", results
                said.add(str(results[-1]["stdout"]))
                await units.end(unit, patience_s=5)
            shutil.rmtree(work_dir(site))
    assert len(said) == 2


def write_dice(site: Site) -> None:
    path = site.package.path
    with zipfile.ZipFile(path, "w") as archive:
        points = [{"id": "mandel", "wasm-path": "t.wasm"}]
        manifest = {"id": "t", "name": "t", "entry-points": points}
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("t.wasm", bytes(wasmtime.wat2wasm(DICE)))
    site.package = payload.Package(path, hashlib.sha3_224(path.read_bytes()).hexdigest())
    site.write_agreement()


async def test_another_supervisor_is_started_as_ever(site: Site) -> None:
    async with forking(site) as units:
        other = (sys.executable, "-c", "raise SystemExit(7)")
        unit = await start(units, site, own=other)
        assert psutil.Process(unit.pid).ppid() == os.getpid()
        assert await exit_code(unit) == 7


async def test_a_nursery_that_dies_is_replaced_and_its_children_are_watched_on(site: Site) -> None:
    async with site.daemon() as daemon, forking(site) as units:
        unit = await start(units, site)
        await daemon.unit_is_bound()
        first = await up(units)
        waiting = asyncio.create_task(unit.wait(World()))
        first.kill()
        second = await up(units, other_than=first.pid)

        other = await start(units, site, SECOND)
        assert psutil.Process(other.pid).ppid() == second.pid
        assert unit.is_alive() and not waiting.done()
        await units.end(unit, patience_s=5)
        assert await waiting is None
        await units.end(other, patience_s=5)


async def test_one_that_dies_between_fork_and_answer_has_its_child_found(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHEM_FAILPOINTS", "nursery.forked=kill")
    async with site.daemon() as daemon, forking(site) as units:
        unit = await start(units, site)
        await daemon.unit_is_bound()
        assert is_forked(unit) and unit.child is None
        await units.end(unit, patience_s=5)
    assert (work_dir(site) / "exe-unit.log").read_text().count("exeunit.up") == 1


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "is silent"])
async def test_without_an_answer_it_is_made_sure_that_none_comes_and_the_command_is_started(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, dies: bool
) -> None:
    if not dies:
        monkeypatch.setattr(nursery, "ANSWER_TIMEOUT_S", 0.2)
    async with site.daemon(), forking(site) as units:
        first = await up(units)
        first.suspend()
        starting = asyncio.create_task(start(units, site))
        if dies:
            await until(lambda: work_dir(site).exists())
            first.kill()
        unit = await starting
        assert is_gone(first)
        assert not is_forked(unit) and unit.is_alive()
        await units.end(unit, patience_s=5)


async def test_what_cannot_be_forked_is_tried_as_a_command(site: Site) -> None:
    (work_dir(site) / "exe-unit.log").mkdir(parents=True)
    async with site.daemon() as daemon, forking(site) as units:
        with pytest.raises(IsADirectoryError):
            await start(units, site)
        (work_dir(site) / "exe-unit.log").rmdir()
        unit = await start(units, site)
        await daemon.unit_is_bound()
        assert is_forked(unit)
        await units.end(unit, patience_s=5)


async def test_its_children_outlive_an_agent_that_is_killed_and_it_does_not(site: Site) -> None:
    places = (str(site.directory / "nursery"), str(work_dir(site)), f"unix:{site.socket}")
    async with site.daemon() as daemon:
        agent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AN_AGENT, *places, *arguments(site)
        )
        await daemon.unit_is_bound()
        [tending] = psutil.Process(agent.pid).children()
        agent.kill()
        await agent.wait()
        await until(lambda: is_gone(tending))

        found = adopt(None, None, ACTIVITY)
        assert found is not None and is_forked(found)
        await daemon.run("setup", *SETUP)
        async with forking(site) as units:
            await units.end(found, patience_s=5)


async def test_without_an_agent_it_forks_no_more(site: Site) -> None:
    work_dir(site).mkdir(parents=True)
    order = Order(1, arguments(site), str(work_dir(site)), str(work_dir(site) / "exe-unit.log"))
    async with tending(site) as (process, answers, ours):
        assert await answers == b'{"type":"ready"}\n'
        psutil.Process(process.pid).suspend()
        ours.sendall(encode_order(order))
        ours.close()
        psutil.Process(process.pid).resume()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert not (work_dir(site) / "exe-unit.log").exists()


@pytest.mark.parametrize("said", [b"{}\n", b"\n", b"[" * (LINE_SIZE_MAX + 1)])
async def test_one_that_is_told_nonsense_ends(site: Site, said: bytes) -> None:
    async with tending(site) as (process, answers, ours):
        await answers
        ours.sendall(said)
        assert await asyncio.wait_for(process.wait(), 20) == 1


@asynccontextmanager
async def tending(
    site: Site,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Awaitable[bytes], socket.socket]]:
    """Run a nursery that we talk to ourselves."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=site.directory,
        )
        theirs.close()
        assert process.stdout is not None
        yield process, process.stdout.readline(), ours


@pytest.mark.parametrize(
    "says", ["", "print('nonsense', flush=True)", "print('{\"type\":\"ready\"}', end='')"]
)
async def test_one_that_does_not_come_up_leaves_commands_to_be_started(
    site: Site, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setattr(nursery, "COMMAND", (sys.executable, "-c", says))
    monkeypatch.setattr(nursery, "OWN", (sys.executable, "-c", ""))
    async with forking(site) as units:
        unit = await start(units, site, own=nursery.OWN)
        assert await exit_code(unit) == 0
        assert units.nursery_pid is None


async def test_a_command_line_that_is_too_long_for_an_order_is_not_sent(site: Site) -> None:
    async with forking(site) as units:
        tending = await up(units)
        command = [*OWN, "x" * LINE_SIZE_MAX]
        with pytest.raises(OSError, match="too long"):
            await units.start(
                [*command, "x" * (1 << 20)], work_dir=work_dir(site), gsb_url=f"unix:{site.socket}"
            )
        assert units.nursery_pid == tending.pid
