"""What goes wrong in a simulated world, drawn from its seed; and the peace after it."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from shem.kernel.world import SeededRng
from tests.sim.node_program import Program
from tests.sim.node_squalls import Squalls
from tests.sim.node_world import SimAgent, SimNode, SimWorld
from tests.sim.process import Process

STORM_MIN_S = 30.0
STORM_MAX_S = 150.0
CALM_MAX_S = 8.0
"""Between two misfortunes."""
DOWN_MAX_S = 25.0
POINTS_MAX = 1_500
PAUSE_MAX_S = 30.0
CUT_MAX_S = 60.0
KINDS = ("crash", "crash-soon", "pause", "cut", "cut-one-way", "weather", "disk", "skew")


class Startable(Protocol):
    """A program that may be started again."""

    name: str
    process: Process | None

    async def start(self) -> bool: ...
    async def died(self) -> None: ...


@dataclass
class City:
    """The world with all that lives in it."""

    world: SimWorld
    requestor: SimNode
    provider: SimNode
    agent: SimAgent
    programs: list[Program]
    happened: list[str] = field(default_factory=list)
    lived_s: float = 0.0

    def victims(self) -> list[Startable]:
        return [self.requestor, self.provider, self.agent, *self.programs]

    def processes(self, machine: str) -> list[Process]:
        """Return what lives on one of the two machines."""
        if machine == self.requestor.name:
            found = [each.process for each in (self.requestor, *self.programs)]
        else:
            units = [unit.process for unit in self.agent.units.alive()]
            found = [self.provider.process, self.agent.process, *units]
        return [process for process in found if process is not None and process.alive]


def found_city(folder: Path, seed: int) -> City:
    world = SimWorld(folder, seed)
    structlog.configure(processors=[structlog.processors.add_log_level, world.log])
    requestor = SimNode(world, "requestor")
    provider = SimNode(world, "provider")
    count = 1 + world.faults.below(2)
    programs = [
        Program(world, requestor, f"program{n}", SeededRng(seed * 31 + n)) for n in range(count)
    ]
    return City(world, requestor, provider, SimAgent(world, provider), programs)


class Storm:
    """Misfortunes, one after the other; those that last do so side by side."""

    def __init__(self, city: City) -> None:
        self._city = city
        self._rng = city.world.faults
        self._under_way: set[asyncio.Task[None]] = set()
        self.kinds = [kind for kind in KINDS if self._rng.unit() < 0.6] or ["crash"]
        self.happened: list[str] = []
        self._squalls = Squalls(city.world, (city.requestor, city.provider), city.processes)

    async def blow(self) -> None:
        clock = self._city.world.clock
        until_s = clock.monotonic() + STORM_MIN_S + self._rng.unit() * (STORM_MAX_S - STORM_MIN_S)
        if self._squalls.kinds:
            self._begin(self._squalls.blow(self._tell))
        while clock.monotonic() < until_s:
            await clock.sleep(self._rng.unit() * CALM_MAX_S)
            self._begin(self._misfortune(self.kinds[self._rng.below(len(self.kinds))]))
        await self._pass()

    def _begin(self, misfortune: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(misfortune)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _pass(self) -> None:
        """Fair weather again, and everybody up."""
        self._city.world.is_calm = True
        self._city.world.weather.clear()
        self._city.world.disk.slow = 0.0
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._squalls.heal()
        for victim in self._city.victims():
            assert victim.process is not None
            victim.process.dies_at = None
            victim.process.resume()
            if not victim.process.alive:
                await victim.died()
                await self._up(victim)
        for unit in self._city.agent.units.units:
            unit.process.dies_at = None
            unit.process.resume()
        self._city.world.fabric.unblock(*self._ids())

    async def _misfortune(self, kind: str) -> None:
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "crash": self._crash,
            "crash-soon": self._crash,
            "pause": self._pause,
            "cut": self._cut,
            "cut-one-way": self._cut_one_way,
            "weather": self._weather,
            "disk": self._disk,
            "skew": self._skew,
        }
        await acts[kind]()

    def _tell(self, what: str) -> None:
        self.happened.append(what)
        self._city.world.note("storm", what)

    def _draw_points(self) -> int:
        return int(math.exp(self._rng.unit() * math.log(POINTS_MAX)))

    async def _crash(self) -> None:
        units = self._city.agent.units.alive()
        victims = self._city.victims()
        index = self._rng.below(len(victims) + (1 if units else 0))
        points = self._draw_points()
        down_s = self._rng.unit() * DOWN_MAX_S if self._rng.unit() < 0.6 else self._rng.unit()
        if index == len(victims):
            unit = units[self._rng.below(len(units))]
            self._tell(f"{unit.process.name} will die in {points} points")
            unit.process.dies_at = unit.process.points + points
            return
        victim = victims[index]
        process = victim.process
        assert process is not None
        if not process.alive or process.dies_at is not None:
            return
        self._tell(f"{process.name} will die in {points} points, for {down_s:.1f} s")
        process.dies_at = process.points + points
        await victim.died()
        await self._city.world.clock.sleep(down_s)
        await self._up(victim)

    async def _up(self, victim: Startable) -> None:
        self._tell(f"{victim.name} starts")
        await victim.start()

    async def _pause(self) -> None:
        processes = [v.process for v in self._city.victims() if v.process is not None]
        processes += [unit.process for unit in self._city.agent.units.alive()]
        process = processes[self._rng.below(len(processes))]
        for_s = self._rng.unit() * PAUSE_MAX_S
        if process.alive and not process.is_paused:
            self._tell(f"{process.name} stands for {for_s:.1f} s")
            process.pause()
            await self._city.world.clock.sleep(for_s)
            process.resume()

    def _ids(self) -> tuple[str, str]:
        return self._city.requestor.node_id, self._city.provider.node_id

    async def _cut(self) -> None:
        one, other = self._ids()
        await self._block([(one, other), (other, one)])

    async def _cut_one_way(self) -> None:
        one, other = self._ids()
        await self._block([(one, other) if self._rng.unit() < 0.5 else (other, one)])

    async def _block(self, ways: list[tuple[str, str]]) -> None:
        for_s = self._rng.unit() ** 2 * CUT_MAX_S
        self._tell(f"{len(ways)} ways blocked for {for_s:.1f} s")
        for sender, receiver in ways:
            self._city.world.fabric.block(sender, receiver)
        await self._city.world.clock.sleep(for_s)
        self._city.world.fabric.unblock(*self._ids())

    async def _weather(self) -> None:
        weather, draw = self._city.world.weather, self._rng.unit
        weather.loss = draw() * 0.3 if draw() < 0.6 else 0.0
        weather.doubling = draw() * 0.2 if draw() < 0.6 else 0.0
        weather.delay_s = draw() * 0.08
        weather.late = draw() * 0.1 if draw() < 0.5 else 0.0
        self._tell(f"weather: {weather.loss:.2f} lost, {weather.doubling:.2f} doubled")

    async def _disk(self) -> None:
        self._city.world.disk.slow = self._rng.unit() * 0.3
        self._tell(f"disk: {self._city.world.disk.slow:.2f} slow")

    async def _skew(self) -> None:
        node = (self._city.requestor, self._city.provider)[self._rng.below(2)]
        node.clock.skew_ns = int((self._rng.unit() * 10 - 5) * 1e9)
        self._tell(f"{node.name}'s clock is {node.clock.skew_ns / 1e9:.1f} s off")
