"""The activities of this provider: one supervising task each, from creation to the last word.

The record is written before the process is started and before it is stopped, so an agent that
starts again goes on where the old one was: it adopts what lives, ends what was being ended, and
tells the node what it has not been told. A process that dies by itself is started again on its
journal, which keeps all results and never repeats a batch; after `RESTARTS_MAX` times that is over.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from shem.kernel.errors import ShemError
from shem.kernel.failpoints import passing
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.cleaning import Leftovers
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import Descriptor
from shem.provider.exeunits import FINISHING_SIGNAL, ExeUnitProcess, Unit, Units, read_word
from shem.provider.handover import hand_over
from shem.provider.patience import until_answered
from shem.provider.records import ActivityPhase, ActivityRecord, AgreementRecord, Records, Refusal
from shem.provider.stand_in import StandIn
from shem.rest.client import RestClient
from shem.rest.models import ActivityState

ACTIVITIES_PER_AGREEMENT_MAX: Final = 1
"""At a time, as other providers do; one after another as often as the requestor likes."""
RESTARTS_MAX: Final = 3
RESTART_DELAY_S: Final = 0.5
EXIT_ENDED: Final = 0
RUNTIME_NAME: Final = "golem.runtime.name"
MULTI_ACTIVITY: Final = "golem.srv.caps.multi-activity"

log = structlog.get_logger()


@dataclass(slots=True)
class _Handle:
    """What the supervising task of an activity waits for."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stop: bool = False
    unit: Unit | None = None
    exit: tuple[int | None] | None = None
    """The exit code (None: unknown) of a process that has ended."""

    async def end_or_stop(self) -> tuple[int | None] | None:
        """Wait until the process has ended (its code) or is to be stopped (None)."""
        while self.exit is None and not self.stop:
            await self.changed.wait()
            self.changed.clear()
        return None if self.stop else self.exit


class Activities:
    """Starts, watches, adopts and ends ExeUnits."""

    def __init__(
        self,
        *,
        config: ProviderConfig,
        descriptors: Sequence[Descriptor],
        records: Records,
        client: RestClient,
        units: Units,
        world: World,
        scope: TaskScope,
    ) -> None:
        self._config = config
        self._leftovers = Leftovers(config, records)
        self._stand_in = StandIn(
            records, config.gsb_url, world, scope, on_end=self._leftovers.activity_ended
        )
        self._units = units
        self._descriptors = {descriptor.name: descriptor for descriptor in descriptors}
        self._records = records
        self._client = client
        self._world = world
        self._scope = scope
        self._handles: dict[str, _Handle] = {}
        self._of_agreement: dict[str, list[str]] = {}
        self._on_ended: list[Callable[[str], None]] = []
        self._on_over: list[Callable[[str, str], Awaitable[None]]] = []

    def on_ended(self, fn: Callable[[str], None]) -> None:
        """Call `fn` with the agreement id whenever an activity of it has ended."""
        self._on_ended.append(fn)

    def on_over(self, fn: Callable[[str, str], Awaitable[None]]) -> None:
        """Call `fn` with agreement id and reason when an activity has ended and no other may come.

        It returns when that is durable, and may be called again after a restart.
        """
        self._on_over.append(fn)

    def of(self, agreement_id: str) -> list[str]:
        """Return the activities of an agreement that have not ended."""
        return list(self._of_agreement.get(agreement_id, ()))

    async def resume(self) -> None:
        """Take up what an earlier agent left."""
        await self._stand_in.resume()
        for record in await self._records.open_activities():
            agreement = await self._records.agreement(record.agreement_id)
            if agreement is not None:
                log.info("activity.resumed", activity=record.activity_id, phase=str(record.phase))
                self._supervise(record, agreement)

    async def create(self, activity_id: str, agreement: AgreementRecord) -> None:
        """Begin an activity; a repeat changes nothing."""
        running = [
            other for other in self.of(agreement.agreement_id) if not self._handles[other].stop
        ]
        refusal = None
        if len(running) >= ACTIVITIES_PER_AGREEMENT_MAX:
            message = f"Activity {running[0]} of this agreement is still there."
            refusal = Refusal("Only single Activity allowed", message)
        await self._add(activity_id, agreement, refusal)

    async def refuse(self, activity_id: str, agreement: AgreementRecord) -> None:
        """End an activity that was created under an agreement that is over."""
        message = f"Agreement {agreement.agreement_id} is over."
        await self._add(activity_id, agreement, Refusal("Agreement ended", message))

    async def _add(
        self, activity_id: str, agreement: AgreementRecord, refusal: Refusal | None
    ) -> None:
        if await self._records.activity(activity_id) is not None:
            return
        await self._records.add_activity(activity_id, agreement.agreement_id, refusal)
        passing("agent.activity_recorded")
        record = await self._records.activity(activity_id)
        assert record is not None
        self._supervise(record, agreement)

    async def destroy(self, activity_id: str, reason: str) -> None:
        """End an activity; returns when the wish is durable, not when it has ended."""
        handle = self._handles.get(activity_id)
        if handle is None or handle.stop:
            return
        await self._records.set_activity(activity_id, ActivityPhase.STOPPING, reason=reason)
        passing("agent.stop_recorded")
        handle.stop = True
        handle.changed.set()

    async def clear(self, agreement_id: str) -> None:
        """Remove what an agreement that has ended left on the disk, once nobody needs it."""
        await self._leftovers.agreement_ended(agreement_id)

    def finish(self, agreement_id: str) -> bool:
        """Have the activities of an agreement take nothing new and end with what runs.

        May be repeated; False when there is none.
        """
        found = self.of(agreement_id)
        for activity_id in found:
            unit = self._handles[activity_id].unit
            if isinstance(unit, ExeUnitProcess):
                unit.send(FINISHING_SIGNAL)
        return bool(found)

    def _supervise(self, record: ActivityRecord, agreement: AgreementRecord) -> None:
        handle = _Handle()
        handle.stop = record.phase is not ActivityPhase.RUNNING
        self._handles[record.activity_id] = handle
        self._of_agreement.setdefault(agreement.agreement_id, []).append(record.activity_id)
        self._scope.spawn(self._live(record, agreement, handle), f"activity {record.activity_id}")

    async def _live(
        self, record: ActivityRecord, agreement: AgreementRecord, handle: _Handle
    ) -> None:
        """The whole life of an activity from here on."""
        activity_id = record.activity_id
        if record.phase is not ActivityPhase.REPORTING:
            process = await self._units.adopt(record.pid, record.pid_started, activity_id)
            if process is not None:
                log.info("exeunit.adopted", activity=activity_id, pid=process.pid)
                await self._write_down(activity_id, process, record.restarts)
            if not handle.stop:
                process = await self._keep_running(record, agreement, handle, process)
            if process is not None:
                await self._units.end(process, patience_s=self._config.termination_s)
            await self._records.set_activity(activity_id, ActivityPhase.REPORTING)
        directory = self._config.work_dir / agreement.agreement_id / activity_id
        if not await hand_over(activity_id, directory, self._config.gsb_url, self._world):
            await self._stand_in.take_over(activity_id, directory, agreement)
        await self._tell_terminated(activity_id)
        handle.stop = True
        await self._tell_over(activity_id, agreement, directory)
        await self._records.set_activity(activity_id, ActivityPhase.ENDED)
        await self._leftovers.activity_ended(directory)
        log.info("activity.ended", activity=activity_id, agreement=agreement.agreement_id)
        self._forget(activity_id, agreement.agreement_id)
        for fn in self._on_ended:
            fn(agreement.agreement_id)

    def _forget(self, activity_id: str, agreement_id: str) -> None:
        del self._handles[activity_id]
        left = self._of_agreement[agreement_id]
        left.remove(activity_id)
        if not left:
            del self._of_agreement[agreement_id]

    async def _tell_over(
        self, activity_id: str, agreement: AgreementRecord, directory: Path
    ) -> None:
        """Say so when the agreement is at its end with this activity."""
        word = await asyncio.to_thread(read_word, directory)
        others = [other for other in self.of(agreement.agreement_id) if other != activity_id]
        if word is None and (agreement.demand.get(MULTI_ACTIVITY) is True or others):
            return
        passing("agent.work_over")
        for fn in self._on_over:
            await fn(agreement.agreement_id, word or "")

    async def _keep_running(
        self,
        record: ActivityRecord,
        agreement: AgreementRecord,
        handle: _Handle,
        process: Unit | None,
    ) -> Unit | None:
        """Keep a process alive until a stop is asked for; returns what still has to be ended."""
        restarts = record.restarts
        if process is None and record.pid is not None:
            restarts += 1  # it died while no agent was there
            if await self._is_over(record.activity_id, agreement, None, 0):
                return None
        while True:
            if process is None:
                process = await self._start(record.activity_id, agreement, restarts)
                if process is None:
                    return None
            handle.exit = None
            handle.unit = process
            self._scope.spawn(self._watch(process, handle), f"process {process.pid}")
            ended = await handle.end_or_stop()
            if ended is None:
                return process
            handle.unit = None
            if await self._is_over(record.activity_id, agreement, ended[0], restarts):
                return None
            process = None
            restarts += 1
            await self._world.clock.sleep(RESTART_DELAY_S)

    async def _is_over(
        self, activity_id: str, agreement: AgreementRecord, code: int | None, restarts: int
    ) -> bool:
        """Say whether a process that ended by itself is to stay ended."""
        directory = self._config.work_dir / agreement.agreement_id / activity_id
        word = await asyncio.to_thread(read_word, directory)
        if word is not None:
            reason, message = word, None
        elif code == EXIT_ENDED:
            reason, message = "Finished", None
        elif restarts >= RESTARTS_MAX:
            reason, message = "execution aborted", f"exit code {code}, after {restarts} restarts"
        else:
            log.warning("exeunit.died", activity=activity_id, code=code, restarts=restarts)
            return False
        await self._records.set_activity(
            activity_id, ActivityPhase.REPORTING, reason=reason, error_message=message
        )
        return True

    async def _start(
        self, activity_id: str, agreement: AgreementRecord, restarts: int
    ) -> Unit | None:
        """Start the process and write it down; None, with the reason written, when it fails."""
        directory = self._config.work_dir / agreement.agreement_id
        agreement_file = directory / "agreement.json"
        try:
            descriptor = self._descriptor_of(agreement)
            await asyncio.to_thread(_write_agreement, agreement_file, agreement.body)
            process = await self._units.start(
                descriptor.service_command(
                    activity_id,
                    agreement_file=agreement_file,
                    work_dir=directory / activity_id,
                    cache_dir=self._config.cache_dir,
                ),
                work_dir=directory / activity_id,
                gsb_url=self._config.gsb_url,
            )
        except (OSError, KeyError) as error:
            log.warning("exeunit.not_started", activity=activity_id, reason=repr(error))
            await self._records.set_activity(
                activity_id,
                ActivityPhase.REPORTING,
                reason="creation failed",
                error_message=repr(error),
            )
            return None
        passing("agent.exeunit_started")
        await self._write_down(activity_id, process, restarts)
        log.info("exeunit.started", activity=activity_id, pid=process.pid, restarts=restarts)
        return process

    async def _write_down(self, activity_id: str, process: Unit, restarts: int) -> None:
        await self._records.set_process(
            activity_id, process.pid, process.started, restarts=restarts
        )

    async def _watch(self, process: Unit, handle: _Handle) -> None:
        handle.exit = (await process.wait(self._world),)
        handle.changed.set()

    async def _tell_terminated(self, activity_id: str) -> None:
        """Make sure the node knows the end; asks until the node answers."""
        record = await self._records.activity(activity_id)
        assert record is not None

        async def tell() -> None:
            known = await self._client.activity.state(activity_id)
            if known.current == "Terminated":
                return
            state = ActivityState(
                ("Terminated", None), reason=record.reason, error_message=record.error_message
            )
            await self._client.activity.set_state(activity_id, state)

        try:
            await until_answered("tell Terminated", tell, self._world)
        except ShemError as error:
            log.warning("activity.end_not_told", activity=activity_id, reason=str(error))

    def _descriptor_of(self, agreement: AgreementRecord) -> Descriptor:
        name = agreement.body["runtime"]
        return self._descriptors[name]


def _write_agreement(path: Path, body: Mapping[str, Any]) -> None:
    """Write the agreement file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(body["agreement"], indent=2))
    partial.replace(path)
