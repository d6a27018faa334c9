"""The devnet's children: stopped by their number, orphans found by mark, strangers left alone."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shem.devnet.processes import (
    IDLE_TIMEOUT_S,
    MARK_VARIABLE,
    Child,
    DevnetError,
    clean_environment,
    idle_ended,
    is_alive,
    is_exe_unit,
    left_behind,
    sweep,
)
from shem.kernel.world import World

WORLD = World()
SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
LEAVES_A_CHILD = (
    "import subprocess, sys, time;"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    " start_new_session=True); print(p.pid, flush=True); time.sleep(60)"
)


async def _start(tmp_path: Path, script: str, mark: str = "m", *arguments: str) -> Child:
    child = await Child.start(
        WORLD,
        "child",
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env={**os.environ, MARK_VARIABLE: mark},
        log=tmp_path / "child.log",
    )
    while not child.log.read_text():
        child.check()
        await WORLD.clock.sleep(0.01)
    return child


async def test_a_child_is_stopped_by_its_number(tmp_path: Path) -> None:
    child = await _start(tmp_path, SLEEPS)
    assert child.alive

    await child.stop()

    assert not child.alive
    await child.stop()


async def test_a_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.devnet.processes.STOP_TIMEOUT_S", 0.2)
    child = await _start(tmp_path, STUBBORN)

    await child.stop()

    assert not child.alive


async def test_what_a_killed_child_left_is_found_by_its_mark_and_swept(tmp_path: Path) -> None:
    child = await _start(tmp_path, LEAVES_A_CHILD, mark="orphans")
    orphan = psutil.Process(int(child.log.read_text()))
    await child.kill()
    assert [process.pid for process in left_behind("orphans", tmp_path)] == [orphan.pid]

    killed = await sweep("orphans", tmp_path, WORLD)

    assert len(killed) == 1
    assert not is_alive(orphan)


async def test_processes_of_another_devnet_are_left_alone(tmp_path: Path) -> None:
    child = await _start(tmp_path, SLEEPS, mark="other")

    assert await sweep("mine", tmp_path, WORLD) == []

    assert child.alive
    await child.kill()


async def test_a_child_that_ended_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = await _start(tmp_path, "print('no such module'); raise SystemExit(3)")
    assert await child.ended() == 3

    with pytest.raises(DevnetError, match="no such module"):
        child.check()


def test_settings_of_other_nodes_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YAGNA_API_URL", "http://elsewhere")
    monkeypatch.setenv("GSB_URL", "unix:/elsewhere")
    monkeypatch.setenv("SHEM_DATABASE_URL", "postgresql://elsewhere")
    monkeypatch.setenv("SHEM_LOG_LEVEL", "debug")

    clean = clean_environment()

    assert not {"YAGNA_API_URL", "GSB_URL", "SHEM_DATABASE_URL"} & set(clean)
    assert clean["SHEM_LOG_LEVEL"] == "debug"
    assert clean["PATH"] == os.environ["PATH"]


def test_a_process_that_ended_under_our_eyes_is_no_exe_unit() -> None:
    child = subprocess.Popen([sys.executable, "-c", "", "exe-unit", "service-bus"])
    watched = psutil.Process(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped yet

    zombie = is_exe_unit(watched)
    child.wait()

    assert not zombie
    assert not is_exe_unit(watched)


async def test_a_nursery_is_given_the_time_to_end_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = "import time; print('up', flush=True); time.sleep(0.3)"
    await _start(tmp_path, brief, "nurseries", "exe-unit", "nursery")
    await _start(tmp_path, brief, "nurseries", "exe-unit", "offer-template")

    await idle_ended("nurseries", tmp_path, WORLD)
    assert await sweep("nurseries", tmp_path, WORLD) == []

    monkeypatch.setattr("shem.devnet.processes.IDLE_TIMEOUT_S", 0.2)
    await _start(tmp_path, SLEEPS, "nurseries", "exe-unit", "nursery")
    await idle_ended("nurseries", tmp_path, WORLD)
    assert len(await sweep("nurseries", tmp_path, WORLD)) == 1


async def test_nobody_waits_for_what_is_no_nursery(tmp_path: Path) -> None:
    began = WORLD.clock.monotonic()
    await _start(tmp_path, SLEEPS, "others")

    await idle_ended("others", tmp_path, WORLD)

    assert len(await sweep("others", tmp_path, WORLD)) == 1
    assert WORLD.clock.monotonic() - began < IDLE_TIMEOUT_S
