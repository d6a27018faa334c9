"""Activity API, both sides (docs/protocol/activity-exeunit.md §2.1).

Shem's additions, which a yagna does not know: an exec may carry the client's own batch id, and
`GET /activity/{id}/exec` lists the batches of an activity.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from shem.rest.errors import ApiError
from shem.rest.models import (
    ActivityState,
    ActivityUsage,
    Batch,
    Created,
    CreateRequest,
    ExeScriptCommandResult,
    ProviderEvent,
    RuntimeEvent,
    Standing,
)
from shem.rest.transport import Transport, decode, segment

BASE: Final = "/activity-api/v1"
POLL_TIMEOUT_S: Final = 5.0
CREATE_TIMEOUT_S: Final = 30.0
DESTROY_TIMEOUT_S: Final = 10.0
EXEC_TIMEOUT_S: Final = 10.0
TAKE_UP_TIMEOUT_S: Final = 30.0
STREAM_SILENCE_S: Final = 60.0
"""A shem node says something every 15 s; a yagna may be silent for as long as a command is."""
MAX_EVENTS: Final = 100


class Activities:
    """`/activity-api/v1`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        agreement_id: str,
        *,
        intent_id: str | None = None,
        timeout_s: float = CREATE_TIMEOUT_S,
    ) -> str:
        """Create an activity and wait until its ExeUnit is up; returns its id.

        A shem node answers a repeat with the same `intent_id` with the same activity.
        """
        body = CreateRequest(agreement_id=agreement_id, intent_id=intent_id)
        query = {"timeout": timeout_s}
        created = await self._transport.post(
            Created, f"{BASE}/activity", query=query, body=body, wait_s=timeout_s
        )
        return created.activity_id

    async def take_up(self, activity_id: str, agreement_id: str, provider_id: str) -> None:
        """Have an activity at this node that was rented with another data directory."""
        body = {"agreementId": agreement_id, "providerId": provider_id}
        path = _activity(activity_id, "takeup")
        await self._transport.call("POST", path, body=body, wait_s=TAKE_UP_TIMEOUT_S)

    async def destroy(self, activity_id: str, *, timeout_s: float = DESTROY_TIMEOUT_S) -> None:
        """End an activity; repeating it is harmless."""
        path = _activity(activity_id)
        query = {"timeout": timeout_s}
        await self._transport.call("DELETE", path, query=query, wait_s=timeout_s)

    async def exec(
        self,
        activity_id: str,
        text: str,
        *,
        batch_id: str | None = None,
        timeout_s: float = EXEC_TIMEOUT_S,
    ) -> str:
        """Send an ExeScript; returns the batch id: `batch_id`, or a yagna's own choice."""
        body = {"text": text} if batch_id is None else {"text": text, "batchId": batch_id}
        path = _activity(activity_id, "exec")
        query = {"timeout": timeout_s}
        return await self._transport.post(str, path, query=query, body=body, wait_s=timeout_s)

    async def batches(self, activity_id: str) -> list[Batch]:
        """List the activity's batches, oldest first; ApiError 404 or 405 at a yagna."""
        return await self._transport.read(list[Batch], _activity(activity_id, "exec"))

    async def results(
        self,
        activity_id: str,
        batch_id: str,
        *,
        timeout_s: float = POLL_TIMEOUT_S,
        command_index: int | None = None,
    ) -> list[ExeScriptCommandResult]:
        """All results so far, from index 0; waits up to `timeout_s` for the batch's end."""
        path = _activity(activity_id, "exec", batch_id)
        query = {"timeout": timeout_s, "commandIndex": command_index}
        return await self._transport.read(
            list[ExeScriptCommandResult], path, query=query, wait_s=timeout_s
        )

    async def stream(
        self, activity_id: str, batch_id: str
    ) -> AsyncGenerator[RuntimeEvent | None, None]:
        """Yield the runtime events of a batch as they come, and None for a sign of life."""
        path = _activity(activity_id, "exec", batch_id)
        lines = self._transport.lines(path, silence_s=STREAM_SILENCE_S)
        async with aclosing(lines):
            async for line in lines:
                if line.startswith(b"data:"):
                    data = line.removeprefix(b"data:").strip()
                    yield decode(RuntimeEvent, "GET " + path, data)
                elif line.startswith(b":"):
                    yield None

    async def state(self, activity_id: str, *, timeout_s: float = POLL_TIMEOUT_S) -> ActivityState:
        path = _activity(activity_id, "state")
        query = {"timeout": timeout_s}
        return await self._transport.read(ActivityState, path, query=query, wait_s=timeout_s)

    async def usage(self, activity_id: str, *, timeout_s: float = POLL_TIMEOUT_S) -> ActivityUsage:
        path = _activity(activity_id, "usage")
        query = {"timeout": timeout_s}
        return await self._transport.read(ActivityUsage, path, query=query, wait_s=timeout_s)

    async def standing(self, activity_id: str) -> Standing:
        """Whether it lives, how it ended, how long one may be away; 404 at a yagna."""
        return await self._transport.read(Standing, _activity(activity_id, "absence"))

    async def set_state(self, activity_id: str, state: ActivityState) -> None:
        """Report a state (provider)."""
        await self._transport.call("PUT", _activity(activity_id, "state"), body=state)

    async def agreement(self, activity_id: str) -> str:
        """Return the id of the agreement under which the activity runs."""
        return await self._transport.read(str, _activity(activity_id, "agreement"))

    async def of_agreement(self, agreement_id: str) -> list[str]:
        """Return the ids of the agreement's activities that this node knows."""
        query = {"agreementId": agreement_id}
        return await self._transport.read(list[str], f"{BASE}/activity", query=query)

    async def events(
        self,
        *,
        after: str,
        app_session_id: str | None = None,
        timeout_s: float = POLL_TIMEOUT_S,
        max_events: int = MAX_EVENTS,
    ) -> list[ProviderEvent]:
        """Activities created and destroyed later than `after` (provider); `[]` when none came."""
        query = {
            "afterTimestamp": after,
            "appSessionId": app_session_id,
            "timeout": timeout_s,
            "maxEvents": max_events,
        }
        try:
            return await self._transport.read(
                list[ProviderEvent], f"{BASE}/events", query=query, wait_s=timeout_s
            )
        except ApiError as error:
            if error.status == 408:
                return []
            raise


def _activity(activity_id: str, *rest: str) -> str:
    return "/".join([f"{BASE}/activity", segment(activity_id), *(segment(part) for part in rest)])
