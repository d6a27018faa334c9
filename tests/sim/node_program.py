"""A program of the requestor: it rents, runs batches, is killed, comes back and goes on.

It keeps notes as an honest program does: an id is written down before it is used, and whatever it
was told once is compared with what it is told later. It uses the SDK, and nothing else.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from shem.kernel.errors import ShemError
from shem.kernel.world import SeededRng, World
from shem.rest.errors import CODE_ACTIVITY_ENDED
from shem.sdk.activity import Activity
from shem.sdk.batch import CommandResult
from shem.sdk.errors import (
    ActivityGone,
    BatchTimeout,
    BatchUnknown,
    Ended,
    GolemError,
    NodeRefused,
    NotReachable,
)
from shem.sdk.files import Files
from shem.sdk.golem import Golem
from shem.sdk.patience import Patience
from shem.sdk.payloads import WasmPackage
from shem.sdk.script import Run
from shem.sdk.session import Session
from tests.sim.node_world import SUBNET, SimNode, SimWorld
from tests.sim.process import Process

PACKAGE = WasmPackage("sim:package", "sha3:" + "5d" * 28)
PATIENCE_S = 20.0
EXPIRES = timedelta(minutes=20)
PAUSE_S = 1.0
BETWEEN_DEALS_MAX_S = 6.0
NEVER_RAN = frozenset({"batch-never", "endpoint-gone"})
"""Codes of a refusal that proves that nothing ran."""
NO_ROOM = "storage-full"
NO_ROOM_THERE = "No space left on device"
ENDING = "the activity is being terminated"
GONE = "gone"
NEVER = "never"


@dataclass
class BatchNotes:
    """One batch: what it should do, and what the program was told."""

    tag: str
    batch_id: str
    activity_id: str
    seconds: list[float]
    acknowledged: bool = False
    fate: str | None = None
    """`NEVER`, or `GONE` when the activity ended before anything was told."""
    results: list[CommandResult] = field(default_factory=list)
    ended: bool = False

    def tags(self) -> list[str]:
        return [f"{self.tag}.{index}" for index in range(len(self.seconds))]


@dataclass
class Notes:
    """The program's own disk."""

    activity_id: str | None = None
    activities: dict[str, str] = field(default_factory=dict)
    """Every activity it was given, and its agreement."""
    ending: set[str] = field(default_factory=set)
    """Activities that it has begun to end."""
    left: set[str] = field(default_factory=set)
    """Activities that it was told have ended, or has ended itself."""
    batches: dict[str, BatchNotes] = field(default_factory=dict)
    done: bool = False


class MemoryGolem(Golem):
    """`Golem` whose node is in this process."""

    def __init__(self, node: SimNode, program: str, world: World) -> None:
        super().__init__(app_key="-", subnet=SUBNET, network="holesky", world=world)
        self._rest = node.rest(program)

    async def __aenter__(self) -> "MemoryGolem":
        await self._rest.__aenter__()
        patience = Patience(self._world, PATIENCE_S)
        me = await patience.ask(self._rest.identity.me)
        files = Files(self._world, None)
        self._session = Session(
            self._rest, patience, self._world, self._app, self._subnet, me.identity, files
        )
        return self


class Program:
    """One program, started again on its notes whenever it was killed."""

    def __init__(self, world: SimWorld, node: SimNode, name: str, rng: SeededRng) -> None:
        self.name = name
        self.notes = Notes()
        self.process: Process | None = None
        self._rng = rng
        self._sim = world
        self._node = node

    async def start(self) -> bool:
        self.process = process = self._sim.new_process(self.name)
        process.start(self._main(process))
        return True

    async def died(self) -> None:
        assert self.process is not None
        await self.process.ended.wait()

    async def _main(self, process: Process) -> None:
        try:
            while not self.notes.done:
                try:
                    async with self._golem(process) as golem:
                        await self._work(golem)
                except (GolemError, ShemError) as error:
                    self._sim.note(process.name, f"starts over: {error!r}")
                    await self._sim.clock.sleep(PAUSE_S)
        except Exception as error:
            if process.alive:
                self._sim.wrong(f"{process.name} ended: {error!r}")
        await asyncio.Event().wait()

    @asynccontextmanager
    async def _golem(self, process: Process) -> AsyncIterator[Golem]:
        world = self._sim.world_of(self._node.clock)
        async with MemoryGolem(self._node, process.name, world) as golem:
            yield golem

    # ---- a life ----------------------------------------------------------------------------------

    async def _work(self, golem: Golem) -> None:
        """Make one deal after the other while the storm lasts."""
        activity = await self._taken_up(golem)
        while True:
            await self._deal(golem, activity)
            await self._end_the_rest(golem)
            if self._sim.is_calm:
                break
            await self._sim.clock.sleep(self._rng.unit() * BETWEEN_DEALS_MAX_S)
            activity = None
        self.notes.done = True

    async def _deal(self, golem: Golem, activity: Activity | None) -> None:
        notes = self.notes
        wanted = sum(batch.ended for batch in notes.batches.values()) + 1 + self._rng.below(5)
        while sum(batch.ended for batch in notes.batches.values()) < wanted:
            if activity is None:
                activity = await self._rented(golem)
            try:
                batch = self._next_batch(activity.id)
                await self._run(activity, batch)
            except ActivityGone as gone:
                self._leave(activity.id, repr(gone.ended))
                activity = None
        if activity is not None:
            notes.ending.add(activity.id)
            await activity.end()
            self._leave(activity.id, "ended by its program")

    async def _taken_up(self, golem: Golem) -> Activity | None:
        notes = self.notes
        if notes.activity_id is None:
            await self._end_the_rest(golem)
            return None
        activity = await golem.attach(notes.activity_id)
        report = activity.report
        listed = {entry.batch_id for entry in report.batches}
        for batch in self._mine(activity.id):
            if batch.acknowledged and batch.batch_id not in listed:
                self._sim.wrong(f"{batch.tag} was acknowledged, and attach does not find it")
        if not report.alive:
            for batch in self._mine(activity.id):
                if batch.acknowledged and not batch.ended:
                    await self._read_left(activity, batch)
            self._leave(activity.id, f"found {report.liveness}: {report.ended}")
            return None
        if activity.id in notes.ending:
            await activity.end()
            self._leave(activity.id, "ended by its program at last")
            return None
        return activity

    async def _read_left(self, activity: Activity, batch: BatchNotes) -> None:
        """Read what is left of a batch whose activity has ended."""
        self._told(batch, await activity.batch(batch.batch_id).so_far())

    async def _rented(self, golem: Golem) -> Activity:
        activity = await golem.rent(PACKAGE, expires=EXPIRES, timeout=60, on_exit="detach")
        self.notes.activity_id = activity.id
        self.notes.activities[activity.id] = activity.agreement.id
        self._sim.rented.add(activity.id)
        return activity

    async def _end_the_rest(self, golem: Golem) -> None:
        """End what an earlier life of this program rented and did not write down."""
        for ticket in await golem.tickets():
            if ticket.activity_id in self._sim.rented:
                continue
            activity = await golem.attach(ticket)
            await activity.end("left over")

    def _leave(self, activity_id: str, why: str) -> None:
        self._sim.note(self.name, f"leaves {activity_id}: {why}")
        self.notes.left.add(activity_id)
        self.notes.activity_id = None
        for batch in self._mine(activity_id):
            if not batch.ended:
                batch.fate = GONE if batch.fate is None else batch.fate

    # ---- batches ---------------------------------------------------------------------------------

    def _mine(self, activity_id: str) -> list[BatchNotes]:
        return [b for b in self.notes.batches.values() if b.activity_id == activity_id]

    def _next_batch(self, activity_id: str) -> BatchNotes:
        for batch in self._mine(activity_id):
            if not batch.ended and batch.fate is None:
                return batch
        tag = f"{self.name}-{len(self.notes.batches)}"
        seconds = [self._rng.unit() * 8 for _ in range(1 + self._rng.below(3))]
        batch = BatchNotes(tag, self._rng.token(16).hex(), activity_id, seconds)
        self.notes.batches[tag] = batch
        return batch

    async def _run(self, activity: Activity, batch: BatchNotes) -> None:
        script = [
            Run("prog", tag, f"{s:.3f}") for tag, s in zip(batch.tags(), batch.seconds, strict=True)
        ]
        if not batch.acknowledged:
            try:
                found = await activity.submit(script, batch_id=batch.batch_id)
            except NodeRefused as error:
                if error.code == CODE_ACTIVITY_ENDED:
                    raise ActivityGone(activity.id, Ended("unknown", None, error.message)) from None
                if error.code == NO_ROOM:
                    await self._sim.clock.sleep(PAUSE_S)
                    return
                if error.code not in NEVER_RAN and not _is_said(error.message):
                    self._sim.wrong(f"{batch.tag}: {error!r}")
                batch.fate = NEVER
                await self._sim.clock.sleep(PAUSE_S)
                return
            except (BatchUnknown, NotReachable) as error:
                self._sim.note(self.name, f"{batch.tag}: {error!r}")
                await self._sim.clock.sleep(PAUSE_S)
                return
            if found.id != batch.batch_id:
                self._sim.wrong(f"{batch.tag} was given id {found.id}, chosen was {batch.batch_id}")
            batch.acknowledged = True
        try:
            results = await activity.batch(batch.batch_id).wait(60.0)
        except (BatchTimeout, NotReachable) as error:
            self._sim.note(self.name, f"{batch.tag}: {error!r}")
            return
        except BatchUnknown as error:
            self._sim.wrong(f"{batch.tag} was acknowledged, and then: {error!r}")
            batch.fate = GONE
            return
        self._told(batch, results)

    def _told(self, batch: BatchNotes, results: list[CommandResult]) -> None:
        before = [_essence(result) for result in batch.results]
        now = [_essence(result) for result in results]
        if now[: len(before)] != before:
            self._sim.wrong(f"{batch.tag}: was told {before}, now {now}")
        if len(now) >= len(before):
            batch.results = results
        batch.ended = bool(results) and results[-1].last


def _is_said(refusal: str) -> bool:
    """Whether an ExeUnit has a reason to refuse a good script."""
    return ENDING in refusal or NO_ROOM_THERE in refusal


def _essence(result: CommandResult) -> tuple[Any, ...]:
    return result.index, result.ok, result.stdout, result.message
