"""Looks after the provider's activities: silence, orphans, and agreements that have ended.

Once a second every living activity is judged by `watch`; the verdicts become a state and an event
for the provider agent. Activities whose agreement ended are destroyed, also those whose end was not
told because the process died in between (docs/protocol/activity-exeunit.md §5.3).
"""

from typing import Final

import structlog

from shem.activity.parties import APPROVED, Agreements
from shem.activity.provider import ProviderServices
from shem.activity.records import (
    Role,
    Sign,
    activities_of_agreement,
    alive_agreements,
    alive_signs,
    load_activity,
    save_state,
)
from shem.activity.states import ActivityState, State
from shem.activity.watch import GRACE_S, LOOK_PERIOD_S, Verdict, Watch
from shem.kernel.breath import Breath
from shem.kernel.errors import ShemError, StorageFault
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.store.unit import Store, StoreClosed

log = structlog.get_logger()

RECONCILE_S: Final = 30.0
"""Between two comparisons of all living activities with their agreements."""


class Monitor:
    """The provider's background loop."""

    def __init__(
        self,
        store: Store,
        market: Agreements,
        services: ProviderServices,
        watch: Watch,
        world: World,
    ) -> None:
        self._store = store
        self._market = market
        self._services = services
        self._watch = watch
        self._world = world

    async def adopt(self) -> None:
        """Take over the living activities of an earlier run."""
        for sign in await alive_signs(self._store.fetch, Role.PROVIDER):
            self._watch.adopt(sign.activity_id)

    async def run(self) -> None:
        reconcile_at = self._world.clock.monotonic()
        while True:
            try:
                await self.look()
                if self._world.clock.monotonic() >= reconcile_at:
                    await self.reconcile()
                    reconcile_at = self._world.clock.monotonic() + RECONCILE_S
            except StoreClosed:
                return
            except StorageFault as fault:
                log.warning("monitor.failed", reason=fault.message)
            await self._world.clock.sleep(LOOK_PERIOD_S)

    async def look(self) -> None:
        """Judge all living activities once."""
        now = self._world.clock.monotonic()
        self._watch.look(now)
        signs = await alive_signs(self._store.fetch, Role.PROVIDER)
        alive = {sign.activity_id for sign in signs}
        self._watch.forget_all_but(alive)
        self._services.usages.forget_all_but(alive)
        for sign in signs:
            if sign.current is State.NEW:
                await self._look_at_new(sign)
            else:
                await self._look_at(sign, now)

    async def _look_at_new(self, sign: Sign) -> None:
        """Destroy an activity that never started and that nobody waits for any more."""
        age_ns = self._world.clock.wall_ns() - sign.created_ns
        orphan = self._services.waiting[sign.activity_id] == 0 and age_ns > GRACE_S * NS_PER_S
        if orphan and self._watch.condemn(sign.activity_id):
            await self._services.request_destroy(sign.activity_id)

    async def _look_at(self, sign: Sign, now: float) -> None:
        verdict = self._watch.verdict(sign.activity_id, now)
        if verdict is Verdict.FINE:
            return
        if sign.current is not State.UNRESPONSIVE:
            await self._silent(sign.activity_id)
        if verdict is Verdict.DEAD and self._watch.condemn(sign.activity_id):
            log.warning("activity.dead", activity=sign.activity_id)
            await self._services.request_destroy(sign.activity_id)

    async def _silent(self, activity_id: str) -> None:
        log.warning("activity.unresponsive", activity=activity_id)
        self._services.usages.is_not_well(activity_id)
        async with self._store.unit(activity_id) as unit:
            known = await load_activity(unit.fetch, activity_id, Role.PROVIDER)
            if known is None or not known.state.alive:
                return
            silent = ActivityState(State.UNRESPONSIVE, known.state.pending)
            save_state(unit, known, silent, self._world.clock.wall_ns())
        self._services.usages.is_not_well(activity_id)  # a report may have come meanwhile

    async def reconcile(self) -> None:
        """Destroy what lives on under an agreement that is over."""
        breath = Breath(self._world.clock)
        for agreement_id in await alive_agreements(self._store.fetch, Role.PROVIDER):
            agreement = await self._market.agreement(agreement_id, Role.PROVIDER)
            if agreement is not None and agreement.state != APPROVED:
                for activity in await activities_of_agreement(self._store.fetch, agreement_id):
                    if activity.role is Role.PROVIDER and activity.destroy_ns is None:
                        await self._services.request_destroy(activity.activity_id)
            await breath.draw()

    async def agreement_ended(self, agreement_id: str) -> None:
        """Destroy the agreement's activities; `reconcile` does what fails here."""
        try:
            for activity in await activities_of_agreement(self._store.fetch, agreement_id):
                if activity.role is Role.PROVIDER:
                    await self._services.request_destroy(activity.activity_id)
        except ShemError as error:
            log.warning("agreement.end_failed", agreement=agreement_id, reason=error.message)
