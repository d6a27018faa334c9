"""The main job, told as it happens: detach, kill, cut, move, lose; and come back.

Where the machine lets us, each program lives on a host of its own, and the service in a container.
Where it does not, the table says which chapters are not shown, and why; nothing is faked.
"""

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from shem.devnet import namespace
from shem.devnet.compose import Devnet, default_directory
from shem.devnet.internet import Internet, internet
from shem.devnet.machine_story import MachineStory
from shem.devnet.network_story import CHAPTERS, NetworkStory
from shem.devnet.places import places_on
from shem.devnet.processes import DevnetError, left_behind
from shem.devnet.promises import Check
from shem.devnet.served import service_for
from shem.devnet.story import THE_END
from shem.devnet.telling import Terminal
from shem.kernel.errors import ShemError
from shem.kernel.world import World

DURATION_MAX_S: Final = 60.0
"""What the demo may take after set-up."""
BUSY_MIN: Final = 1.0
"""From this load for each processor on, the duration says nothing of us."""
WATCH_S: Final = 1.0
"""How often a devnet that is up looks whether all its processes live."""


class EndedBySignal(DevnetError):
    """Somebody pressed Ctrl-C, or ended us otherwise; all processes were stopped."""


@dataclass(slots=True)
class Demo:
    """One telling of the story."""

    home: Path
    terminal: Terminal
    keep: bool
    world: World = field(default_factory=World)
    checks: list[Check] = field(default_factory=list)
    complete: bool = False
    """The story was told to its end."""

    @property
    def kept(self) -> bool:
        return self.complete and all(check.kept is not False for check in self.checks)

    async def tell(self) -> None:
        clock = self.world.clock
        started = clock.monotonic()
        obstacle = namespace.obstacle()
        with _internet(self.world, wanted=obstacle is None) as internet:
            where = "on loopback" if internet is None else "each on a host of its own"
            self.terminal.chapter(f"A relay, two nodes and a provider agent: processes {where}")
            async with Devnet(self.home, places=places_on(internet)) as net:
                for name, child in net.processes().items():
                    memory = child.memory_bytes() / (1 << 20)
                    at = net.place_of(name).address
                    self.terminal.step(f"{name:10} pid {child.pid:<8} {memory:4.0f} MiB  at {at}")
                await self._play(net, internet, obstacle)
                if self.keep:
                    self._finish(clock.monotonic() - started)
                    await stay(net, self.terminal)
        self._check_nothing_left(net)
        self._finish(clock.monotonic() - started)

    async def _play(self, net: Devnet, internet: Internet | None, obstacle: str | None) -> None:
        """Go through all chapters that can be shown here."""
        if internet is None:
            story = MachineStory(net, self.terminal, self.checks)
        else:
            requestor = internet.hosts["requestor"]
            story = NetworkStory(
                net, self.terminal, self.checks, internet=internet, requestor=requestor
            )
        await story.serve(await service_for(net))
        await story.agent_outage()
        await story.daemon_outage()
        if isinstance(story, NetworkStory):
            await story.network_outage()
            await story.address_change()
        for chapter, promised in CHAPTERS.items() if obstacle else ():
            story.chapter = chapter
            story.check(promised, f"not shown here: {obstacle}", None)
        await story.machine_loss()
        await story.end()

    def _finish(self, seconds: float) -> None:
        self.checks.append(in_time(seconds, psutil.getloadavg()[0] / (psutil.cpu_count() or 1)))
        self.complete = True
        self.terminal.table(self.checks)

    def _check_nothing_left(self, net: Devnet) -> None:
        left = len(left_behind(net.mark, net.directory))
        hosts = len(namespace.left_behind())
        seen = f"{left} and {hosts} left, {len(net.killed_at_end)} had to be killed"
        nothing = left == hosts == len(net.killed_at_end) == 0
        promised = "no process and no host is left behind"
        self.checks.append(Check(promised, seen, nothing, THE_END))


def in_time(seconds: float, load: float) -> Check:
    """Return what is to be said of the duration; `load` is that of each processor."""
    promised = f"the demo takes less than {DURATION_MAX_S:g} s"
    if seconds < DURATION_MAX_S or load <= BUSY_MIN:
        return Check(promised, f"{seconds:.1f} s", seconds < DURATION_MAX_S, THE_END)
    seen = f"not shown here: {seconds:.1f} s on a busy machine ({load:.1f} waiting per processor)"
    return Check(promised, seen, None, THE_END)


@contextlib.contextmanager
def _internet(world: World, *, wanted: bool) -> Iterator[Internet | None]:
    """Have an internet for the block, if it is wanted."""
    if not wanted:
        yield None
        return
    namespace.sweep()
    with internet(world) as net:
        yield net


def run_demo(directory: Path | None, *, keep: bool, as_json: bool) -> int:
    """Run the demo; returns the exit code: 0 only when every promise was kept."""
    demo = Demo(directory or default_directory(), Terminal(stderr=as_json), keep)
    interrupted = False
    try:
        run_until_signalled(demo.tell())
    except ShemError as error:
        interrupted = isinstance(error, EndedBySignal)
        if not demo.complete:
            demo.terminal.blow(f"the demo cannot go on: {error.message}")
            summary = error.message.splitlines()[0]
            chapter = demo.checks[-1].chapter if demo.checks else ""
            demo.checks.append(Check("the demo runs to its end", summary, False, chapter))
            demo.terminal.table(demo.checks)
    if demo.kept or interrupted:
        _forget(demo.home, directory)
    else:
        demo.terminal.step(f"logs: {demo.home}")
    if as_json:
        _write_json({"kept": demo.kept, "checks": [asdict(check) for check in demo.checks]})
    return 0 if demo.kept else 1


def run_up(directory: Path | None, *, as_json: bool, on_hosts: bool = False) -> int:
    """Start a devnet and keep it up until a signal comes."""
    terminal = Terminal(stderr=as_json)
    obstacle = namespace.obstacle() if on_hosts else None
    if obstacle is not None:
        terminal.blow(f"there can be no hosts here: {obstacle}")
        return 1
    home = directory or default_directory()

    async def up() -> None:
        with _internet(World(), wanted=on_hosts) as found:
            async with Devnet(home, places=places_on(found)) as net:
                if as_json:
                    _write_json(describe(net))
                await stay(net, terminal)

    try:
        run_until_signalled(up())
    except EndedBySignal as ended:
        terminal.step(ended.message)
        _forget(home, directory)
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
    terminal.step("a payload for shem.WasmPackage, as the examples take it:")
    terminal.output(f"export SHEM_PACKAGE_URL={net.package.url}")
    terminal.output(f"export SHEM_PACKAGE_HASH={net.package.hash}")
    while True:
        net.check()
        await net.world.clock.sleep(WATCH_S)


def describe(net: Devnet) -> dict[str, Any]:
    """Return what a script needs to use the devnet."""
    return {
        "directory": str(net.directory),
        "requestor": net.requestor.client_env(),
        "provider": net.provider.client_env(),
        "package": {"url": net.package.url, "hash": net.package.hash},
        "pids": {name: child.pid for name, child in net.processes().items()},
    }


def run_until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; SIGINT, SIGTERM and SIGHUP cancel it, so that it ends what it started."""

    async def watched() -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            raise EndedBySignal("ended by a signal; all processes were stopped") from None

    asyncio.run(watched())


def _forget(home: Path, chosen: Path | None) -> None:
    """Remove the directory, unless somebody chose it."""
    if chosen is None:
        shutil.rmtree(home, ignore_errors=True)


def _write_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()
