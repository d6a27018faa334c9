"""What an activity's requestor may know of it at any time: how it ended, what is owed, and how long
one may be away.

A shem node tells (`GET …/absence`); at a yagna the same is computed here from the agreement's terms
and the usage. Amounts are estimates until the provider sends a note.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final, TypeVar

from shem.rest import models
from shem.rest.errors import CODE_NO_SUCH_PATH, ApiError, Disconnected
from shem.rest.models import AbsenceLimit
from shem.rest.terms import standing
from shem.sdk.errors import Ended, explain
from shem.sdk.session import Session

T = TypeVar("T")

PEER_PATIENCE_S: Final = 5.0
"""How long we ask a provider that does not answer."""


@dataclass(frozen=True, slots=True)
class Absence:
    """How long a requestor, its program and its node together, may be away from now on."""

    seconds: float | None
    """None: nothing limits it, or the activity has ended."""
    until: str | None
    limited_by: str | None
    """The kind of the nearest limit: `agreement-expiration`, `absence-term`, `debit-notes`."""
    limits: tuple[AbsenceLimit, ...]
    results_until: str | None
    """Results that the node had not fetched by then are gone."""

    @property
    def duration(self) -> timedelta | None:
        return None if self.seconds is None else timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        if self.seconds is None:
            return "nothing limits it"
        return f"{timedelta(seconds=int(self.seconds))}, until {self.until} ({self.limited_by})"


@dataclass(frozen=True, slots=True)
class Due:
    """What the usage so far costs."""

    amount: Decimal
    """GLM."""
    is_estimate: bool
    """Computed from usage and price; what counts is the provider's note."""
    usage: dict[str, float]

    def __str__(self) -> str:
        return f"{self.amount} GLM{' (estimate)' if self.is_estimate else ''}"


@dataclass(frozen=True, slots=True)
class Found:
    """One look at an activity."""

    ended: Ended | None
    absence: Absence
    due: Due | None


async def look(
    session: Session, activity_id: str, info: models.Agreement, *, ended: bool = False
) -> Found:
    """Ask the node, or compute from the agreement what a yagna does not tell."""
    told = await _told(session, activity_id)
    if told is None:
        usage = session.rest.activity.usage
        known = await _if_answered(session, lambda: usage(activity_id))
        told = standing(
            activity_id,
            info.agreement_id,
            demand=info.demand.properties,
            offer=info.offer.properties,
            usage=None if known is None else known.current_usage,
            ended=models.Ending(by="unknown", why="") if ended else None,
            now_ns=session.world.clock.wall_ns(),
        )
    absence = Absence(
        seconds=None if ended else told.seconds,
        until=None if ended else told.until,
        limited_by=None if ended else told.limited_by,
        limits=tuple(told.limits),
        results_until=told.results_until,
    )
    due = told.due
    owed = None if due is None else Due(Decimal(due.amount), due.is_estimate, dict(due.usage))
    return Found(_ended(told.ended), absence, owed)


async def how_it_ended(session: Session, activity_id: str, state: models.ActivityState) -> Ended:
    """Say by whom and why an activity, whose agreement is in force, has ended."""
    told = await _told(session, activity_id)
    ended = None if told is None else _ended(told.ended)
    if ended is not None:
        return ended
    return Ended("unknown", None, state.error_message or state.reason or "terminated")


async def _told(session: Session, activity_id: str) -> models.Standing | None:
    """Return the node's own word; None from one that has no such endpoint."""
    ask = session.rest.activity.standing
    try:
        return await session.patience.try_ask(lambda: ask(activity_id))
    except (ApiError, Disconnected) as error:
        if isinstance(error, ApiError) and error.code in {CODE_NO_SUCH_PATH, "not-supported"}:
            return None
        raise explain(error) from error


async def _if_answered(session: Session, call: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await session.patience.try_ask(call, patience_s=PEER_PATIENCE_S)
    except ApiError:
        return None
    except Disconnected as error:
        raise explain(error) from error


def _ended(told: models.Ending | None) -> Ended | None:
    return None if told is None else Ended(told.by, told.at, told.why, told.code)
