"""The ExeUnit process of one activity: it answers, runs, reports, and ends in an orderly way.

It depends on neither the node nor the agent being there. It ends by SIGTERM, when its agreement
expires, or when a usage limit is exceeded; whatever ends it, results are durable before.
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from shem.bus.client import BusClient
from shem.exeunit.agreement import load_terms
from shem.exeunit.core import State
from shem.exeunit.ender import Ender
from shem.exeunit.endpoints import Endpoints
from shem.exeunit.engine import Engine
from shem.exeunit.feeds import ProgressFeed
from shem.exeunit.image import Images, allowed_directories, parse_task_package
from shem.exeunit.journal import Journal
from shem.exeunit.performer import Performer
from shem.exeunit.reports import Reports
from shem.exeunit.runtimes.base import Limits, Runtime
from shem.exeunit.runtimes.choice import RuntimeChoice
from shem.exeunit.transfer.mover import Mover
from shem.exeunit.transfer.service import Transfers, clear_staging
from shem.exeunit.usage import Usage, measure_directory_gib
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import ShemError
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World

JOURNAL_NAME: Final = "journal"
SHUT_DOWN_TIMEOUT_S: Final = 3.5
"""Of the agent's five seconds before SIGKILL."""
LAST_REPORT_TIMEOUT_S: Final = 1.0
WATCH_PERIOD_S: Final = 1.0
CHECKPOINT_PERIOD_S: Final = 30.0
STORAGE_PERIOD_S: Final = 2.0
STORAGE_PAUSE: Final = 50
"""Times what it takes to look at the storage is waited before the next look."""
EXPIRY_CHECK_S: Final = 30.0
"""The wall clock may be set: look again now and then."""
_GIB: Final = 1 << 30

FROM_CACHE: Final = "Deployed image from cache"
FINISHED: Final = "Finished"
"""The cause when the activity had ended before: only the last word was missing."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the agent says on the command line."""

    activity_id: str
    report_url: str
    agreement_file: Path
    work_dir: Path
    cache_dir: Path
    gsb_url: str
    keeps: bool = False
    """Whether the agent will hand the journal over to the node when this process has ended."""
    runtime: RuntimeChoice = field(default_factory=RuntimeChoice)


class ExeUnit:
    """One running ExeUnit."""

    def __init__(self, setup: Setup, world: World) -> None:
        self._setup = setup
        self._world = world
        self._terms = load_terms(setup.agreement_file)
        self._stored_gib = 0.0
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ender: Ender | None = None
        self._finish = False

    def end(self, cause: str) -> None:
        """Ask the process to end; the first cause counts."""
        if not self._end.done():
            self._end.set_result(cause)

    def finish(self) -> None:
        """Take nothing new and end with what runs: the requestor is away for too long."""
        self._finish = True
        if self._ender is not None:
            self._ender.finish()

    async def serve(self) -> None:
        """Run until something ends it."""
        setup = self._setup
        client = BusClient(parse_gsb_url(setup.gsb_url), name="shem-exe-unit", world=self._world)
        scope = TaskScope()
        async with client, scope:
            runtime = self._runtime(scope)
            mover = Mover(client, self._world)
            engine = self._engine(runtime, mover, scope)
            await engine.open()
            await asyncio.to_thread(clear_staging, setup.work_dir)
            log.info("exeunit.up", activity=setup.activity_id, state=str(engine.core.state))
            await self._serve_on(client, engine, runtime, mover, scope)

    async def _serve_on(
        self, client: BusClient, engine: Engine, runtime: Runtime, mover: Mover, scope: TaskScope
    ) -> None:
        usage = self._usage(engine, runtime)
        reports = self._reports(engine, usage, client)
        endpoints = Endpoints(self._setup.activity_id, engine, reports, self._terms.manifest)
        if engine.core.state is State.TERMINATED:
            end = engine.core.end
            await reports.tell_end(end.text() if end.begun else FINISHED, None)
            return
        await endpoints.bind(client)
        scope.spawn(reports.tell_states(), "state reports")
        scope.spawn(reports.tell_usage(), "usage reports")
        scope.spawn(self._watch_usage(usage, engine), "usage checkpoints")
        scope.spawn(self._watch_storage(usage, engine), "storage")
        scope.spawn(self._watch_expiry(), "expiry")
        scope.spawn(self._end_by_terms(engine, usage, runtime, mover), "end by its terms")
        cause = await self._end
        log.info("exeunit.ending", activity=self._setup.activity_id, cause=cause)
        await self._shut_down(engine, usage, reports, cause)
        await self._leave(endpoints, client)

    async def _end_by_terms(
        self, engine: Engine, usage: Usage, runtime: Runtime, mover: Mover
    ) -> None:
        self._ender = Ender(
            activity_id=self._setup.activity_id,
            work_dir=self._setup.work_dir,
            terms=self._terms,
            engine=engine,
            usage=usage,
            runtime=runtime,
            mover=mover,
            world=self._world,
        )
        if self._finish:
            self._ender.finish()
        self.end(await self._ender.run())

    async def _shut_down(
        self, engine: Engine, usage: Usage, reports: Reports | None, cause: str
    ) -> None:
        try:
            async with asyncio.timeout(SHUT_DOWN_TIMEOUT_S):
                await engine.checkpoint_usage(usage.values())
                await engine.shut_down()
        except (TimeoutError, ShemError) as error:
            log.warning("exeunit.not_orderly", reason=str(error))
        if reports is None:
            return
        try:
            async with asyncio.timeout(LAST_REPORT_TIMEOUT_S):
                await reports.tell_end(f"{cause}: {_summary(engine)}", None)
        except TimeoutError:
            log.warning("exeunit.end_not_told", activity=self._setup.activity_id)

    async def _leave(self, endpoints: Endpoints, client: BusClient) -> None:
        if client.is_connected:
            try:
                async with asyncio.timeout(LAST_REPORT_TIMEOUT_S):
                    await endpoints.unbind(client)
            except (TimeoutError, ShemError) as error:
                log.debug("exeunit.not_unbound", reason=str(error))

    def _engine(self, runtime: Runtime, mover: Mover, scope: TaskScope) -> Engine:
        transfers = Transfers(self._setup.work_dir, mover, self._world.rng, self._space_left)
        performer = Performer(
            runtime,
            fetch_image=lambda progress: self._fetch_image(mover, progress),
            move_files=transfers.perform,
            world=self._world,
        )
        journal = Journal(self._setup.work_dir / JOURNAL_NAME)
        return Engine(journal=journal, performer=performer, world=self._world, scope=scope)

    def _usage(self, engine: Engine, runtime: Runtime) -> Usage:
        return Usage(
            self._terms,
            self._world.clock.monotonic,
            dict(engine.core.usage),
            own_counters=runtime.counters,
            watched=self._setup.runtime.watched,
        )

    def _reports(self, engine: Engine, usage: Usage, client: BusClient) -> Reports:
        return Reports(
            activity_id=self._setup.activity_id,
            report_url=self._setup.report_url,
            engine=engine,
            usage=usage,
            client=client,
            world=self._world,
            keeps=self._setup.keeps,
        )

    def _runtime(self, scope: TaskScope) -> Runtime:
        terms = self._terms
        limits = Limits(
            memory_size=None if terms.memory_gib is None else int(terms.memory_gib * _GIB),
            storage_size=None if terms.storage_gib is None else int(terms.storage_gib * _GIB),
            threads=terms.threads,
        )
        setup = self._setup
        return setup.runtime.make(
            setup.work_dir,
            limits,
            self._world,
            scope,
            cache_dir=setup.cache_dir,
            outbound=terms.outbound,
        )

    async def _fetch_image(self, mover: Mover, progress: ProgressFeed) -> Path | None:
        package = self._terms.task_package
        if package is None or self._setup.runtime.manages_image:
            return None
        images = Images(self._setup.cache_dir, mover, self._world.rng, allowed_directories())
        path, was_there = await images.fetch(parse_task_package(package), progress)
        if was_there:
            progress.say(FROM_CACHE)
        return path

    def _space_left(self) -> int | None:
        """Return how many bytes the activity may still store, as far as was last seen."""
        if self._terms.storage_gib is None:
            return None
        return int((self._terms.storage_gib - self._stored_gib) * _GIB)

    async def _watch_usage(self, usage: Usage, engine: Engine) -> None:
        """Keep checkpoints of the usage, and end when a limit is exceeded."""
        elapsed_s = 0.0
        while True:
            await self._world.clock.sleep(usage.pause_s(WATCH_PERIOD_S))
            elapsed_s += WATCH_PERIOD_S
            if (limit := usage.exceeded()) is not None:
                self.end(limit)
            if elapsed_s >= CHECKPOINT_PERIOD_S:
                elapsed_s = 0.0
                try:
                    await engine.checkpoint_usage(usage.values())
                except ShemError as error:
                    log.warning("journal.write_failed", reason=error.message)

    async def _watch_storage(self, usage: Usage, engine: Engine) -> None:
        """Look at the storage again and again while something may write there."""
        clock = self._world.clock
        while True:
            change = asyncio.ensure_future(engine.changed.wait())  # also one during the look
            try:
                started_s = clock.monotonic()
                stored_gib = await asyncio.to_thread(measure_directory_gib, self._setup.work_dir)
                self._stored_gib = usage.storage_gib = stored_gib
                took_s = clock.monotonic() - started_s
                await clock.sleep(max(usage.pause_s(STORAGE_PERIOD_S), STORAGE_PAUSE * took_s))
                if engine.running() is None and not self._setup.runtime.is_plugin:
                    await change
            finally:
                change.cancel()

    async def _watch_expiry(self) -> None:
        """End with the agreement, whether or not anyone is there to say so."""
        expires_ns = self._terms.expires_ns
        if expires_ns is None:
            return
        while (left_ns := expires_ns - self._world.clock.wall_ns()) > 0:
            await self._world.clock.sleep(min(left_ns / NS_PER_S, EXPIRY_CHECK_S))
        self.end("Agreement expired")


def _summary(engine: Engine) -> str:
    batches = engine.core.batches.values()
    done = sum(batch.ended for batch in batches)
    commands_done = sum(len(batch.results) for batch in batches)
    commands = sum(len(batch.script.commands) for batch in batches)
    return json.dumps(
        {
            "batches_done": done,
            "batches_pending": len(batches) - done,
            "cmds_done": commands_done,
            "cmds_pending": commands - commands_done,
        }
    )
