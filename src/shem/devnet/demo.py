"""The main job, told as it happens: detach, kill, come back."""

import asyncio
import shutil
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from shem.devnet.compose import Devnet, default_directory
from shem.devnet.processes import DevnetError, left_behind
from shem.devnet.story import Check, Story
from shem.devnet.telling import Terminal
from shem.kernel.errors import ShemError
from shem.kernel.world import World

DURATION_MAX_S: Final = 60.0
"""What the demo may take after set-up."""


def run_demo(directory: Path | None, *, keep: bool, as_json: bool) -> int:
    """Run the demo; returns the exit code: 0 only when every promise was kept."""
    terminal = Terminal(stderr=as_json)
    home = directory or default_directory()
    checks: list[Check] = []
    try:
        kept = run_until_signalled(_demo(home, terminal, checks, keep=keep))
    except ShemError as error:
        terminal.blow(f"the demo cannot go on: {error.message}")
        checks.append(Check("the demo runs to its end", error.message.splitlines()[0], False))
        kept = False
    if checks:
        terminal.table(checks)
    if kept and directory is None:
        shutil.rmtree(home, ignore_errors=True)
    elif not kept:
        terminal.step(f"logs: {home}")
    if as_json:
        rows = [msgspec.structs.asdict(check) for check in map(_row, checks)]
        sys.stdout.write(msgspec.json.encode({"kept": kept, "checks": rows}).decode() + "\n")
    return 0 if kept else 1


class _Row(msgspec.Struct):
    promised: str
    seen: str
    kept: bool


def _row(check: Check) -> _Row:
    return _Row(check.promised, check.seen, check.kept)


async def _demo(home: Path, terminal: Terminal, checks: list[Check], *, keep: bool) -> bool:
    clock = World().clock
    started = clock.monotonic()
    terminal.chapter("A relay, two nodes and a provider agent: separate processes on loopback")
    net = Devnet(home)
    async with net:
        for name, child in net.processes().items():
            memory = child.memory_bytes() / (1 << 20)
            terminal.step(f"{name:10} pid {child.pid:<8} {memory:4.0f} MiB")
        story = Story(net, terminal, checks)
        await story.agent_outage()
        await story.daemon_outage()
        if keep:
            await stay(net, terminal)
    _check_nothing_left(net, checks)
    seconds = clock.monotonic() - started
    if not keep:
        limit = f"the demo takes less than {DURATION_MAX_S:g} s"
        checks.append(Check(limit, f"{seconds:.1f} s", seconds < DURATION_MAX_S))
    return all(check.kept for check in checks)


def _check_nothing_left(net: Devnet, checks: list[Check]) -> None:
    left = len(left_behind(net.mark, net.directory))
    seen = f"{left} left, {net.killed_at_end} had to be killed"
    checks.append(Check("no process is left behind", seen, left == 0 and net.killed_at_end == 0))


def run_up(directory: Path | None, *, as_json: bool) -> int:
    """Start a devnet and keep it up until a signal comes."""
    terminal = Terminal(stderr=as_json)
    home = directory or default_directory()

    async def up() -> None:
        async with Devnet(home) as net:
            if as_json:
                described = msgspec.json.encode(describe(net)).decode()
                sys.stdout.write(described + "\n")
                sys.stdout.flush()
            await stay(net, terminal)

    try:
        run_until_signalled(up())
    except ShemError as error:
        terminal.blow(f"the devnet cannot be kept up: {error.message}")
        return 1
    return 0


async def stay(net: Devnet, terminal: Terminal) -> None:
    """Say how to talk to the devnet, and watch it until somebody ends us."""
    terminal.chapter("The devnet is up; Ctrl-C ends it")
    terminal.step(f"data and logs: {net.directory}")
    for title, node in (("requestor", net.requestor), ("provider", net.provider)):
        terminal.step(f"to act as the {title}:")
        for name, value in node.client_env().items():
            terminal.output(f"export {name}={value}")
    terminal.step("a payload for shem.WasmPackage:")
    terminal.output(f"export SHEM_PACKAGE_URL={net.package.url}")
    terminal.output(f"export SHEM_PACKAGE_HASH={net.package.hash}")
    while True:
        for child in (net.relay, net.requestor.program, net.provider.program, net.agent):
            if child.child is not None:
                child.child.check()
        await net.world.clock.sleep(1.0)


def describe(net: Devnet) -> dict[str, Any]:
    """Return what a script needs to use the devnet."""
    return {
        "directory": str(net.directory),
        "requestor": net.requestor.client_env(),
        "provider": net.provider.client_env(),
        "package": {"url": net.package.url, "hash": net.package.hash},
        "pids": {name: child.pid for name, child in net.processes().items()},
    }


def run_until_signalled(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work`; SIGINT, SIGTERM and SIGHUP cancel it, so that it ends what it started."""

    async def watched() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise DevnetError("ended by a signal; all processes were stopped") from None

    return asyncio.run(watched())
