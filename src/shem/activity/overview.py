"""What an identity provides at the moment, again and again as it changes (`GET /_monitor`).

Rules (docs/protocol/activity-exeunit.md §2.9): the first item at once, then one for every change of
a state or a usage; of what has ended one last item tells the end. Changes within `QUIET_S` come as
one item, so that many activities that report each second do not flood a watcher.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from shem.activity.parties import Agreements
from shem.activity.records import Activity, Role, load_activity, provided_by, provided_topic
from shem.kernel import times
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.rest.terms import USAGE_VECTOR
from shem.store.unit import Store

QUIET_S: Final = 0.25
PATIENCE_S: Final = 15.0
"""Without a change for so long the same is told again: a watcher sees that we are there."""
RUNTIME_NAME: Final = "golem.runtime.name"

Item = dict[str, Any]


class Overview:
    """Looks at what is provided."""

    def __init__(self, store: Store, market: Agreements, world: World) -> None:
        self._store = store
        self._market = market
        self._world = world

    async def items(self, identity: NodeId) -> AsyncGenerator[Item, None]:
        """Yield the present, then every change, for ever."""
        topics, topic = self._store.topics, provided_topic(identity)
        terms: dict[str, tuple[str | None, list[str]]] = {}
        shown: set[str] = set()
        while True:
            version = topics.version(topic)
            activities = await self._present(identity, shown)
            shown = {activity.activity_id for activity in activities if not activity.state.ended}
            now = times.to_rfc3339(times.truncate_to_us(self._world.clock.wall_ns()))
            yield {"ts": now, "activities": [await self._row(a, terms) for a in activities]}
            here = {activity.agreement_id for activity in activities}
            terms = {name: known for name, known in terms.items() if name in here}
            await self._world.clock.sleep(QUIET_S)
            await topics.changed(topic, version, PATIENCE_S)

    async def _present(self, identity: NodeId, shown: set[str]) -> list[Activity]:
        """Return what lives, and what was shown before and has ended since."""
        living = await provided_by(self._store.fetch, identity)
        gone = shown - {activity.activity_id for activity in living}
        ended = [
            await load_activity(self._store.fetch, activity_id, Role.PROVIDER)
            for activity_id in sorted(gone)
        ]
        return [*living, *(activity for activity in ended if activity is not None)]

    async def _row(
        self, activity: Activity, terms: dict[str, tuple[str | None, list[str]]]
    ) -> Item:
        if activity.agreement_id not in terms:
            terms[activity.agreement_id] = await self._terms(activity.agreement_id)
        runtime, names = terms[activity.agreement_id]
        row: Item = {
            "id": activity.activity_id,
            "state": activity.state.current.value,
            "exeUnit": runtime,
            "agreementId": activity.agreement_id,
        }
        if activity.usage is not None and len(activity.usage) == len(names):
            row["usage"] = dict(zip(names, activity.usage, strict=True))
        return row

    async def _terms(self, agreement_id: str) -> tuple[str | None, list[str]]:
        """Return the name of the runtime, and those of the usage counters."""
        agreement = await self._market.agreement(agreement_id, Role.PROVIDER)
        offer = {} if agreement is None else msgspec.json.decode(agreement.offer_properties)
        names = offer.get(USAGE_VECTOR)
        runtime = offer.get(RUNTIME_NAME)
        return (
            runtime if isinstance(runtime, str) else None,
            [str(name) for name in names] if isinstance(names, list) else [],
        )
