"""The market of this node: both roles, one face for REST, the activity service and the node.

Entering it repairs what a crash left half done (before REST and the net bring calls) and starts the
background: announcing, expiring, cleaning up. All that was promised is in the store.

Reading order: `subscriptions`, `discovery`, `proposals`, `handshake`, `endings`; then what peers
send: `proposal_inbound`, `agreement_inbound`.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from shem.bus.router import Bus
from shem.kernel.caller import Caller
from shem.kernel.errors import UsageError
from shem.kernel.ids import AgreementId, NodeId, ProposalId, SubscriptionId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.market import (
    agreement_server,
    agreement_states,
    agreements,
    cleanup,
    matching,
    offer_server,
    pending,
    subscriptions,
)
from shem.market.agreement_access import row_of_party, state_of
from shem.market.agreement_inbound import AgreementInbound
from shem.market.agreement_outbound import AgreementOutbound
from shem.market.agreement_rows import load_agreements, load_log
from shem.market.agreements import Filter
from shem.market.context import Context, Identities
from shem.market.discovery import Broadcasts, Discovery
from shem.market.endings import Ended, Endings
from shem.market.forms import (
    Form,
    agreement_form,
    negotiation_event_form,
    pending_form,
    proposal_form,
)
from shem.market.handshake import Handshake
from shem.market.ids import Role, lettered
from shem.market.local import LocalMarket
from shem.market.messages import Reason
from shem.market.properties import Json
from shem.market.proposal_inbound import ProposalInbound
from shem.market.proposal_rows import load_proposal
from shem.market.proposals import Proposals
from shem.market.queues import IN_PROCESS, Collector, Queues
from shem.market.reconcile import Features, Reconciler, no_features
from shem.market.records import (
    OFFER,
    AgreementEntry,
    AgreementEvent,
    AgreementRow,
    NegotiationEvent,
    Subscription,
)
from shem.market.scans import Scans
from shem.market.states import AgreementState
from shem.market.takeup import take_up
from shem.permissions.decide import NODE, Action, decide
from shem.store.outbox import Outbox
from shem.store.unit import Store

log = structlog.get_logger()

CONFIRM_TIMEOUT_S: Final = 10.0
"""How long a confirmation tries to reach the provider."""
OVER: Final = frozenset(
    {
        AgreementState.TERMINATED,
        AgreementState.CANCELLED,
        AgreementState.REJECTED,
        AgreementState.EXPIRED,
    }
)
"""States from which an agreement does not come back."""


class Key(Protocol):
    """The part of a private key that says whose it is."""

    @property
    def node_id(self) -> NodeId: ...


class NodeIdentities(Identities, Protocol):
    """The part of `identity.service.IdentityService` that the market needs."""

    @property
    def default(self) -> Key: ...


class SignsOfLife(Protocol):
    """What the market needs of `net.service.Net`."""

    def on_online(self, fn: Callable[[], None]) -> None: ...
    def on_peer_up(self, fn: Callable[[NodeId], None]) -> None: ...


class MarketService:
    """Offers, Demands, negotiations and agreements of this node's identities."""

    def __init__(  # noqa: PLR0917 — the seams of a node, in the order of the layers
        self,
        store: Store,
        bus: Bus,
        broadcast: Broadcasts,
        outbox: Outbox,
        identity: NodeIdentities,
        world: World,
        net: SignsOfLife | None = None,
        *,
        features: Features = no_features,
        exact_failures: bool = False,
    ) -> None:
        self._context = context = Context(
            store, bus, outbox, identity, world, exact_failures=exact_failures
        )
        self._discovery = Discovery(context, broadcast, lambda: identity.default.node_id)
        self._queues = Queues(context)
        self._scans = Scans(context, lambda: identity.default.node_id)
        self._proposals = Proposals(context)
        outbound = AgreementOutbound(context)
        self._endings = Endings(context, outbound)
        self._handshake = Handshake(context, outbound)
        ProposalInbound(context)
        AgreementInbound(context, self._endings)
        offer_server.serve(context)
        agreement_server.serve(context)
        self._reconciler = Reconciler(context, self._endings, features)
        agreement_states.serve(context, self._reconciler.peer_up)
        LocalMarket(context, self._endings)
        self._scope = TaskScope()
        if net is not None:
            net.on_online(self._discovery.online)
            net.on_peer_up(self._discovery.peer_up)
            net.on_peer_up(self._reconciler.peer_up)

    async def __aenter__(self) -> Self:
        await self._handshake.repair()
        await self.withdraw_orphans()
        await self._scope.__aenter__()
        self._scope.spawn(self._discovery.run(), "market discovery")
        self._scope.spawn(self._reconciler.run(), "market reconciliation")
        self._scope.spawn(self._endings.run(), "market expiry")
        self._scope.spawn(cleanup.run(self._context), "market clean-up")
        self._scope.spawn(matching.sweep(self._context), "market index")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._scope.__aexit__(kind, error, trace)

    def on_agreement_end(self, fn: Ended) -> None:
        """Have `fn(agreement id)` called after an agreement that was in force has ended."""
        self._endings.on_end(fn)

    # --- subscriptions ---

    async def subscribe(
        self, who: Caller, kind: str, properties: Json, constraints: str
    ) -> SubscriptionId:
        """Publish an Offer or look for Offers with a Demand."""
        self._decide(who, Action.NODE_PUBLISH)
        item = await subscriptions.subscribe(
            self._context, who.node_id, kind, properties, constraints
        )
        if kind == OFFER:
            self._discovery.announce(item.subscription_id)
        else:
            self._scope.spawn(self._discovery.seek(), "market seek")
        log.info("market.subscribed", kind=kind, subscription=item.subscription_id)
        return item.subscription_id

    async def subscriptions(self, who: Caller, kind: str) -> list[Subscription]:
        """Return the caller's active Offers or Demands."""
        self._decide(who, Action.NODE_PUBLISH)
        return await subscriptions.list_own(self._context, who.node_id, kind)

    async def unsubscribe(self, who: Caller, kind: str, subscription_id: SubscriptionId) -> None:
        """Withdraw an Offer or a Demand."""
        self._decide(who, Action.NODE_PUBLISH)
        await subscriptions.unsubscribe(self._context, who.node_id, kind, subscription_id)
        if kind == OFFER:
            self._discovery.withdraw(subscription_id)

    async def withdraw_orphans(self) -> None:
        """Withdraw what was published by identities that were dropped."""
        for offer_id in await subscriptions.withdraw_orphans(self._context):
            self._discovery.withdraw(offer_id)

    async def collect(
        self,
        who: Caller,
        kind: str,
        subscription_id: SubscriptionId,
        *,
        timeout_s: float,
        most: int,
        collector: Collector = IN_PROCESS,
    ) -> list[Form]:
        """Return what happened to a subscription; the collector's next poll acknowledges it."""
        self._decide(who, Action.NODE_NEGOTIATE)
        events = await self._queues.collect(
            who.node_id,
            kind,
            subscription_id,
            timeout_s=timeout_s,
            most=most,
            collector=collector,
        )
        try:
            forms = [await self._event_form(event) for event in events]
        except BaseException:
            self._queues.give_back(events)
            raise
        return [form for form in forms if form is not None]

    def collector_gone(self, collector: Collector, session_ended: bool) -> None:
        """Take back the events that a program was handed and did not acknowledge."""
        self._queues.release(collector, session_ended=session_ended)

    async def _event_form(self, event: NegotiationEvent) -> Form | None:
        fetch = self._context.store.fetch
        proposal = agreement = None
        if event.proposal_id is not None:
            proposal = await load_proposal(fetch, event.proposal_id)
        if event.agreement_id is not None:
            row = await self.agreement(event.agreement_id, Role.PROVIDER)
            agreement = None if row is None else agreement_form(row, state_of(self._context, row))
        return negotiation_event_form(event, proposal, agreement)

    # --- scans ---

    def scans(self, who: Caller) -> Scans:
        """Return the scans of known Offers, for a caller who may negotiate."""
        self._decide(who, Action.NODE_NEGOTIATE)
        return self._scans

    # --- proposals ---

    async def proposal(
        self, who: Caller, role: Role, subscription_id: SubscriptionId, wanted: ProposalId
    ) -> Form:
        """Return a proposal, and what the peer does not have of it yet."""
        found = await self._proposals.get(who, role, subscription_id, wanted)
        return proposal_form(found) | pending_form(await pending.of_proposal(self._context, found))

    async def counter(
        self,
        who: Caller,
        role: Role,
        subscription_id: SubscriptionId,
        countered: ProposalId,
        *,
        properties: Json,
        constraints: str,
    ) -> ProposalId:
        """Answer the peer's proposal with one of our own."""
        return await self._proposals.counter(
            who, role, subscription_id, countered, properties=properties, constraints=constraints
        )

    async def reject_proposal(
        self,
        who: Caller,
        role: Role,
        subscription_id: SubscriptionId,
        rejected: ProposalId,
        *,
        reason: Reason | None,
    ) -> None:
        await self._proposals.reject(who, role, subscription_id, rejected, reason)

    # --- agreements ---

    async def agreement(self, agreement_id: str, role: str | None = None) -> AgreementRow | None:
        """Return an agreement for a service of this node: the asked role's row, else any."""
        rows = await load_agreements(self._context.store.fetch, agreement_id)
        return next((row for row in rows if role in (None, row.role)), None)

    async def take_up(
        self, who: Caller, agreement_id: AgreementId, provider: NodeId
    ) -> AgreementRow:
        """Return the caller's copy as requestor; one that this node lacks is fetched."""
        self._decide(who, Action.NODE_NEGOTIATE)
        compare = self._reconciler.compare_now
        return await take_up(self._context, who, agreement_id, provider, compare)

    async def agreement_of(self, who: Caller, agreement_id: AgreementId) -> Form:
        """Return an agreement as a party sees it."""
        row = await row_of_party(self._context, who, agreement_id)
        waiting = await pending.of_agreement(self._context, row)
        return agreement_form(row, state_of(self._context, row)) | pending_form(waiting)

    async def agreements(self, who: Caller, wanted: Filter) -> list[AgreementEntry]:
        return await agreements.list_of(self._context, who.node_id, wanted)

    async def create_agreement(
        self, who: Caller, promoted: ProposalId, valid_to_ns: int
    ) -> AgreementId:
        return await agreements.create(self._context, who, promoted, valid_to_ns)

    async def confirm(
        self,
        who: Caller,
        agreement_id: AgreementId,
        session: str | None,
        timeout_s: float = CONFIRM_TIMEOUT_S,
    ) -> None:
        await self._handshake.confirm(who, agreement_id, session, timeout_s)

    async def wait(self, who: Caller, agreement_id: AgreementId, timeout_s: float) -> None:
        await self._handshake.wait(who, agreement_id, timeout_s)

    async def approve(
        self, who: Caller, agreement_id: AgreementId, session: str | None, timeout_s: float
    ) -> None:
        await self._handshake.approve(who, agreement_id, session, timeout_s)

    async def cancel(self, who: Caller, agreement_id: AgreementId, reason: Reason | None) -> None:
        await self._endings.cancel(who, agreement_id, reason)

    async def reject(self, who: Caller, agreement_id: AgreementId, reason: Reason | None) -> None:
        await self._endings.reject(who, agreement_id, reason)

    async def terminate(
        self, who: Caller, agreement_id: AgreementId, reason: Reason | None
    ) -> None:
        await self._endings.terminate(who, agreement_id, reason)

    async def termination(self, who: Caller, agreement_id: AgreementId) -> AgreementEvent:
        """Return how an agreement was terminated."""
        row = await row_of_party(self._context, who, agreement_id)
        for event in await load_log(self._context.store.fetch, row.agreement_id, row.role):
            if event.kind is AgreementState.TERMINATED:
                return event
        raise UsageError(f"Agreement [{lettered(agreement_id, row.role)}] not terminated yet.")

    async def ending_of(self, agreement_id: str, role: str) -> AgreementEvent | None:
        """Return how an agreement ended, for a service of this node; None while it has not."""
        events = await load_log(self._context.store.fetch, agreement_id, Role(role))
        return next((event for event in reversed(events) if event.kind in OVER), None)

    async def agreement_events(
        self,
        who: Caller,
        *,
        after_ns: int,
        session: str | None,
        timeout_s: float,
        most: int,
    ) -> list[AgreementEvent]:
        """Return an identity's agreement events after a cursor, waiting for the first."""
        self._decide(who, Action.NODE_NEGOTIATE)
        return await agreements.events_after(
            self._context,
            who.node_id,
            after_ns=after_ns,
            session=session,
            timeout_s=timeout_s,
            most=most,
        )

    def _decide(self, who: Caller, action: Action) -> None:
        decide(who, action, NODE, now_ns=self._context.now_ns()).require()
