"""Whether an activity lives, how it ended, and how long its requestor may stay away.

Answers come from this node's store alone, so they are there while the provider is away. An activity
has ended when its own state says so or when its agreement is over; what happened first is what is
told. The errors of an ended activity keep the words that SDKs look for (docs/protocol/
activity-exeunit.md §2.10) and say who ended it and why.
"""

from typing import Any, Final

import msgspec

from shem.activity.messages import ActivityEnded, EndpointGone
from shem.activity.parties import OVER, Agreement, AgreementEnd, Agreements
from shem.activity.records import Activity, load_activity
from shem.kernel import times
from shem.kernel.world import World
from shem.rest.models import Ending, Standing
from shem.rest.terms import standing
from shem.store.unit import Store

EXPIRED: Final = "Expired"


class Standings:
    """Looks at activities together with their agreements."""

    def __init__(self, store: Store, market: Agreements, world: World) -> None:
        self._store = store
        self._market = market
        self._world = world

    async def standing(self, activity: Activity) -> Standing:
        """Return what `GET …/absence` tells."""
        agreement = await self._market.agreement(activity.agreement_id, activity.role)
        return standing(
            activity.activity_id,
            activity.agreement_id,
            demand={} if agreement is None else _properties(agreement.demand_properties),
            offer={} if agreement is None else _properties(agreement.offer_properties),
            usage=activity.usage,
            ended=await self._ending(activity, agreement),
            now_ns=self._world.clock.wall_ns(),
        )

    async def ending(self, activity: Activity) -> Ending | None:
        """Return how an activity ended; None while it lives, as far as this node knows."""
        agreement = await self._market.agreement(activity.agreement_id, activity.role)
        return await self._ending(activity, agreement)

    async def _ending(self, activity: Activity, agreement: Agreement | None) -> Ending | None:
        known = await load_activity(self._store.fetch, activity.activity_id, activity.role)
        activity = known or activity
        if agreement is not None and agreement.state in OVER:
            event = await self._market.ending_of(activity.agreement_id, activity.role)
            if event is None:
                return Ending(by="unknown", why=f"the agreement is {agreement.state.lower()}")
            if not _ended_before(activity, event.event_ns):
                return _end_of_agreement(event)
        if activity.state.ended or activity.destroy_ns is not None:
            return _end_of_activity(activity)
        return None

    async def explained(self, activity: Activity, error: EndpointGone) -> EndpointGone:
        """Return what it means that no ExeUnit answers: the end, when there was one."""
        ending = await self.ending(activity)
        return error if ending is None else ended_error(activity, ending, error)


def ended_error(activity: Activity, ending: Ending, error: EndpointGone) -> ActivityEnded:
    when = "" if ending.at is None else f" at {ending.at}"
    code = "" if ending.code is None else f" [{ending.code}]"
    why = ending.why or "no reason given"
    story = f"Activity {activity.activity_id} has ended: by {ending.by}{when}: {why}{code}"
    return ActivityEnded(story, error)


def _ended_before(activity: Activity, moment_ns: int) -> bool:
    """Tell whether the activity was over before its agreement; both ends are on our clock."""
    if activity.destroy_ns is not None:
        return activity.destroy_ns < moment_ns
    return activity.state.ended and activity.state_ns < moment_ns


def _end_of_agreement(event: AgreementEnd) -> Ending:
    reason = _properties(event.reason)
    code = reason.get("golem.provider.code") or reason.get("golem.requestor.code")
    by = "Expiry" if code == EXPIRED else event.terminator or "unknown"
    return Ending(
        by=str(by),
        why=f"agreement {str(event.kind).lower()}: {reason.get('message', 'no reason given')}",
        at=_date(event.event_ns),
        code=None if code is None else str(code),
    )


def _end_of_activity(activity: Activity) -> Ending:
    state = activity.state
    said = ": ".join(text for text in (state.reason, state.error_message) if text)
    if activity.destroy_ns is None:
        return Ending(by="Provider", why=said or "no reason given", at=_date(activity.state_ns))
    pending = "" if state.ended else "; the provider has not confirmed it yet"
    return Ending(by="Requestor", why=f"destroyed{pending}", at=_date(activity.destroy_ns))


def _properties(text: str | None) -> dict[str, Any]:
    value = None if text is None else msgspec.json.decode(text)
    return value if isinstance(value, dict) else {}


def _date(ns: int) -> str:
    return times.to_rfc3339(times.truncate_to_us(ns))
