"""What goes wrong seldom: full disks, clocks an hour wrong, new addresses, machines that stand.

Drawn from a generator of its own, so that a seed in which none of it happens means what it always
meant. `Storm` has these blow beside its own misfortunes, and heals what they leave.
"""

import asyncio
from collections.abc import Awaitable, Callable

from shem.kernel.world import SeededRng
from tests.sim.node_disk import PROVIDER, REQUESTOR
from tests.sim.node_world import SimNode, SimWorld
from tests.sim.process import Process

SHARE = 0.4
"""Of the seeds; the others have none of it."""
KIND_SHARE = 0.5
BETWEEN_MAX_S = 40.0
FULL_MAX_S = 30.0
JUMP_NS = 3_600 * 10**9
JUMP_MAX_S = 40.0
AWAY_MAX_S = 3.0
STAND_MAX_S = 40.0
KINDS = ("roam", "full", "jump", "stand")


def drawn_kinds(seed: int) -> list[str]:
    """Return what may happen in the life of a seed."""
    return _draw(_rng_of(seed))


def _rng_of(seed: int) -> SeededRng:
    return SeededRng(seed * 7_919 + 3)


def _draw(rng: SeededRng) -> list[str]:
    is_hit = rng.unit() < SHARE
    drawn = [kind for kind in KINDS if rng.unit() < KIND_SHARE]
    return drawn if is_hit else []


class Squalls:
    """Rare misfortunes, one after the other."""

    def __init__(
        self,
        world: SimWorld,
        nodes: tuple[SimNode, SimNode],
        processes: Callable[[str], list[Process]],
    ) -> None:
        self._world = world
        self._nodes = nodes
        self._processes = processes
        self._rng = _rng_of(world.seed)
        self.kinds = _draw(self._rng)

    async def blow(self, tell: Callable[[str], None]) -> None:
        """Blow until cancelled."""
        acts: dict[str, Callable[[Callable[[str], None]], Awaitable[None]]] = {
            "full": self._full,
            "jump": self._jump,
            "roam": self._roam,
            "stand": self._stand,
        }
        while self.kinds:
            await self._world.clock.sleep(self._rng.unit() * BETWEEN_MAX_S)
            await acts[self.kinds[self._rng.below(len(self.kinds))]](tell)

    def heal(self) -> None:
        self._world.disk.full.clear()
        for node in self._nodes:
            node.clock.jump_ns = 0

    async def _full(self, tell: Callable[[str], None]) -> None:
        machine = (REQUESTOR, PROVIDER)[self._rng.below(2)]
        for_s = self._rng.unit() ** 2 * FULL_MAX_S
        tell(f"the {machine}'s disk is full for {for_s:.1f} s")
        self._world.disk.full.add(machine)
        await self._world.clock.sleep(for_s)
        self._world.disk.full.discard(machine)

    async def _jump(self, tell: Callable[[str], None]) -> None:
        """A clock is an hour wrong, until somebody sets it right."""
        node = self._nodes[self._rng.below(2)]
        for_s = self._rng.unit() * JUMP_MAX_S
        node.clock.jump_ns = JUMP_NS if self._rng.unit() < 0.5 else -JUMP_NS
        tell(f"{node.name}'s clock is {node.clock.jump_ns // 10**9} s wrong for {for_s:.1f} s")
        await self._world.clock.sleep(for_s)
        node.clock.jump_ns = 0

    async def _roam(self, tell: Callable[[str], None]) -> None:
        """One has another address: its sessions are over, and it is to be found again."""
        one, other = (node.node_id for node in self._nodes)
        away_s = self._rng.unit() ** 2 * AWAY_MAX_S
        tell(f"a new address, found after {away_s:.1f} s")
        self._world.fabric.cut(one, other)
        try:
            await asyncio.sleep(away_s)
        finally:
            self._world.fabric.join(one, other)

    async def _stand(self, tell: Callable[[str], None]) -> None:
        """A whole machine stands still, as one that is suspended does."""
        machine = (REQUESTOR, PROVIDER)[self._rng.below(2)]
        for_s = self._rng.unit() ** 2 * STAND_MAX_S
        tell(f"the {machine}'s machine stands for {for_s:.1f} s")
        standing = [each for each in self._processes(machine) if not each.is_paused]
        for process in standing:
            process.pause()
        await self._world.clock.sleep(for_s)
        for process in standing:
            process.resume()
