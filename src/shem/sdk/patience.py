"""Sitting out an outage: repeat calls that may be repeated, with back-off, up to a stated patience.

Only calls whose repetition is harmless go through `Patience.ask`: reads, long polls, and acts that
the node answers again when repeated (terminate, destroy). An act that would be done twice is
repeated by its own module, after asking the node what became of the first try.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shem.kernel.world import World
from shem.rest.errors import CODE_PEER_UNREACHABLE, ApiError, Disconnected
from shem.sdk.errors import explain

T = TypeVar("T")

PATIENCE_S: Final = 120.0
"""How long the node or the provider may be away before a call fails."""
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
PAUSE_FACTOR: Final = 1.6
JITTER: Final = 0.25
PASSING: Final = frozenset({CODE_PEER_UNREACHABLE, "timeout", "shutting-down"})
"""Codes of answers that may be different next time."""


class Pauses:
    """Growing pauses within a deadline."""

    def __init__(self, world: World, patience_s: float) -> None:
        self._world = world
        self._patience_s = patience_s
        self.progress()

    def progress(self) -> None:
        """Something worked: start again with short pauses and full patience."""
        self._deadline = self._world.clock.monotonic() + self._patience_s
        self._pause_s = PAUSE_FIRST_S

    @property
    def left_s(self) -> float:
        return max(0.0, self._deadline - self._world.clock.monotonic())

    async def next(self) -> bool:
        """Pause and return True, or return False when patience has run out."""
        if self.left_s <= 0:
            return False
        jitter = 1 + JITTER * (2 * self._world.rng.unit() - 1)
        await self._world.clock.sleep(min(self._pause_s * jitter, self.left_s))
        self._pause_s = min(self._pause_s * PAUSE_FACTOR, PAUSE_MAX_S)
        return True


class Patience:
    """How long this session bears outages."""

    def __init__(self, world: World, patience_s: float = PATIENCE_S) -> None:
        self.world = world
        self.patience_s = patience_s

    def pauses(self, patience_s: float | None = None) -> Pauses:
        return Pauses(self.world, self.patience_s if patience_s is None else patience_s)

    async def ask(self, call: Callable[[], Awaitable[T]], *, patience_s: float | None = None) -> T:
        """Make a harmless call until it is answered; raises a GolemError that explains."""
        try:
            return await self.try_ask(call, patience_s=patience_s)
        except (ApiError, Disconnected) as error:
            raise explain(error) from error

    async def try_ask(
        self, call: Callable[[], Awaitable[T]], *, patience_s: float | None = None
    ) -> T:
        """As `ask`, but error answers come back as ApiError, for callers that read them."""
        pauses = self.pauses(patience_s)
        while True:
            try:
                return await call()
            except (ApiError, Disconnected) as error:
                if not passing(error) or not await pauses.next():
                    raise


def passing(error: ApiError | Disconnected) -> bool:
    """Whether the same harmless call may succeed later."""
    if isinstance(error, Disconnected):
        return True
    return error.code in PASSING or error.status == 503
