"""How the agent treats a node that does not answer: it waits and asks again.

An error *answer* is a fact and goes to the caller; only silence and faults of the node itself are
waited out. Whatever is retried here must be harmless to repeat.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from shem.kernel.world import World
from shem.rest.errors import ApiError, Disconnected

FIRST_DELAY_S: Final = 0.25
LAST_DELAY_S: Final = 2.0
"""The node is on this machine: to ask it often costs nothing, and requestors wait."""
REFUSED_BY_PEER: Final = "peer-error"

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(slots=True)
class BackOff:
    """Doubling delays with jitter."""

    world: World
    _next_s: float = FIRST_DELAY_S

    def reset(self) -> None:
        self._next_s = FIRST_DELAY_S

    async def wait(self) -> None:
        delay_s = self._next_s * (0.5 + self.world.rng.unit() / 2)
        self._next_s = min(2 * self._next_s, LAST_DELAY_S)
        await self.world.clock.sleep(delay_s)


def is_fault(error: ApiError) -> bool:
    """Whether an answer says that the node, not the question, is at fault.

    What the other party's node refused it will refuse again.
    """
    if error.status < 500:
        return error.status in (408, 429)
    return error.code != REFUSED_BY_PEER and "not found" not in str(error).lower()


async def until_answered(
    what: str, call: Callable[[], Awaitable[T]], world: World, *, within_s: float | None = None
) -> T:
    """Call until the node answers; the last error when it does not within `within_s`."""
    back_off = BackOff(world)
    started = world.clock.monotonic()
    while True:
        try:
            return await call()
        except (Disconnected, ApiError) as error:
            if isinstance(error, ApiError) and not is_fault(error):
                raise
            if within_s is not None and world.clock.monotonic() - started >= within_s:
                raise
            log.info("node.asked_again", what=what, reason=str(error))
        await back_off.wait()
