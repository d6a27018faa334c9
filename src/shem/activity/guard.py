"""The door in front of every ExeUnit: who calls, and is it there.

Each call to `/public/exeunit/<activity>/<message>`, from the net or from a process of this node, is
resolved to its agreement and decided before the ExeUnit sees it. After a start of the node a call
waits for its ExeUnit to find the node again; otherwise an absent ExeUnit is told at once, in the
words SDKs know (docs/protocol/activity-exeunit.md §2.10, §3.2, §4).
"""

from collections.abc import AsyncIterator
from typing import Final

from shem.activity.messages import EXEUNIT, Body, error_payload
from shem.activity.parties import require
from shem.activity.records import Activity, Role, load_activity
from shem.activity.watch import Watch
from shem.bus.router import Bus
from shem.bus.typed import read_body
from shem.bus.types import Call, GsbError, Handler, NoSuchEndpoint, StreamHandler
from shem.kernel.errors import NotSupported, ShemError
from shem.kernel.world import World
from shem.permissions import Action
from shem.store.unit import Store
from shem.wire.flexbuffers import dumps_reply_err

ACTIONS: Final[dict[str, Action]] = {
    "Exec": Action.EXEC,
    "ResolveBatch": Action.EXEC,
    "GetExecBatchResults": Action.GET_EXEC_BATCH_RESULTS,
    "StreamExecBatchResults": Action.GET_EXEC_BATCH_RESULTS,
    "GetRunningCommand": Action.GET_RUNNING_COMMAND,
    "GetActivityState": Action.GET_ACTIVITY_STATE,
    "GetActivityUsage": Action.GET_ACTIVITY_USAGE,
    "GsbHttpCallMessage": Action.EXEC,
    "GsbHttpCallStreamingMessage": Action.EXEC,
}
"""What may be said to an ExeUnit, and the action it is."""
LATER: Final = frozenset({"CallEncryptedService"})
STREAMS: Final = frozenset({"StreamExecBatchResults", "GsbHttpCallStreamingMessage"})
DEFAULT_WAIT_S: Final = 5.0
"""For an ExeUnit to come back, when the call names no timeout."""


class Guard:
    """Decides about calls to ExeUnits and waits for those that are on their way back."""

    def __init__(self, store: Store, bus: Bus, watch: Watch, world: World) -> None:
        self._store = store
        self._bus = bus
        self._watch = watch
        self._world = world

    def install(self) -> None:
        self._bus.guard(EXEUNIT, self._guard, self._guard_stream, streams=STREAMS)
        self._bus.on_bound(EXEUNIT, self._bound)

    async def _guard(self, call: Call, forward: Handler) -> bytes:
        try:
            await self._admit(call)
        except GsbError:
            raise
        except ShemError as refusal:
            return dumps_reply_err(error_payload(refusal))
        return await forward(call)

    async def _guard_stream(self, call: Call, forward: StreamHandler) -> AsyncIterator[bytes]:
        try:
            await self._admit(call)
        except GsbError:
            raise
        except ShemError as refusal:
            yield dumps_reply_err(error_payload(refusal))
            return
        async for item in forward(call):
            yield item

    async def _admit(self, call: Call) -> None:
        """Return when the call may go on to an ExeUnit that is there."""
        activity_id, _, message = call.address.removeprefix(f"{EXEUNIT}/").partition("/")
        action = ACTIONS.get(message)
        if action is None and message not in LATER:
            raise NoSuchEndpoint
        activity = await load_activity(self._store.fetch, activity_id, Role.PROVIDER)
        if activity is None:
            raise NoSuchEndpoint
        require(call.caller, action or Action.EXEC, activity, self._world.clock.wall_ns())
        if action is None:
            raise NotSupported(f"{message} is not supported yet")
        if not self._is_there(call):
            await self._wait_for(activity, call)

    def _is_there(self, call: Call) -> bool:
        """Tell whether an ExeUnit is bound: under its one prefix, or message by message."""
        return self._bus.is_bound(call.address.rpartition("/")[0]) or self._bus.is_bound(
            call.address
        )

    async def _wait_for(self, activity: Activity, call: Call) -> None:
        """Wait for a re-registration while there is hope; NoSuchEndpoint after that."""
        clock = self._world.clock
        wait_s = min(Body(read_body(call)).timeout_s(DEFAULT_WAIT_S), call.timeout_s)
        deadline = clock.monotonic() + wait_s
        topic = _bound_topic(activity.activity_id)
        topics = self._store.topics
        while activity.state.alive and self._watch.in_grace(clock.monotonic()):
            version = topics.version(topic)
            left_s = min(deadline, self._watch.grace_ends) - clock.monotonic()
            if self._is_there(call):
                return
            if left_s <= 0:
                break
            await topics.changed(topic, version, left_s)
        raise NoSuchEndpoint

    def _bound(self, prefix: str) -> None:
        self._store.topics.bump(_bound_topic(prefix.removeprefix(f"{EXEUNIT}/").partition("/")[0]))


def _bound_topic(activity_id: str) -> str:
    return f"activity.exeunit:{activity_id}"
