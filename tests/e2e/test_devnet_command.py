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

from shem.devnet import namespace
from shem.devnet.daemons import shem_command
from shem.devnet.machine_story import LOSS
from shem.devnet.network_story import CHAPTERS
from shem.devnet.processes import is_alive
from shem.devnet.story import THE_END
from shem.rest.client import RestClient

UP_TIMEOUT_S = 40.0
END_TIMEOUT_S = 25.0
DEMO_TIMEOUT_S = 150.0
CAN_HAVE_HOSTS = namespace.obstacle() is None


@asynccontextmanager
async def devnet(
    *arguments: str, env: dict[str, str] | None = None, told: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command; with `told`, what it tells people can be read from its standard error."""
    process = await asyncio.create_subprocess_exec(
        *shem_command(),
        "devnet",
        *arguments,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if told else asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), END_TIMEOUT_S)


async def until_told(process: asyncio.subprocess.Process, words: str) -> str:
    """Return the first line of the story that has these words."""
    assert process.stderr is not None
    async with asyncio.timeout(DEMO_TIMEOUT_S):
        async for line in process.stderr:
            if words in line.decode():
                return line.decode()
    raise AssertionError(f"the story ended without {words!r}")


def hosts_of(pid: int) -> list[str]:
    """Return the names of the network namespaces that a process has made."""
    return [path.name for path in namespace.NAMED.glob(f"{namespace.MARK}{pid}-*")]


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


def left(directory: Path, pid: int) -> list[object]:
    """Return what a command has left: processes, hosts, and files in what it took for /tmp."""
    return [*living(directory), *hosts_of(pid), *directory.iterdir()]


async def up(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), UP_TIMEOUT_S)
    described: dict[str, Any] = json.loads(line)
    return described


@pytest.mark.long
@pytest.mark.timeout(DEMO_TIMEOUT_S + END_TIMEOUT_S)
async def test_the_demo_keeps_every_promise_and_leaves_nothing(short_dir: Path) -> None:
    async with devnet("demo", "--json", env={**os.environ, "TMPDIR": str(short_dir)}) as process:
        stdout, _ = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)

    told = json.loads(stdout)
    assert [check for check in told["checks"] if check["kept"] is False] == []
    assert told["kept"] and process.returncode == 0
    assert left(short_dir, process.pid) == []
    shown = {check["chapter"][:3] for check in told["checks"] if check["kept"]}
    assert {"1.1", "1.2", "1.4"} <= shown
    assert ("1.3" in shown) == CAN_HAVE_HOSTS


@pytest.mark.long
async def test_what_a_machine_cannot_show_is_said_and_nothing_is_faked(short_dir: Path) -> None:
    """Without any tool of the system there is neither host nor container."""
    arguments = ("demo", "--json", "--dir", str(short_dir))
    async with devnet(*arguments, env={**os.environ, "PATH": str(short_dir)}) as process:
        stdout, _ = await asyncio.wait_for(process.communicate(), DEMO_TIMEOUT_S)

    told = json.loads(stdout)
    assert told["kept"] and process.returncode == 0
    not_shown = [check for check in told["checks"] if check["kept"] is None]
    assert all(check["seen"].startswith("not shown here: ") for check in not_shown)
    chapters = {check["chapter"] for check in not_shown} - {THE_END}
    assert chapters == {"a service", *CHAPTERS}
    shown = {check["chapter"] for check in told["checks"] if check["kept"]}
    assert not shown & set(CHAPTERS)
    assert {"a service", "1.1 the program is killed", "1.2 the daemon is killed", LOSS} < shown


@pytest.mark.parametrize(
    ("number", "options"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ("--hosts",) if CAN_HAVE_HOSTS else ())],
)
async def test_a_signal_ends_a_devnet_that_is_up(
    short_dir: Path, number: signal.Signals, options: tuple[str, ...]
) -> None:
    async with devnet("up", "--json", "--dir", str(short_dir), *options) as process:
        told = await up(process)
        assert bool(hosts_of(process.pid)) == bool(options)
        for name in ("requestor", "provider"):
            env = told[name]
            async with RestClient(env["YAGNA_API_URL"], env["YAGNA_APPKEY"]) as rest:
                assert (await rest.net.status()).sessions > 0
        assert all(psutil.pid_exists(pid) for pid in told["pids"].values())
        assert told["requestor"]["YAGNA_API_URL"] != told["provider"]["YAGNA_API_URL"]

        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), END_TIMEOUT_S) == 0

    assert living(short_dir) == [] and hosts_of(process.pid) == []


@pytest.mark.long
async def test_a_signal_in_the_middle_of_the_demo_ends_all_of_it(short_dir: Path) -> None:
    env = {**os.environ, "TMPDIR": str(short_dir)}
    async with devnet("demo", "--json", env=env, told=True) as process:
        last = "is cut" if CAN_HAVE_HOSTS else "SIGKILL to the requestor's daemon"
        await until_told(process, last)
        assert len(hosts_of(process.pid)) == (4 if CAN_HAVE_HOSTS else 0)

        process.send_signal(signal.SIGINT)
        stdout, _ = await asyncio.wait_for(process.communicate(), END_TIMEOUT_S)

    assert process.returncode != 0
    assert not json.loads(stdout)["kept"]
    assert left(short_dir, process.pid) == []


async def test_when_a_daemon_dies_the_demo_says_so_and_ends(short_dir: Path) -> None:
    async with devnet("demo", "--json", "--dir", str(short_dir), told=True) as process:
        line = await until_told(process, "provider   pid ")
        await until_told(process, "the program submits")

        os.kill(int(line.split("pid ")[1].split()[0]), signal.SIGKILL)
        stdout, _ = await asyncio.wait_for(process.communicate(), END_TIMEOUT_S)

    told = json.loads(stdout)
    assert process.returncode == 1 and not told["kept"]
    assert any("provider has ended" in check["seen"] for check in told["checks"])
    assert living(short_dir) == [] and hosts_of(process.pid) == []


async def test_when_a_daemon_dies_the_devnet_says_so_and_ends(short_dir: Path) -> None:
    async with devnet("up", "--json", "--dir", str(short_dir)) as process:
        told = await up(process)

        os.kill(told["pids"]["provider"], signal.SIGKILL)
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)

    assert process.returncode == 1
    assert living(short_dir) == []
