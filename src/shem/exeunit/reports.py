"""What an ExeUnit tells its node: state and usage (docs/protocol/activity-exeunit.md §3.3, §6.2).

A report that fails is not a reason to end: the node may be restarting. The latest state is told
until it is taken, and again after every reconnection; usage is told every second, because the node
takes silence for death.
"""

from typing import Final

import structlog

from shem.bus.client import BusClient
from shem.bus.types import RemoteError
from shem.exeunit.core import State
from shem.exeunit.engine import Engine
from shem.exeunit.usage import Usage
from shem.kernel.errors import ShemError
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World

USAGE_PERIOD_S: Final = 1.0
REPORT_TIMEOUT_S: Final = 5.0
STATE_RETRY_S: Final = 0.5

log = structlog.get_logger()


class Reports:
    """The reports of one activity."""

    def __init__(
        self,
        *,
        activity_id: str,
        report_url: str,
        engine: Engine,
        usage: Usage,
        client: BusClient,
        world: World,
        keeps: bool = False,
    ) -> None:
        self._activity_id = activity_id
        self._keeps = keeps
        self._url = report_url.rstrip("/")
        self._engine = engine
        self._usage = usage
        self._client = client
        self._world = world
        self._told: tuple[State, State | None] | None = None
        client.on_connected(self._forget)

    async def tell_states(self) -> None:
        """Report every state until the process ends."""
        while True:
            states = self._engine.states
            if states == self._told:
                await self._engine.changed.wait()
            elif states[0] is State.TERMINATED:
                return  # the last word, with its reason, is `tell_end`'s
            elif await self._tell_state(states):
                self._told = states
            else:
                await self._world.clock.sleep(STATE_RETRY_S)

    async def tell_usage(self) -> None:
        """Report usage at once, then every second: the node may have waited for it for long."""
        while True:
            body = {"activityId": self._activity_id, "usage": self.usage_body(), "timeout": None}
            try:
                await self._client.request(
                    f"{self._url}/SetActivityUsage", body, timeout_s=REPORT_TIMEOUT_S
                )
            except ShemError as error:
                log.debug("usage.not_told", activity=self._activity_id, reason=error.message)
            await self._world.clock.sleep(self._usage.pause_s(USAGE_PERIOD_S))

    async def tell_end(self, reason: str, message: str | None) -> bool:
        """Report the end with its reason; once."""
        return await self._tell_state((State.TERMINATED, None), reason=reason, message=message)

    def usage_body(self) -> dict[str, object]:
        return {
            "currentUsage": self._usage.vector(),
            "timestamp": self._world.clock.wall_ns() // NS_PER_S,
        }

    async def _tell_state(
        self,
        states: tuple[State, State | None],
        *,
        reason: str | None = None,
        message: str | None = None,
    ) -> bool:
        """Report one state; True when the node has answered, be it with a refusal."""
        state, pending = states
        pair = [str(state), None if pending is None else str(pending)]
        body = {
            "activityId": self._activity_id,
            "state": {"state": pair, "reason": reason, "errorMessage": message},
            "timeout": None,
            "credentials": None,
            "keeps": self._keeps,
        }
        try:
            await self._client.request(
                f"{self._url}/SetActivityState", body, timeout_s=REPORT_TIMEOUT_S
            )
        except RemoteError as error:
            log.warning("state.refused", activity=self._activity_id, reason=error.message)
        except ShemError as error:
            log.debug("state.not_told", activity=self._activity_id, reason=error.message)
            return False
        return True

    def _forget(self) -> None:
        self._told = None
        self._engine.changed.beat()
