"""A client that makes one small deal after the other: agreement, activity, a batch, the end."""

import asyncio
import time
from dataclasses import dataclass, field

from shem.devnet.daemons import SUBNET
from shem.kernel import times
from shem.rest.models import Proposal, ProposalEvent
from shem.sdk.demand import DemandText, platform_of, write_demand
from shem.sdk.golem import NETWORKS
from shem.sdk.payloads import WasmPackage
from tests.crash.history import TOO_LATE, Call, Facts
from tests.crash.slice_load import AWAY_PAUSE_S, Load

EXPIRES_S = 1_800
VALID_S = 120
DRAFT_WITHIN_S = 20.0
APPROVED_WITHIN_S = 20.0
WHO = "trader"
NEVER_MADE = "it made no activity and never will"
"""The answer to an intent whose message was lost and that was resolved since: take a new one."""


@dataclass(slots=True)
class Deal:
    """What one deal came to, as far as it was told."""

    agreement_id: str
    intent_id: str
    confirmed: bool = False
    approved: bool = False
    activity_id: str | None = None
    batch: Facts | None = None
    destroyed: bool = False
    terminated: bool = False


@dataclass(slots=True)
class Trader:
    """Makes deals until the load is stopped."""

    load: Load
    package: WasmPackage
    requestor: str
    destroys: float = 0.5
    """How often an activity is destroyed before its agreement is terminated."""
    deals: list[Deal] = field(default_factory=list)

    async def run(self) -> None:
        while not self.load.stopped.is_set():
            await self.deal()
            await self.load.pause(0.2, 1.0)

    def _demand(self) -> DemandText:
        return write_demand(
            self.package,
            subnet=SUBNET,
            requestor=self.requestor,
            app="crash",
            expires_ms=time.time_ns() // 1_000_000 + EXPIRES_S * 1_000,
            platforms=tuple(map(platform_of, NETWORKS)),
        )

    async def deal(self) -> Deal | None:
        """Make one deal from its demand to its end; whatever is left over is ended."""
        history, demands = self.load.history, self.load.rest.market.demands
        demand = self._demand()
        published = await history.call(
            WHO, "publish", demands.publish(demand.properties, demand.constraints)
        )
        if not published.ok:
            return None
        draft = await self._draft(published.answer, demand)
        deal = None if draft is None else await self._agree(draft)
        if deal is not None:
            if deal.approved:
                await self._work(deal)
            await self._end(deal)
        await history.call(WHO, "withdraw", demands.withdraw(published.answer))
        return deal

    async def _draft(self, subscription: str, demand: DemandText) -> str | None:
        """Counter what suits, and return the provider's draft."""
        history, demands = self.load.history, self.load.rest.market.demands
        deadline = time.monotonic() + DRAFT_WITHIN_S
        offered: dict[str, Proposal] = {}
        while time.monotonic() < deadline and not self.load.stopped.is_set():
            poll = await history.call(WHO, "proposals", demands.events(subscription, timeout_s=1))
            if not poll.ok:
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            for event in poll.answer:
                if not isinstance(event, ProposalEvent):
                    continue
                if event.proposal.prev_proposal_id is not None:
                    return event.proposal.proposal_id
                offered[event.proposal.proposal_id] = event.proposal
            for proposal in tuple(offered.values()):
                if await self._counter(subscription, proposal, demand):
                    del offered[proposal.proposal_id]
        return None

    async def _counter(self, subscription: str, proposal: Proposal, demand: DemandText) -> bool:
        """Answer an offer; False when it is not known whether that was done."""
        counter = self.load.rest.market.demands.counter(
            subscription,
            proposal.proposal_id,
            demand.counter(proposal.properties),
            demand.constraints,
        )
        call = await self.load.history.call(WHO, "counter", counter)
        return call.ok or call.status == 410

    async def _agree(self, draft: str) -> Deal | None:
        load, agreements = self.load, self.load.rest.market.agreements
        valid_to = times.to_rfc3339(times.truncate_to_us(time.time_ns() + VALID_S * times.NS_PER_S))
        created = await load.history.call(WHO, "agreement", agreements.create(draft, valid_to))
        if not created.ok:
            return None
        load.agreements.add(created.answer)
        deal = Deal(created.answer, load.rng.randbytes(16).hex())
        self.deals.append(deal)
        await self._confirm(deal)
        wait = agreements.wait
        waited = await load.until(
            WHO, "wait", lambda: wait(deal.agreement_id, timeout_s=3), within_s=APPROVED_WITHIN_S
        )
        deal.approved = waited.ok
        if deal.confirmed and not deal.approved:
            load.history.wrong(f"agreement {deal.agreement_id}: confirmed, and never approved")
        return deal

    async def _confirm(self, deal: Deal) -> None:
        """Confirm; before saying it again look at what became of it."""
        agreements = self.load.rest.market.agreements
        while not deal.confirmed:
            call = await self.load.history.call(
                WHO, "confirm", agreements.confirm(deal.agreement_id)
            )
            if call.ok:
                deal.confirmed = True
                self.load.confirmed.add(deal.agreement_id)
                return
            state = await self._state(deal)
            if state != "Proposal":
                return
            await asyncio.sleep(AWAY_PAUSE_S)

    async def _state(self, deal: Deal) -> str:
        get = self.load.rest.market.agreements.get
        found = await self.load.until(WHO, "agreement state", lambda: get(deal.agreement_id))
        if not found.ok:
            self.load.history.wrong(f"an acknowledged agreement cannot be read: {found}")
            return "Unknown"
        state: str = found.answer.state
        if deal.approved and state not in ("Approved", "Terminated"):
            self.load.history.wrong(f"agreement {deal.agreement_id} was Approved, now {state}")
        return state

    async def _work(self, deal: Deal) -> None:
        """Create an activity, the same one however often it is asked for, and run a batch in it."""
        load, activity = self.load, self.load.rest.activity
        created = await self.create(deal)
        if not created.ok:
            if TOO_LATE not in created.text:
                load.history.wrong(f"an activity was not created: {created}")
            return
        deal.activity_id = created.answer
        deal.batch = load.first_batch(f"deal-{len(self.deals)}", created.answer)
        await load.submit(WHO, deal.batch)
        if deal.batch.told == "accepted":
            await load.follow(WHO, deal.batch)
        if load.rng.random() < self.destroys:
            destroyed = await load.until(
                WHO, "destroy", lambda: activity.destroy(created.answer, timeout_s=3)
            )
            deal.destroyed = destroyed.ok

    async def create(self, deal: Deal) -> Call:
        """Ask for an activity under the deal's intent; under a new one if that came to nothing."""
        create = self.load.rest.activity.create
        while True:
            created = await self.load.until(
                WHO, "create", lambda: create(deal.agreement_id, intent_id=deal.intent_id)
            )
            if created.ok or NEVER_MADE not in created.text:
                return created
            deal.intent_id = self.load.rng.randbytes(16).hex()

    async def _end(self, deal: Deal) -> None:
        """Terminate what is in force, or may come into force yet."""
        agreements = self.load.rest.market.agreements
        deadline = time.monotonic() + APPROVED_WITHIN_S
        while time.monotonic() < deadline:
            state = await self._state(deal)
            if state == "Approved":
                ended = await self.load.until(
                    WHO,
                    "terminate",
                    lambda: agreements.terminate(deal.agreement_id, {"message": "done"}),
                )
                deal.terminated = ended.ok or ended.status == 410
            elif state == "Proposal":
                await self._confirm(deal)
            elif state not in ("Pending", "Approving"):
                return
            else:
                await asyncio.sleep(4 * AWAY_PAUSE_S)
