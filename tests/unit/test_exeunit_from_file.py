"""A script run from a file, without a node (real processes)."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shem.devnet import payload
from shem.provider.descriptor import BUILT_IN
from tests.crash.exeunit_site import ENDLESS, SETUP, Site, run, until


def written(directory: Path, *commands: dict[str, Any]) -> list[str]:
    """Write a script and a package; returns the command line that runs them."""
    script = directory / "script.json"
    script.write_text(json.dumps(commands))
    payload.write_package(directory)
    image = str(directory / "mandel.zip")
    return [*BUILT_IN.command, "from-file", str(script), "--image", image]


def called(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_script_is_run_and_its_results_are_printed(tmp_path: Path) -> None:
    told = called(written(tmp_path, *SETUP, run("note", "x"), run("ledger")))

    results = json.loads(told.stdout)
    assert told.returncode == 0
    assert [result["result"] for result in results] == ["Ok"] * 4
    assert results[-1]["stdout"] == "x\n" and results[-1]["isBatchFinished"] is True


def test_a_command_that_fails_is_the_programs_failure(tmp_path: Path) -> None:
    told = called(written(tmp_path, *SETUP, {"run": {"entry_point": "nope"}}, run("ledger")))

    *_, last = json.loads(told.stdout)
    assert told.returncode == 1
    assert (last["index"], last["result"]) == (2, "Error")
    assert "nope" in last["message"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"depoy": {}}]', "unknown variant `depoy`"),
        ("{", "EOF while parsing"),
        ('[{"run": {"entry_point": "x", "args": null}}]', "invalid type"),
    ],
)
def test_a_script_that_is_none_is_refused_as_a_node_refuses_it(
    tmp_path: Path, text: str, words: str
) -> None:
    command = written(tmp_path)
    (tmp_path / "script.json").write_text(text)

    told = called(command)

    assert (told.returncode, told.stdout) == (2, "")
    assert "script.json" in told.stderr and words in told.stderr


def test_a_directory_that_was_used_is_not_used_again(tmp_path: Path) -> None:
    command = [*written(tmp_path, *SETUP, run("note", "x")), "-w", str(tmp_path / "work")]
    assert called(command).returncode == 0

    again = called(command)

    assert again.returncode == 2 and "has been used" in again.stderr


async def test_interrupted_it_stops_what_runs_and_prints_what_is_done(tmp_path: Path) -> None:
    script = [*SETUP, run("scene", ENDLESS), run("note", "begun"), run("render"), run("ledger")]
    command = [*written(tmp_path, *script), "-w", str(tmp_path / "work")]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    journal = tmp_path / "work" / "journal"
    await until(lambda: journal.exists() and journal.read_text().count('"result"') >= 4)
    process.send_signal(signal.SIGINT)
    out, said = await asyncio.wait_for(process.communicate(), 30)

    results = json.loads(out)
    assert process.returncode == 1
    assert b"Error: Interrupted by signal: 2" in said
    assert [result["result"] for result in results] == ["Ok"] * 4 + ["Error"]


async def test_a_node_that_is_there_is_told_state_and_usage(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write_agreement()
    command = written(tmp_path, *SETUP, run("note", "x"))
    terms = ["-a", str(site.agreement), "--report-url", "/local/activity", "--service-id", "me"]
    env = {"GSB_URL": f"unix:{site.socket}", "PATH": "/usr/bin"}
    async with site.daemon() as daemon:
        process = await asyncio.create_subprocess_exec(
            *command, *terms, env=env, stdout=asyncio.subprocess.PIPE
        )
        await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 0
    assert daemon.states[-1] == ["Terminated", None]
    assert (daemon.reasons[-1] or "").startswith("Finished")
    assert daemon.usages and len(daemon.usages[0]) == 2
