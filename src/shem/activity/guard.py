"""The door in front of every ExeUnit: who calls, and is it there.

Each call to `/public/exeunit/<activity>/<message>`, from the net or from a process of this node, is
resolved to its agreement and decided before the ExeUnit sees it. After a start of the node a call
waits for its ExeUnit to find the node again, and for results that are promised; in place of one
that has ended `aftermath` answers. Otherwise an absent ExeUnit is told at once, in the words SDKs
know (docs/protocol/activity-exeunit.md §2.10, §3.2, §4, §5.7).
"""

from collections.abc import AsyncIterator
from typing import Final

from shem.activity.aftermath import Aftermath
from shem.activity.keeper import exeunit_topic
from shem.activity.keptrows import Keeping
from shem.activity.messages import EXEUNIT, Body, error_payload
from shem.activity.parties import require
from shem.activity.records import Activity, Role, load_activity
from shem.activity.watch import Watch
from shem.bus.router import Bus
from shem.bus.typed import read_body
from shem.bus.types import Call, GsbError, Handler, NoSuchEndpoint, StreamHandler
from shem.kernel.errors import ShemError
from shem.kernel.world import World
from shem.permissions import Action
from shem.store.unit import Store
from shem.wire.flexbuffers import dumps_reply_err, dumps_reply_ok

ACTIONS: Final[dict[str, Action]] = {
    "Exec": Action.EXEC,
    "ResolveBatch": Action.EXEC,
    "GetExecBatchResults": Action.GET_EXEC_BATCH_RESULTS,
    "ListBatches": Action.GET_EXEC_BATCH_RESULTS,
    "StreamExecBatchResults": Action.GET_EXEC_BATCH_RESULTS,
    "GetRunningCommand": Action.GET_RUNNING_COMMAND,
    "GetActivityState": Action.GET_ACTIVITY_STATE,
    "GetActivityUsage": Action.GET_ACTIVITY_USAGE,
    "GsbHttpCallMessage": Action.EXEC,
    "GsbHttpCallStreamingMessage": Action.EXEC,
    "CallEncryptedService": Action.EXEC,
}
"""What may be said to an ExeUnit, and the action it is. The last only one in an enclave serves."""
RESULT_STREAM: Final = "StreamExecBatchResults"
STREAMS: Final = frozenset({RESULT_STREAM, "GsbHttpCallStreamingMessage"})
DEFAULT_WAIT_S: Final = 5.0
"""For an ExeUnit to come back, when the call names no timeout."""


class Guard:
    """Decides about calls to ExeUnits and waits for those that are on their way back."""

    def __init__(self, store: Store, bus: Bus, watch: Watch, world: World) -> None:
        self._store = store
        self._bus = bus
        self._watch = watch
        self._world = world
        self._aftermath = Aftermath(store)

    def install(self) -> None:
        self._bus.guard(EXEUNIT, self._guard, self._guard_stream, streams=STREAMS)
        self._bus.on_bound(EXEUNIT, self._bound)

    async def _guard(self, call: Call, forward: Handler) -> bytes:
        try:
            activity, message = await self._admit(call)
            if not await self._comes_back(activity, call):
                answer = await self._aftermath.answer(activity, message, read_body(call))
                return dumps_reply_ok(answer)
        except GsbError:
            raise
        except ShemError as refusal:
            return dumps_reply_err(error_payload(refusal))
        return await forward(call)

    async def _guard_stream(self, call: Call, forward: StreamHandler) -> AsyncIterator[bytes]:
        try:
            activity, message = await self._admit(call)
            if not await self._comes_back(activity, call):
                if message != RESULT_STREAM:
                    raise NoSuchEndpoint
                for event in await self._aftermath.events(activity, read_body(call)):
                    yield dumps_reply_ok(event)
                return
        except GsbError:
            raise
        except ShemError as refusal:
            yield dumps_reply_err(error_payload(refusal))
            return
        async for item in forward(call):
            yield item

    async def _admit(self, call: Call) -> tuple[Activity, str]:
        """Return whose ExeUnit is meant, and what it is told; raises when the caller may not."""
        activity_id, _, message = call.address.removeprefix(f"{EXEUNIT}/").partition("/")
        action = ACTIONS.get(message)
        if action is None:
            raise NoSuchEndpoint
        activity = await load_activity(self._store.fetch, activity_id, Role.PROVIDER)
        if activity is None:
            raise NoSuchEndpoint
        require(call.caller, action, activity, self._world.clock.wall_ns())
        return activity, message

    def _is_there(self, call: Call) -> bool:
        """Tell whether an ExeUnit is bound: under its one prefix, or message by message."""
        return self._bus.is_bound(call.address.rpartition("/")[0]) or self._bus.is_bound(
            call.address
        )

    async def _comes_back(self, activity: Activity, call: Call) -> bool:
        """Tell whether the ExeUnit is there, waiting for it while there is hope.

        It may be on its way after a start of the node; and where results are promised, either it
        will be there again or they will.
        """
        if self._is_there(call):
            return True
        clock = self._world.clock
        wait_s = min(Body(read_body(call)).timeout_s(DEFAULT_WAIT_S), call.timeout_s)
        deadline = clock.monotonic() + wait_s
        topic, topics = exeunit_topic(activity.activity_id), self._store.topics
        while True:
            version = topics.version(topic)
            keeping = await self._aftermath.keeping(activity.activity_id)
            if self._is_there(call):
                return True
            ends = deadline
            if keeping is not Keeping.PROMISED:
                hopes = keeping is None and activity.state.alive
                ends = min(deadline, self._watch.grace_ends) if hopes else 0.0
            left_s = ends - clock.monotonic()
            if left_s <= 0:
                return False
            await topics.changed(topic, version, left_s)

    def _bound(self, prefix: str) -> None:
        activity_id = prefix.removeprefix(f"{EXEUNIT}/").partition("/")[0]
        self._store.topics.bump(exeunit_topic(activity_id))
