"""The agent: everything of this provider together, and the event loops.

Cursors are kept in the store and moved only after an event was dealt with: events may come twice,
which is harmless, and none is missed while the agent is away. The first agent reads from the
beginning: any later moment would be this machine's clock against the dates of the node's events.
Events of agreements that are not ours are passed over: another agent may use the same node.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from shem.kernel import times
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.absence import Absence
from shem.provider.activities import Activities
from shem.provider.agreements import Agreements
from shem.provider.cleaning import clean, keep_clean
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import Descriptor, offer_template
from shem.provider.exeunits import Processes, Units
from shem.provider.hardware import Machine
from shem.provider.nursery import NurseryProcesses
from shem.provider.offers import Offers, capacity_of
from shem.provider.patience import BackOff, until_answered
from shem.provider.records import Records
from shem.provider.settings import SettingsWatch
from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import AgreementOperationEvent, ProviderEvent
from shem.store.open import open_store
from shem.store.unit import Store

DATABASE_NAME: Final = "agent.db"
POLL_TIMEOUT_S: Final = 15.0
SESSION: Final = "session"
ACTIVITY_CURSOR: Final = "cursor:activity"
AGREEMENT_CURSOR: Final = "cursor:agreement"
BEGINNING: Final = times.to_rfc3339(0)
DESTROYED: Final = "Destroyed by the requestor or its node"
OVER: Final = frozenset(
    {"AgreementTerminatedEvent", "AgreementCancelledEvent", "AgreementRejectedEvent"}
)

log = structlog.get_logger()


async def _store(path: Path, world: World) -> Store:
    return await open_store(path, world=world, migrations="agent", waits_for_room=True)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an agent is put into; a simulation has a disk and ExeUnits of its own."""

    store: Callable[[Path, World], Awaitable[Store]] = _store
    template: Callable[[Descriptor], Awaitable[dict[str, Any]]] = offer_template
    units: Callable[[World], Units] = Processes


REAL: Final = Surroundings()


class Agent:
    """One provider agent; `run` ends only by cancellation."""

    def __init__(
        self,
        config: ProviderConfig,
        descriptors: Sequence[Descriptor],
        machine: Machine,
        client: RestClient,
        world: World,
        *,
        surroundings: Surroundings = REAL,
    ) -> None:
        self._surroundings = surroundings
        self._config = config
        self._descriptors = descriptors
        self._machine = machine
        self._client = client
        self._world = world
        self._offers: Offers | None = None

    async def run(self) -> None:
        """Work until cancelled; ExeUnits go on, and are taken up again by the next agent."""
        me = await until_answered("identity", self._client.identity.me, self._world)
        store = await self._surroundings.store(self._config.data_dir / DATABASE_NAME, self._world)
        try:
            records = Records(store, self._world, NodeId(me.identity))
            async with TaskScope() as scope:
                await self._work(records, me.identity, scope)
        finally:
            await store.close()

    async def withdraw(self) -> None:
        """Take the offers back."""
        if self._offers is not None:
            await self._offers.withdraw()

    async def _work(self, records: Records, node_id: str, scope: TaskScope) -> None:
        watch = SettingsWatch(
            self._data_dir, self._descriptors, self._machine, self._config.cert_dir
        )
        settings = watch.load()
        session_id = await self._session_id(records, settings.globals.node_name)
        activities = Activities(
            config=self._config,
            descriptors=self._descriptors,
            records=records,
            client=self._client,
            units=self._units(scope),
            world=self._world,
            scope=scope,
        )
        agreements = Agreements(
            config=self._config,
            records=records,
            activities=activities,
            client=self._client,
            session_id=session_id,
            world=self._world,
            scope=scope,
            capacity=capacity_of(settings, self._machine, self._config),
        )
        self._offers = Offers(
            config=self._config,
            machine=self._machine,
            descriptors=self._descriptors,
            watch=watch,
            agreements=agreements,
            records=records,
            client=self._client,
            world=self._world,
            scope=scope,
            node_id=node_id,
            template=self._surroundings.template,
        )
        log.info("agent.up", identity=node_id, session=session_id, data_dir=str(self._data_dir))
        await clean(self._config, records, self._world)
        scope.spawn(keep_clean(self._config, records, self._world), "old files")
        await activities.resume()
        await agreements.resume()
        scope.spawn(self._offers.run(settings), "offers")
        scope.spawn(agreements.watch(), "agreements")
        absence = Absence(
            gsb_url=self._config.gsb_url,
            records=records,
            agreements=agreements,
            activities=activities,
            client=self._client,
            world=self._world,
            scope=scope,
        )
        scope.spawn(absence.run(), "absence")
        scope.spawn(self._follow_agreements(records, agreements), "agreement events")
        await self._follow_activities(records, agreements, activities)

    @property
    def _data_dir(self) -> Path:
        return self._config.data_dir

    def _units(self, scope: TaskScope) -> Units:
        """Return where ExeUnits run: forked, where they are processes of this machine."""
        units = self._surroundings.units(self._world)
        if not self._config.nursery or not isinstance(units, Processes):
            return units
        forked = NurseryProcesses(
            self._world, directory=self._config.exe_unit_dir, gsb_url=self._config.gsb_url
        )
        scope.spawn(forked.run(), "nursery")
        return forked

    async def _session_id(self, records: Records, named: str | None) -> str:
        """Return the session id, made once: events of earlier runs stay ours."""
        kept = await records.setting(SESSION)
        if kept is not None:
            return kept
        name = self._config.node_name or named or "shem-provider"
        made = f"{name}-{self._world.rng.token(4).hex()}"
        await records.set(SESSION, made)
        return made

    async def _follow_activities(
        self, records: Records, agreements: Agreements, activities: Activities
    ) -> None:
        cursor = await records.setting(ACTIVITY_CURSOR) or BEGINNING
        back_off = BackOff(self._world)
        while True:
            try:
                events = await self._client.activity.events(after=cursor, timeout_s=POLL_TIMEOUT_S)
            except (ApiError, Disconnected) as error:
                log.info("activity_events.not_polled", reason=str(error))
                await back_off.wait()
                continue
            back_off.reset()
            for event in events:
                await _take_activity_event(event, agreements, activities)
                cursor = event.event_date
                await records.set(ACTIVITY_CURSOR, cursor)

    async def _follow_agreements(self, records: Records, agreements: Agreements) -> None:
        cursor = await records.setting(AGREEMENT_CURSOR) or BEGINNING
        back_off = BackOff(self._world)
        while True:
            try:
                events = await self._client.market.agreements.events(
                    after=cursor, timeout_s=POLL_TIMEOUT_S
                )
            except (ApiError, Disconnected) as error:
                log.info("agreement_events.not_polled", reason=str(error))
                await back_off.wait()
                continue
            back_off.reset()
            for event in events:
                await _take_agreement_event(event, agreements)
                cursor = event.event_date
                await records.set(AGREEMENT_CURSOR, cursor)


async def _take_activity_event(
    event: ProviderEvent, agreements: Agreements, activities: Activities
) -> None:
    if event.kind == "CreateActivity":
        agreement = agreements.in_force(event.agreement_id)
        if agreement is not None:
            await activities.create(event.activity_id, agreement)
        elif (over := await agreements.over(event.agreement_id)) is not None:
            await activities.refuse(event.activity_id, over)
        else:
            log.debug("activity.not_ours", activity=event.activity_id, agreement=event.agreement_id)
    elif event.kind == "DestroyActivity":
        await activities.destroy(event.activity_id, DESTROYED)


async def _take_agreement_event(event: AgreementOperationEvent, agreements: Agreements) -> None:
    if event.event_type in OVER:
        await agreements.ended_elsewhere(event.agreement_id, event.event_type)
