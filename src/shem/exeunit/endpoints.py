"""What an ExeUnit answers on the bus (docs/protocol/activity-exeunit.md §3.2, §3.4).

Each message is checked, handed to the engine, and answered in the activity protocol's own form. Who
may call is decided by the node, which guards these addresses for all ExeUnits.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from itertools import islice
from typing import Final

from shem.activity.messages import ActivityEnding
from shem.bus.client import BusClient
from shem.bus.typed import typed, typed_stream
from shem.bus.types import Call, GsbCode, GsbError, NoSuchEndpoint
from shem.exeunit.compliance import require_compliance
from shem.exeunit.engine import Engine
from shem.exeunit.reports import Reports
from shem.exeunit.script import parse_script
from shem.kernel.errors import (
    Conflict,
    Denied,
    NotFound,
    ShemError,
    TimedOut,
    UsageError,
)
from shem.rest.manifest import Manifest

STREAM: Final = "StreamExecBatchResults"
LISTED_MAX: Final = 50
"""Batches in one answer: a script has at most a megabyte."""


class InvalidActivity(ShemError):
    """The message names another activity than this ExeUnit's."""

    code = "invalid-activity"


_ERROR_NAMES: Final[tuple[tuple[type[ShemError], str], ...]] = (
    (UsageError, "badRequest"),
    (Conflict, "badRequest"),
    (NotFound, "notFound"),
    (Denied, "forbidden"),
    (ActivityEnding, "activity"),
)


def error_form(error: ShemError) -> object:
    """Return an error as activity messages carry it."""
    if isinstance(error, TimedOut):
        return "timeout"
    name = next((name for kind, name in _ERROR_NAMES if isinstance(error, kind)), "service")
    return {name: error.message}


class Endpoints:
    """Binds the messages of one activity."""

    def __init__(
        self,
        activity_id: str,
        engine: Engine,
        reports: Reports,
        manifest: Manifest | None = None,
    ) -> None:
        self._activity_id = activity_id
        self._manifest = manifest
        self._engine = engine
        self._reports = reports
        self._prefix = f"/public/exeunit/{activity_id}"
        self._methods = {
            name: typed(fn, error_form)
            for name, fn in (
                ("Exec", self._exec),
                ("GetExecBatchResults", self._results),
                ("ListBatches", self._list),
                ("ResolveBatch", self._resolve),
                ("GetRunningCommand", self._running),
                ("GetActivityState", self._state),
                ("GetActivityUsage", self._usage),
            )
        }

    async def bind(self, client: BusClient) -> None:
        await client.bind(self._prefix, self._dispatch)
        await client.bind_stream(f"{self._prefix}/{STREAM}", typed_stream(self._stream, error_form))

    async def unbind(self, client: BusClient) -> None:
        await client.unbind(f"{self._prefix}/{STREAM}")
        await client.unbind(self._prefix)

    async def _dispatch(self, call: Call) -> bytes:
        method = self._methods.get(call.address.removeprefix(self._prefix + "/"))
        if method is None:
            raise NoSuchEndpoint
        return await method(call)

    async def _exec(self, call: Call, body: object) -> object:
        del call
        fields = self._fields(body)
        batch_id = _text(fields, "batchId")
        script = parse_script(fields.get("exeScript"))
        if self._manifest is not None:
            await asyncio.to_thread(require_compliance, script, self._manifest)
        await self._engine.exec(batch_id, script)
        return batch_id

    async def _results(self, call: Call, body: object) -> object:
        del call
        fields = self._fields(body)
        return await self._engine.results(
            _text(fields, "batchId"),
            timeout_s=_seconds(fields.get("timeout")),
            command_index=_index(fields.get("commandIndex")),
        )

    async def _list(self, call: Call, body: object) -> object:
        """Name the batches from a number on, a page at a time, in the order of acceptance."""
        del call
        first = _index(self._fields(body).get("from")) or 0
        batches = self._engine.core.batches
        page = [
            {
                "batchId": batch.batch_id,
                "script": list(batch.script.source),
                "acceptedNs": batch.accepted_ns,
                "results": len(batch.results),
            }
            for batch in islice(batches.values(), first, first + LISTED_MAX)
        ]
        return {"batches": page, "total": len(batches)}

    async def _resolve(self, call: Call, body: object) -> object:
        del call
        return {"accepted": await self._engine.resolve(_text(self._fields(body), "batchId"))}

    async def _running(self, call: Call, body: object) -> object:
        del call
        self._fields(body)
        command = self._engine.running()
        if command is None:
            raise NotFound(f"No running command within activity: {self._activity_id}")
        entry_point = [command.entry_point] if command.entry_point else []
        params = [*entry_point, *command.args]
        return [{"command": command.kind.capitalize(), "progress": None, "params": params or None}]

    async def _state(self, call: Call, body: object) -> object:
        del call
        self._fields(body)
        state, pending = self._engine.states
        return {"state": [str(state), None if pending is None else str(pending)]}

    async def _usage(self, call: Call, body: object) -> object:
        del call
        self._fields(body)
        return self._reports.usage_body()

    async def _stream(self, call: Call, body: object) -> AsyncIterator[object]:
        del call
        fields = self._fields(body, "activity_id")
        batch_id = _text(fields, "batch_id")
        try:
            self._engine.core.batch(batch_id)
        except NotFound:
            raise GsbError(f"Unknown batch: {batch_id}", GsbCode.BAD_REQUEST) from None
        async for event in self._engine.events(batch_id):
            yield event

    def _fields(self, body: object, id_name: str = "activityId") -> Mapping[str, object]:
        """Check that a message is a map and meant for this activity."""
        if not isinstance(body, dict):
            raise UsageError("the message is not a map")
        activity_id = _text(body, id_name)
        if activity_id != self._activity_id:
            raise InvalidActivity(f"Forbidden! Invalid activity id: {activity_id}")
        return body


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise GsbError(f"Bad content: Serde Error: missing field `{name}`")
    return value


def _seconds(value: object) -> float:
    """Return a wait; none, negative and absurd ones are no wait at all."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if math.isfinite(value) and value > 0 else 0.0


def _index(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError("commandIndex and from are whole numbers")
    return value
