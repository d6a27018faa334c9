"""The activity part of a node: puts the two sides together and is what REST talks to.

`async with service:` binds the bus services and runs the puller and the monitor. Every method that
acts for a REST client takes its `Caller` and asks `permissions.decide` first.
"""

from collections.abc import AsyncGenerator, Awaitable
from typing import Final, Self, TypeVar

from shem.activity.batches import BatchState
from shem.activity.batchwork import BatchWork, unanswered
from shem.activity.creator import Creator
from shem.activity.destroyer import Destroyer
from shem.activity.eventlog import EVENTS_MAX, ProviderEvent, events_topic, load_events
from shem.activity.guard import Guard
from shem.activity.keeper import Keeper
from shem.activity.ledger import Batch, load_batch
from shem.activity.live import Live
from shem.activity.messages import ActivityEnded, EndpointGone, usage_body
from shem.activity.monitor import Monitor
from shem.activity.overview import Overview
from shem.activity.parties import OVER, Agreement, Agreements, pick, require
from shem.activity.peer import Features, Peers
from shem.activity.provider import ProviderServices
from shem.activity.proxy import HttpCall, HttpHead, Proxy
from shem.activity.puller import Puller
from shem.activity.reading import Reading
from shem.activity.records import (
    Activity,
    Role,
    UnknownActivity,
    activities_of_agreement,
    roles_of,
)
from shem.activity.results import Result
from shem.activity.resync import Resync
from shem.activity.script import parse_script
from shem.activity.standing import Standings
from shem.activity.states import ActivityState, parse_state
from shem.activity.takeup import TakeUp
from shem.activity.watch import Watch
from shem.bus.router import Binding, Bus
from shem.kernel.caller import Caller
from shem.kernel.errors import (
    Conflict,
    Denied,
    NotFound,
    PeerError,
    ShemError,
    TimedOut,
    Unreachable,
    UsageError,
)
from shem.kernel.ids import ActivityId, AgreementId, BatchId, NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World, new_hex_id
from shem.permissions import Action, Resource, decide
from shem.rest.models import Standing
from shem.store.outbox import Outbox
from shem.store.unit import Store

T = TypeVar("T")

ENDED_AT_ONCE_MAX: Final = 1_000
"""Agreements whose end waits to be handled; more are found by the monitor."""
CATCH_UP_S: Final = 2.0
"""How long the list of batches waits for a node that has just started to learn of them."""
PUB_KEY_SIZES: Final = (33, 65)

READ_STATE: Final = {
    Role.REQUESTOR: Action.GET_ACTIVITY_STATE,
    Role.PROVIDER: Action.PROV_GET_ACTIVITY_STATE,
}
READ_USAGE: Final = {
    Role.REQUESTOR: Action.GET_ACTIVITY_USAGE,
    Role.PROVIDER: Action.PROV_GET_ACTIVITY_USAGE,
}


class ActivityService:
    """Activities of all identities of this node, in both roles."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        outbox: Outbox,
        market: Agreements,
        features: Features,
        world: World,
    ) -> None:
        self.store = store
        self.world = world
        self._bus = bus
        self._market = market
        self._watch = Watch(world.clock.monotonic())
        self._scope = TaskScope()
        self._bindings: list[Binding] = []
        peers = self._peers = Peers(bus, features)
        self._work = BatchWork(store, peers, world)
        self._puller = Puller(store, peers, world, self._agreement_over)
        self._reading = Reading(store, peers, self._work, self._puller, world)
        self._takeup = TakeUp(store, peers, self._puller, world)
        self._creator = Creator(store, peers, world)
        self._resync = Resync(store, self._reading, self._creator, self._takeup, world)
        self._destroyer = Destroyer(
            store, peers, outbox, work=self._work, puller=self._puller, world=world
        )
        self._services = ProviderServices(store, market, self._watch, world)
        self._monitor = Monitor(store, market, self._services, self._watch, world)
        self._keeper = Keeper(store, market, world)
        self._guard = Guard(store, bus, self._watch, world)
        self._standings = Standings(store, market, world)
        self._live = Live(store, peers)
        self._proxy = Proxy(peers)
        self._overview = Overview(store, market, world)
        market.on_agreement_end(self._agreement_ended)

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        await self._monitor.adopt()
        await self._work.recover()
        self._bindings = [*self._services.bind(self._bus), *self._keeper.bind(self._bus)]
        self._guard.install()
        await self._puller.start(self._scope)
        await self._resync.start(self._scope)
        self._scope.spawn(self._monitor.run(), "activity monitor")
        self._scope.spawn(self._services.usages.run(), "usages")
        self._scope.spawn(self._keeper.run(), "kept results")
        return self

    async def __aexit__(self, *details: object) -> None:
        while self._bindings:
            self._bindings.pop().close()
        await self._scope.__aexit__(None, None, None)

    def peer_alive(self, node_id: NodeId) -> None:
        """A peer showed up: what waits for it goes on."""
        self._puller.peer_alive(node_id)
        self._resync.peer_changed(node_id)

    def peer_lost(self, node_id: NodeId) -> None:
        """The way to a peer broke: what may have been missed is asked for until it is known."""
        self._resync.peer_changed(node_id)

    def _agreement_ended(self, agreement_id: str) -> None:
        if self._bindings and self._scope.size < ENDED_AT_ONCE_MAX:
            self._scope.spawn(self._monitor.agreement_ended(agreement_id), "agreement end")

    async def _agreement_over(self, agreement_id: str) -> bool:
        agreement = await self._market.agreement(agreement_id, Role.REQUESTOR)
        return agreement is not None and agreement.state in OVER

    # --- who and what -------------------------------------------------------------------------

    async def _rows(self, activity_id: str) -> list[Activity]:
        rows = await roles_of(self.store.fetch, activity_id)
        if not rows:
            raise UnknownActivity(activity_id)
        return rows

    async def _pick(
        self, caller: Caller, activity_id: str, actions: dict[Role, Action]
    ) -> Activity:
        return pick(caller, await self._rows(activity_id), actions, self.world.clock.wall_ns())

    async def _own(self, caller: Caller, activity_id: str, action: Action) -> Activity:
        return await self._pick(caller, activity_id, {Role.REQUESTOR: action})

    async def _told(self, activity: Activity, work: Awaitable[T]) -> T:
        """Await a call to the ExeUnit; that nobody is there is explained by the activity's end."""
        try:
            return await work
        except EndpointGone as error:
            raise await self._explained(activity, error) from error

    async def _explained(self, activity: Activity, error: EndpointGone) -> EndpointGone:
        """Say what it means; a provider that has just answered is asked for the state as well."""
        explained = await self._standings.explained(activity, error)
        if isinstance(explained, ActivityEnded):
            return explained
        try:
            await self._puller.refresh_state(activity)
        except ShemError:
            return error
        return await self._standings.explained(activity, error)

    async def _agreement(self, caller: Caller, agreement_id: str, action: Action) -> Agreement:
        if any(character not in "0123456789abcdefABCDEF" for character in agreement_id):
            words = f"Service error: Id [{agreement_id}] contains non hexadecimal characters."
            raise PeerError(words, code="bad-agreement-id")
        agreement = await self._market.agreement(agreement_id.lower(), Role.REQUESTOR)
        if agreement is None:
            raise NotFound(f"Not found: {agreement_id}")
        try:
            require(caller, action, agreement, self.world.clock.wall_ns())
        except Denied as error:
            raise NotFound(f"Not found: {agreement_id}") from error
        return agreement

    # --- requestor ----------------------------------------------------------------------------

    async def create(
        self,
        caller: Caller,
        agreement_id: str,
        *,
        pub_key: str | None = None,
        intent_id: str | None = None,
        timeout_s: float,
    ) -> ActivityId:
        """Create an activity and wait until its ExeUnit is up."""
        agreement = await self._agreement(caller, agreement_id, Action.CREATE_ACTIVITY)
        _check_pub_key(pub_key)
        if agreement.state in OVER:
            raise UsageError(
                f"Bad request: Agreement {agreement_id} is not Approved."
                f" Current state: {agreement.state}"
            )
        try:
            return await self._creator.create(agreement, pub_key, intent_id, timeout_s)
        except (TimedOut, Unreachable):
            self._resync.peer_changed(agreement.provider)
            raise

    async def take_up(
        self, caller: Caller, activity_id: str, agreement_id: AgreementId, provider: NodeId
    ) -> None:
        """Have an activity here that the caller's identity rented with another data directory."""
        agreement = await self._market.take_up(caller, agreement_id, provider)
        known = await roles_of(self.store.fetch, activity_id)
        if known and all(row.agreement_id != agreement_id for row in known):
            raise Conflict(f"activity {activity_id} belongs to another agreement")
        await self._takeup.take_up(agreement, activity_id)
        self._resync.peer_changed(provider)

    async def destroy(self, caller: Caller, activity_id: str, timeout_s: float) -> None:
        """End an activity; accepted also while its provider is away."""
        activity = await self._own(caller, activity_id, Action.DESTROY_ACTIVITY)
        await self._destroyer.destroy(activity, timeout_s)

    async def execute(
        self,
        caller: Caller,
        activity_id: str,
        text: str,
        batch_id: BatchId | None,
        timeout_s: float,
    ) -> BatchId:
        """Have a script accepted; returns the batch id."""
        activity = await self._own(caller, activity_id, Action.EXEC)
        script = parse_script(text)
        if activity.state.ended or activity.destroy_ns is not None:
            gone = EndpointGone(f"/net/{activity.provider}/exeunit/{activity_id}/Exec")
            raise await self._explained(activity, gone)
        chosen = batch_id or BatchId(new_hex_id(self.world.rng))
        batch: Batch | None = None
        try:
            batch = await self._told(
                activity, self._work.execute(activity, script, chosen, timeout_s)
            )
        except ActivityEnded:
            raise
        except EndpointGone as error:
            batch = await load_batch(self.store.fetch, activity_id, chosen)
            if batch is not None and batch.state is BatchState.UNKNOWN:
                raise unanswered(chosen, error) from error  # an ExeUnit that comes may get it yet
            raise
        finally:
            if batch is None:
                batch = await load_batch(self.store.fetch, activity_id, chosen)
            if batch is not None:
                self._puller.watch(batch)
        return chosen

    async def results(
        self,
        caller: Caller,
        activity_id: str,
        batch_id: str,
        *,
        timeout_s: float,
        command_index: int | None,
    ) -> list[Result]:
        activity = await self._own(caller, activity_id, Action.GET_EXEC_BATCH_RESULTS)
        return await self._told(
            activity, self._reading.results(activity, batch_id, timeout_s, command_index)
        )

    async def stream(
        self, caller: Caller, activity_id: str, batch_id: str
    ) -> AsyncGenerator[object, None]:
        """Return the runtime events of a batch, live or as its stored results tell them."""
        activity = await self._own(caller, activity_id, Action.GET_EXEC_BATCH_RESULTS)
        return await self._told(activity, self._live.events(activity, batch_id))

    async def proxy(
        self, caller: Caller, activity_id: str, call: HttpCall
    ) -> tuple[HttpHead, bytes]:
        """Pass an HTTP call on to the service inside the activity."""
        activity = await self._own(caller, activity_id, Action.EXEC)
        return await self._told(activity, self._proxy.call(activity, call))

    async def proxy_stream(
        self, caller: Caller, activity_id: str, call: HttpCall
    ) -> tuple[HttpHead, AsyncGenerator[bytes, None]]:
        """As `proxy`, with the body as it comes."""
        activity = await self._own(caller, activity_id, Action.EXEC)
        return await self._told(activity, self._proxy.stream(activity, call))

    async def sealed(
        self, caller: Caller, activity_id: str, message: bytes, timeout_s: float
    ) -> bytes:
        """Pass a message on that only an ExeUnit in an enclave can read."""
        activity = await self._own(caller, activity_id, Action.EXEC)
        return await self._told(activity, self._proxy.sealed(activity, message, timeout_s))

    async def batches(self, caller: Caller, activity_id: str) -> list[dict[str, object]]:
        activity = await self._own(caller, activity_id, Action.GET_EXEC_BATCH_RESULTS)
        await self._resync.caught_up(activity.provider, CATCH_UP_S)
        return await self._reading.batches(activity)

    async def running_command(
        self, caller: Caller, activity_id: str, timeout_s: float
    ) -> list[object]:
        activity = await self._own(caller, activity_id, Action.GET_RUNNING_COMMAND)
        return await self._told(activity, self._reading.running_command(activity, timeout_s))

    # --- both ---------------------------------------------------------------------------------

    async def state(self, caller: Caller, activity_id: str, timeout_s: float) -> ActivityState:
        activity = await self._pick(caller, activity_id, READ_STATE)
        if activity.role is Role.PROVIDER:
            return activity.state
        return await self._reading.state(activity, timeout_s)

    async def usage(self, caller: Caller, activity_id: str, timeout_s: float) -> dict[str, object]:
        activity = await self._pick(caller, activity_id, READ_USAGE)
        if activity.role is Role.PROVIDER:
            return usage_body(*self._services.usages.latest(activity))
        return await self._reading.usage(activity, timeout_s)

    async def standing(self, caller: Caller, activity_id: str) -> Standing:
        """Return whether it lives, how it ended, and how long its requestor may be away."""
        return await self._standings.standing(await self._pick(caller, activity_id, READ_STATE))

    async def agreement_of(self, caller: Caller, activity_id: str) -> str:
        return (await self._pick(caller, activity_id, READ_STATE)).agreement_id

    async def activities_of(self, caller: Caller, agreement_id: str) -> list[str]:
        """Return the ids of the agreement's activities; NotFound when it is not the caller's."""
        roles = {role for role in Role if await self._may_read(caller, agreement_id, role)}
        if not roles:
            raise NotFound(f"Not found: {agreement_id}")
        rows = await activities_of_agreement(self.store.fetch, agreement_id.lower())
        return list(dict.fromkeys(row.activity_id for row in rows if row.role in roles))

    async def _may_read(self, caller: Caller, agreement_id: str, role: Role) -> bool:
        agreement = await self._market.agreement(agreement_id.lower(), role)
        if agreement is None:
            return False
        resource = Resource(agreement.agreement_id, agreement.requestor, agreement.provider)
        now_ns = self.world.clock.wall_ns()
        return decide(caller, READ_STATE[role], resource, now_ns=now_ns).allowed

    # --- provider -----------------------------------------------------------------------------

    async def set_state(self, caller: Caller, activity_id: str, body: object) -> None:
        """Store what the provider agent says of an activity."""
        reported = parse_state(body)
        actions = {Role.PROVIDER: Action.PROV_SET_ACTIVITY_STATE}
        await self._pick(caller, activity_id, actions)
        await self._services.set_state(activity_id, reported)

    async def events(
        self, caller: Caller, after_ns: int, app_session_id: str | None, most: int
    ) -> list[ProviderEvent]:
        """Return the caller's provider events after a cursor, oldest first."""
        own = Resource("", None, caller.node_id)
        now_ns = self.world.clock.wall_ns()
        decide(caller, Action.PROV_COLLECT_ACTIVITY_EVENTS, own, now_ns=now_ns).require()
        identity, most = caller.node_id, min(most, EVENTS_MAX)
        return await load_events(self.store.fetch, identity, after_ns, app_session_id, most)

    def overview(self, caller: Caller) -> AsyncGenerator[dict[str, object], None]:
        """Return what the caller provides, and every change of it."""
        own = Resource("", None, caller.node_id)
        now_ns = self.world.clock.wall_ns()
        decide(caller, Action.PROV_GET_ACTIVITY_STATE, own, now_ns=now_ns).require()
        return self._overview.items(caller.node_id)

    def events_topic(self, identity: NodeId) -> str:
        return events_topic(identity)


def _check_pub_key(pub_key: str | None) -> None:
    """Refuse what is no public key, in yagna's words."""
    if pub_key is None:
        return
    for position, character in enumerate(pub_key):
        if character not in "0123456789abcdefABCDEF":
            raise UsageError(
                f"Bad request: Invalid requestor pub key: Invalid character '{character}'"
                f" at position {position}"
            )
    if len(pub_key) not in {2 * size for size in PUB_KEY_SIZES}:
        raise UsageError("Bad request: Invalid requestor pub key: wrong length")
