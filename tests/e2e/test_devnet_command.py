"""`shem devnet`: the demo keeps every promise; however it ends, no process is left behind."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shem.devnet.daemons import shem_command
from shem.devnet.processes import is_alive

UP_TIMEOUT_S = 40.0
END_TIMEOUT_S = 25.0
DEMO_TIMEOUT_S = 110.0


@asynccontextmanager
async def devnet(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *shem_command(),
        "devnet",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), END_TIMEOUT_S)


def living(directory: Path) -> list[int]:
    """Return the processes that name a directory on their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            text = "\n".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        is_other = process.pid != os.getpid() and str(directory / "") in text
        if is_other and is_alive(process):
            found.append(process.pid)
    return found


def has_ledger(directory: Path) -> bool:
    """Whether the payload has begun its long batch."""
    return any(directory.rglob("ledger.txt"))


async def up(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), UP_TIMEOUT_S)
    described: dict[str, Any] = json.loads(line)
    return described


@pytest.mark.long
async def test_the_demo_keeps_every_promise_and_leaves_nothing(short_dir: Path) -> None:
    async with devnet("demo", "--json", "--dir", str(short_dir)) as process:
        stdout, _ = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)

    told = json.loads(stdout)
    assert [check for check in told["checks"] if not check["kept"]] == []
    assert told["kept"] and process.returncode == 0
    assert living(short_dir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_devnet_that_is_up(short_dir: Path, number: signal.Signals) -> None:
    async with devnet("up", "--json", "--dir", str(short_dir)) as process:
        told = await up(process)
        assert all(psutil.pid_exists(pid) for pid in told["pids"].values())
        assert told["requestor"]["YAGNA_API_URL"] != told["provider"]["YAGNA_API_URL"]

        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), END_TIMEOUT_S) == 0

    assert living(short_dir) == []


async def test_a_signal_in_the_middle_of_the_demo_ends_all_of_it(short_dir: Path) -> None:
    async with devnet("demo", "--json", "--dir", str(short_dir)) as process:
        async with asyncio.timeout(UP_TIMEOUT_S):
            while not has_ledger(short_dir):  # noqa: ASYNC110 - other processes make it true
                await asyncio.sleep(0.05)

        process.send_signal(signal.SIGINT)
        stdout, _ = await asyncio.wait_for(process.communicate(), END_TIMEOUT_S)

    assert process.returncode != 0
    assert not json.loads(stdout)["kept"]
    assert living(short_dir) == []


async def test_when_a_daemon_dies_the_devnet_says_so_and_ends(short_dir: Path) -> None:
    async with devnet("up", "--json", "--dir", str(short_dir)) as process:
        told = await up(process)

        os.kill(told["pids"]["provider"], signal.SIGKILL)
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)

    assert process.returncode == 1
    assert living(short_dir) == []
