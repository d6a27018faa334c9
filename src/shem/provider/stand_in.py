"""The agent speaks for its ended ExeUnits at a node that does not keep results: at a yagna.

It takes the address of the ExeUnit on the bus and answers from the journal in the work directory:
results, the list of batches, what was accepted. Whose turn that is and until when is written down
first, so the next agent goes on. A yagna does not check who calls; here the caller it names must be
the agreement's requestor, but that is its word alone (docs/protocol/activity-exeunit.md §4, §5.6).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from shem.activity.messages import Body, error_payload
from shem.bus.client import BusClient
from shem.bus.typed import typed
from shem.bus.types import Call, NoSuchEndpoint
from shem.exeunit.core import Batch
from shem.exeunit.endpoints import LISTED_MAX
from shem.exeunit.estate import read_estate
from shem.exeunit.results import select
from shem.exeunit.service import JOURNAL_NAME
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import Denied, NotFound, ShemError
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.provider.patience import BackOff
from shem.provider.records import AgreementRecord, Records
from shem.rest.terms import retention_s

STOOD_IN_MAX: Final = 500
"""Activities spoken for at once; those whose time is over first go first."""
LOOK_S: Final = 600.0
"""Between two looks whose time is over."""
PREFIX: Final = "stand-in:"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Duty:
    """One activity to speak for."""

    activity_id: str
    directory: str
    requestor: str
    until_ns: int

    @property
    def address(self) -> str:
        return f"/public/exeunit/{self.activity_id}"


async def spoken_for(records: Records) -> frozenset[Path]:
    """Return the work directories that are the only copy of results which are promised."""
    found = (await records.settings(PREFIX)).values()
    return frozenset(Path(json.loads(value)["directory"]) for value in found)


class StandIn:
    """Answers in place of ExeUnits."""

    def __init__(
        self,
        records: Records,
        gsb_url: str,
        world: World,
        scope: TaskScope,
        *,
        on_end: Callable[[Path], Awaitable[None]] | None = None,
    ) -> None:
        self._records = records
        self._gsb_url = gsb_url
        self._world = world
        self._scope = scope
        self._on_end = on_end
        """Called with the work directory of an activity that is not spoken for any more."""
        self._stack = AsyncExitStack()
        self._client: BusClient | None = None
        self._duties: dict[str, Duty] = {}
        self._last_read: tuple[str, dict[str, Batch]] = ("", {})

    async def resume(self) -> None:
        """Take up what an earlier agent had taken over; then look after it, for ever."""
        for value in (await self._records.settings(PREFIX)).values():
            await self._begin(Duty(**json.loads(value)))
        self._scope.spawn(self._look_after(), "stand-ins")

    async def take_over(self, activity_id: str, directory: Path, of: AgreementRecord) -> None:
        """Speak for an activity from now on, for the agreement's life and the agreed retention."""
        until_ns = of.expires_ns + int(retention_s(of.offer) * NS_PER_S)
        duty = Duty(activity_id, str(directory), of.requestor, until_ns)
        fields = {name: getattr(duty, name) for name in Duty.__slots__}
        await self._records.set(f"{PREFIX}{activity_id}", json.dumps(fields))
        await self._begin(duty)

    async def _begin(self, duty: Duty) -> None:
        if self._client is None:
            client = BusClient(
                parse_gsb_url(self._gsb_url), name="shem-provider", world=self._world
            )
            self._client = await self._stack.enter_async_context(client)
        while len(self._duties) >= STOOD_IN_MAX:
            await self._end(min(self._duties.values(), key=lambda each: each.until_ns))
        self._duties[duty.activity_id] = duty
        self._scope.spawn(self._bind(self._client, duty), f"stand-in for {duty.activity_id}")

    async def _bind(self, client: BusClient, duty: Duty) -> None:
        """Take the address as soon as the ExeUnit's connection is gone."""
        back_off = BackOff(self._world)
        while duty.activity_id in self._duties:
            try:
                await client.bind(duty.address, self._handler(duty))
            except ShemError as error:
                log.info("standin.waits", activity=duty.activity_id, reason=error.message)
                await back_off.wait()
            else:
                log.info("standin.up", activity=duty.activity_id)
                return

    async def _look_after(self) -> None:
        try:
            while True:
                now_ns = self._world.clock.wall_ns()
                for duty in tuple(self._duties.values()):
                    if duty.until_ns <= now_ns:
                        await self._end(duty)
                self._last_read = ("", {})
                await self._world.clock.sleep(LOOK_S)
        finally:
            await self._stack.aclose()

    async def _end(self, duty: Duty) -> None:
        log.warning("results.dropped", activity=duty.activity_id, reason="their time is over")
        del self._duties[duty.activity_id]
        assert self._client is not None
        await self._client.unbind(duty.address)
        await self._records.forget(f"{PREFIX}{duty.activity_id}")
        if self._on_end is not None:
            await self._on_end(Path(duty.directory))

    # --- answers --------------------------------------------------------------------------------

    def _handler(self, duty: Duty) -> Callable[[Call], Awaitable[bytes]]:
        answers = {
            "GetExecBatchResults": _results,
            "ListBatches": _listed,
            "ResolveBatch": _resolved,
        }

        async def serve(call: Call, body: object) -> object:
            if call.caller_text != duty.requestor:
                raise Denied(f"caller: {call.caller_text} is not authorized: {duty.requestor}")
            message = call.address.rpartition("/")[2]
            if message == "GetRunningCommand":
                raise NotFound(f"No running command within activity: {duty.activity_id}")
            if message not in answers:
                raise NoSuchEndpoint
            return answers[message](await self._batches(duty), Body(body))

        return typed(serve, error_payload)

    async def _batches(self, duty: Duty) -> dict[str, Batch]:
        """Return the batches of a journal; the one that was read last stays in memory."""
        if self._last_read[0] != duty.activity_id:
            path = Path(duty.directory) / JOURNAL_NAME
            found = await asyncio.to_thread(read_estate, path, self._world.clock.wall_ns())
            self._last_read = (duty.activity_id, {batch.batch_id: batch for batch in found})
        return self._last_read[1]


def _results(batches: dict[str, Batch], body: Body) -> object:
    batch = batches.get(body.text("batchId"))
    if batch is None:
        raise NotFound(f"batch_id = {body.text('batchId')}")
    index = body.optional_count("commandIndex")
    return select(batch.results, batch.last_index, index)


def _listed(batches: dict[str, Batch], body: Body) -> object:
    first = body.optional_count("from") or 0
    page = [
        {
            "batchId": batch.batch_id,
            "script": list(batch.script.source),
            "acceptedNs": batch.accepted_ns,
            "results": len(batch.results),
        }
        for batch in list(batches.values())[first : first + LISTED_MAX]
    ]
    return {"batches": page, "total": len(batches)}


def _resolved(batches: dict[str, Batch], body: Body) -> object:
    return {"accepted": body.text("batchId") in batches}
