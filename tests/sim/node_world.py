"""A requestor's node, a provider's node, its agent and ExeUnits: each a simulated process.

Everything is the real thing, put together as `shem node run` and `shem provider run` do it: stores
(SQLite on disk), REST, bus sockets, journals. The net is `node_net`, REST goes through memory, a
runtime only waits and keeps a ledger, and commits and journal writes are points at which a process
may die. What a program of the requestor does: `node_program`; what goes wrong: `node_storm`.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from shem.exeunit.commands import Command, DeployOptions
from shem.exeunit.runtimes.base import Runtime, Sink, Stopped, Volume
from shem.exeunit.runtimes.choice import OFFER_TEMPLATE, RuntimeChoice
from shem.exeunit.service import ExeUnit, Setup
from shem.identity.keys import PrivateKey
from shem.kernel.config import NodeConfig
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng, World
from shem.node import app
from shem.provider import agent
from shem.provider.config import ProviderConfig, Terms
from shem.provider.descriptor import Descriptor
from shem.provider.hardware import Machine
from shem.store.open import open_store
from shem.store.sqlite import SqliteStore
from shem.store.unit import StorageFull, Store
from tests.sim.node_disk import Disk, SimCommitter, SimJournal
from tests.sim.node_net import SimFabric, SimNet, Weather
from tests.sim.process import Process, current
from tests.sim.rest_in_memory import Door, MemoryRest
from tests.sim.virtual_time import VirtualClock

SECRETS = {"requestor": "11" * 32, "provider": "22" * 32}
APP_KEY = "sim-key"
SUBNET = "sim"
MACHINE = Machine(architecture="x86_64", cores=4, threads=4, memory_gib=64.0, storage_gib=64.0)
RUNTIME = Descriptor(name="wasmtime", version="0.1.0", command=("sim-exe-unit",))
EVENTS_KEPT = 400
IDLE_S = 60.0
UP_WITHIN_S = 60.0
STARTED_AGAIN_S = 1.0
KILLED = -9


class SkewedClock(VirtualClock):
    """A machine's clock, which may be wrong."""

    def __init__(self) -> None:
        self.skew_ns = 0
        self.jump_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.skew_ns + self.jump_ns


@dataclass(frozen=True)
class Entry:
    """What a runtime did."""

    activity_id: str
    tag: str
    what: str
    """`begun` or `done`."""
    at_s: float


class SimWorld:
    """Clocks, randomness, disks, and the books that outlive all processes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.faults = SeededRng(seed)
        self.weather = Weather(SeededRng(seed + 1))
        self.fabric = SimFabric(self.weather)
        self.disk = Disk(SeededRng(seed + 2))
        self.clock = VirtualClock()
        self.ledger: list[Entry] = []
        self.events: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.broken: list[str] = []
        self._led_to_it: list[str] = []
        self._last = ("", "")
        self._times = 0
        self.rented: set[str] = set()
        """Activities that a program has written down as its own."""
        self.is_calm = False
        """No storm any more: programs come to their end."""
        self._starts = 0

    def wrong(self, what: str) -> None:
        self.broken.append(what)
        self.note("WRONG", what)
        if len(self.broken) == 1:
            self._led_to_it = list(self.events)
            self.events.clear()

    def note(self, who: str, what: str) -> None:
        """Keep what happened; what happens again and again is one event."""
        self._times = self._times + 1 if (who, what) == self._last else 1
        self._last = who, what
        if self._times > 1 and self.events:
            self.events.pop()
        times = f"  ({self._times} times)" if self._times > 1 else ""
        self.events.append(f"{self.clock.monotonic():9.3f}  {who:22} {what}{times}")

    @property
    def timeline(self) -> list[str]:
        """What led to the first thing that was wrong, and the last that happened."""
        return [*self._led_to_it, *self.events]

    def log(self, _logger: object, level: str, event: dict[str, Any]) -> dict[str, Any]:
        """Keep what the processes log: a processor of structlog."""
        process = current()
        words = " ".join(f"{k}={v}" for k, v in event.items() if k not in ("event", "exc_info"))
        self.note("-" if process is None else process.name, f"{event.get('event')} {words}")
        if event.get("exc_info") and (process is None or process.alive):
            self.wrong(f"logged with a traceback: {event['event']} {event['exc_info']!r}")
        raise structlog.DropEvent

    def world_of(self, clock: VirtualClock) -> World:
        """Return the world of a new process."""
        self._starts += 1
        return World(clock=clock, rng=SeededRng(self.seed * 10_007 + self._starts))

    def new_process(self, name: str) -> Process:
        return Process(f"{name}#{self._starts}")

    async def open_store(self, place: str | Path, world: World, migrations: str = "node") -> Store:
        process = current()
        assert process is not None
        committer = SimCommitter(process, self.disk)
        store = await open_store(
            place,
            world=world,
            committer=committer,
            migrations=migrations,
            waits_for_room=migrations == "agent",
        )
        assert isinstance(store, SqliteStore)
        process.at_death.append(store._close_connections)
        return store


class SimNode:
    """A node's daemon, started any number of times on the same data."""

    def __init__(self, world: SimWorld, name: str) -> None:
        self.name = name
        self.node_id: NodeId = PrivateKey.from_hex(SECRETS[name]).node_id
        self.folder = world.folder / name
        self.folder.mkdir()
        self.clock = SkewedClock()
        self.door = Door()
        self.process: Process | None = None
        self.running: app.Node | None = None
        self._found_no_room = self._is_starting = False
        self._sim = world

    @property
    def gsb_url(self) -> str:
        return f"unix:{self.folder / 'gsb'}"

    def rest(self, program: str) -> MemoryRest:
        return MemoryRest(self.door, APP_KEY, program, SeededRng(self._sim.faults.below(1 << 30)))

    async def start(self) -> bool:
        """Start; returns when REST answers, or False when it died on the way.

        While the disk is full it may not start: then it is started again, as a supervisor does.
        There is one supervisor: while it is at work, or the node is up, nothing else is started.
        """
        if self._is_starting or (self.process is not None and self.process.alive):
            return False
        self._is_starting = True
        try:
            while True:
                self._found_no_room = False
                is_up = await self._start()
                if not self._found_no_room:
                    return is_up
                await self._sim.clock.sleep(STARTED_AGAIN_S)
        finally:
            self._is_starting = False

    async def _start(self) -> bool:
        self.process = process = self._sim.new_process(self.name)
        up = asyncio.Event()
        process.start(self._main(up))
        waits = [asyncio.ensure_future(event.wait()) for event in (up, process.ended)]
        await asyncio.wait(waits, timeout=UP_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not up.is_set() and process.alive:
            self._sim.wrong(f"{self.name} is not up after {UP_WITHIN_S} s")
        return up.is_set() and process.alive

    async def died(self) -> None:
        assert self.process is not None
        await self.process.ended.wait()

    async def _main(self, up: asyncio.Event) -> None:
        config = NodeConfig(
            datadir=self.folder,
            gsb_url=self.gsb_url,
            autoconf_id_secret=SECRETS[self.name],
            autoconf_appkey=APP_KEY,
        )
        process = self.process
        assert process is not None

        def net(_config: NodeConfig, _world: World, _keys: object, _pins: object) -> Any:
            return SimNet(self._sim.fabric, self.node_id, process)

        around = app.Surroundings(net=net, store=self._sim.open_store, serve=self.door.serve)
        stop = asyncio.Event()
        try:
            world = self._sim.world_of(self.clock)
            async with app.running_node(config, world, stop, around) as self.running:
                up.set()
                await stop.wait()
        except Exception as error:
            if not process.alive:
                return
            self._found_no_room = isinstance(error, StorageFull) and not up.is_set()
            if not self._found_no_room:
                self._sim.wrong(f"{process.name} ended: {error!r}")
            process.kill()


class LedgerRuntime:
    """A runtime whose programs wait and write down that they ran: `run TAG SECONDS`."""

    def __init__(self, world: SimWorld, activity_id: str) -> None:
        self._sim = world
        self._activity_id = activity_id
        self._stop: asyncio.Event = asyncio.Event()

    async def deploy(
        self, image: Path | None, options: DeployOptions, stdout: Sink, stderr: Sink
    ) -> None:
        del image, options, stdout, stderr
        await self._sim.clock.sleep(0.2)

    async def start(self, args: Sequence[str] | None, stdout: Sink, stderr: Sink) -> None:
        del args, stdout, stderr
        self._stop.clear()

    async def run(self, command: Command, stdout: Sink, stderr: Sink) -> int:
        del stderr
        tag, seconds = command.args
        self._enter(tag, "begun")
        try:
            async with asyncio.timeout(float(seconds)):
                await self._stop.wait()
            raise Stopped("the command was stopped")
        except TimeoutError:
            self._enter(tag, "done")
        stdout(f"did {tag}\n".encode())
        return 0

    async def stop(self) -> None:
        self._stop.set()

    async def volumes(self) -> tuple[Volume, ...]:
        return ()

    def counters(self) -> Mapping[str, float]:
        return {}

    def _enter(self, tag: str, what: str) -> None:
        at_s = self._sim.clock.monotonic()
        self._sim.ledger.append(Entry(self._activity_id, tag, what, at_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerChoice(RuntimeChoice):
    """The runtime of an ExeUnit in the simulation."""

    sim: SimWorld
    activity_id: str
    manages_hardware: bool = True
    manages_image: bool = True

    def make(self, *_: object, **__: object) -> Runtime:
        return LedgerRuntime(self.sim, self.activity_id)


class SimExeUnit(ExeUnit):
    """The real ExeUnit, on the simulated disk; its journal is closed when its process dies."""

    disk: Disk

    def _engine(self, *args: Any) -> Any:
        engine = super()._engine(*args)
        process = current()
        assert process is not None
        engine._journal = SimJournal(engine._journal._path, process, self.disk)
        process.at_death.append(engine._journal.close)
        return engine


@dataclass
class SimUnit:
    """An ExeUnit's process."""

    pid: int
    started: float
    activity_id: str
    process: Process
    exe: SimExeUnit | None = None
    code: int = KILLED

    async def wait(self, _world: World) -> int | None:
        await self.process.ended.wait()
        return self.code


@dataclass
class SimUnits:
    """The ExeUnits of the provider's machine; they outlive the agent."""

    world: SimWorld
    clock: SkewedClock
    units: list[SimUnit] = field(default_factory=list)

    def alive(self) -> list[SimUnit]:
        return [unit for unit in self.units if unit.process.alive]

    async def start(self, command: Sequence[str], *, work_dir: Path, gsb_url: str) -> SimUnit:
        words = list(command)
        activity_id, report_url = words[words.index("service-bus") + 1 :][:2]
        await asyncio.to_thread(work_dir.mkdir, parents=True, exist_ok=True)
        setup = Setup(
            activity_id=activity_id,
            report_url=report_url,
            agreement_file=Path(words[words.index("-a") + 1]),
            work_dir=work_dir,
            cache_dir=self.world.folder,
            gsb_url=gsb_url,
            keeps=True,
            runtime=LedgerChoice(sim=self.world, activity_id=activity_id),
        )
        process = self.world.new_process(f"unit-{activity_id[:4]}")
        pid = 1_000_000_000 + len(self.units)
        unit = SimUnit(pid, self.world.clock.monotonic(), activity_id, process)
        others = [other for other in self.alive() if other.activity_id == activity_id]
        if others:
            self.world.wrong(f"a second ExeUnit of {activity_id} beside {others}")
        self.units.append(unit)
        process.start(self._main(unit, setup))
        return unit

    async def adopt(
        self, pid: int | None, started: float | None, activity_id: str
    ) -> SimUnit | None:
        for unit in self.alive():
            if unit.activity_id == activity_id:
                assert unit.pid != pid or unit.started == started
                return unit
        return None

    async def end(self, unit: SimUnit, *, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                if unit.exe is not None:
                    unit.process.run(unit.exe.end, "Interrupted by signal: 15")
                    await unit.process.ended.wait()
        except TimeoutError:
            pass
        unit.process.kill()
        await unit.process.ended.wait()

    async def _main(self, unit: SimUnit, setup: Setup) -> None:
        try:
            unit.exe = SimExeUnit(setup, self.world.world_of(self.clock))
            unit.exe.disk = self.world.disk
            await unit.exe.serve()
            if unit.process.alive:
                unit.code = 0
        except Exception as error:
            if unit.process.alive:
                unit.code = 1
                self.world.wrong(f"{unit.process.name} ended: {error!r}")
        finally:
            unit.process.kill()


class SimAgent:
    """The provider agent, started any number of times on the same data."""

    def __init__(self, world: SimWorld, node: SimNode) -> None:
        self.name = "agent"
        self.units = SimUnits(world, node.clock)
        self.process: Process | None = None
        self._sim = world
        self._node = node
        self._folder = world.folder / "agent"
        self._folder.mkdir()

    async def start(self) -> bool:
        self.process = self._sim.new_process(self.name)
        self.process.start(self._main(self.process))
        return True

    async def died(self) -> None:
        assert self.process is not None
        await self.process.ended.wait()

    async def _main(self, process: Process) -> None:
        config = ProviderConfig(
            app_key=APP_KEY,
            data_dir=self._folder,
            gsb_url=self._node.gsb_url,
            subnet=SUBNET,
            terms=Terms(expiration_min_s=30.0),
            idle_agreement_s=IDLE_S,
        )

        async def store(place: Path, world: World) -> Store:
            return await self._sim.open_store(place, world, "agent")

        async def template(_descriptor: Descriptor) -> dict[str, Any]:
            return OFFER_TEMPLATE

        around = agent.Surroundings(store=store, template=template, units=lambda _world: self.units)
        world = self._sim.world_of(self._node.clock)
        try:
            async with self._node.rest(process.name) as rest:
                found = agent.Agent(config, [RUNTIME], MACHINE, rest, world, surroundings=around)
                await found.run()
        except Exception as error:
            if process.alive:
                self._sim.wrong(f"{process.name} ended: {error!r}")
                process.kill()
