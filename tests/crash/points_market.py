"""A negotiation from both subscriptions to its end, told by two programs that never give up.

What got no answer is asked for or said again, as an honest program would; what was acknowledged is
kept in `Deal` and compared with the nodes when one of them has died, and in the end.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from shem.kernel import times
from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected
from shem.rest.market import Subscriptions
from shem.rest.models import AgreementEvent, NegotiationEvent, ProposalEvent, ProposalRejectedEvent

T = TypeVar("T")

MARK = "golem.node.debug.subnet"
VALID_S = 600
STEP_WITHIN_S = 40.0
POLL_S = 5.0
AGAIN_S = 0.05
WHY = {"message": "over"}
RANKS = {"Proposal": 0, "Pending": 1, "Approved": 2}
"""Any other state comes after these."""
ENDED = 3
SETTLED = ("Draft", "Accepted", "Rejected")


@dataclass(slots=True)
class Side:
    """One program, its node, and what it was told."""

    name: str
    rest: RestClient
    subscriptions: Subscriptions
    subscription: str | None = None
    heard: list[NegotiationEvent] = field(default_factory=list)
    countered: dict[str, str] = field(default_factory=dict)
    """Our acknowledged answer to each proposal."""
    cursor: str | None = None
    rank: int = -1
    """How far it was acknowledged that the agreement has come."""


@dataclass(slots=True)
class Deal:
    """One negotiation and both its programs."""

    requestor: Side
    provider: Side
    ends: str
    """`terminated`, `quit` (by the provider), `cancelled`, `rejected`, or `declined` before."""
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    agreement: str | None = None
    rejected: str | None = None
    step: str = ""
    """What is being done now."""
    deaths: int = 0

    # ---- the story -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Publish, and come to the provider's draft."""
        self.step = "subscribe"
        await asyncio.gather(self._publish(self.requestor), self._publish(self.provider))
        self.step = "counter"
        initial = await self._proposal(self.requestor, "Initial")
        await self._counter(self.requestor, initial)
        await self._counter(self.provider, await self._proposal(self.provider, "Draft"))
        draft = await self._proposal(self.requestor, "Draft")
        if self.ends == "declined":
            self.rejected = draft
        else:
            await self._create(draft)

    async def agree(self) -> None:
        """Confirm, and approve where the deal comes into force."""
        if self.agreement is None:
            return
        market = self.requestor.rest.market.agreements
        self.step = "confirm"
        await self._act(self.requestor, 1, market.confirm)
        await self._hear(self.provider, lambda event: isinstance(event, AgreementEvent))
        if self.ends in ("terminated", "quit"):
            self.step = "approve"
            await self._act(self.provider, 2, self.provider.rest.market.agreements.approve)
            await self._act(self.requestor, 2, market.wait)

    async def end(self) -> None:
        """Say the end, and see it on both sides."""
        self.step = "end"
        ours, theirs = self.requestor.rest.market.agreements, self.provider.rest.market.agreements
        match self.ends:
            case "terminated":
                await self._act(self.requestor, ENDED, lambda name: ours.terminate(name, WHY))
            case "quit":
                await self._act(self.provider, ENDED, lambda name: theirs.terminate(name, WHY))
            case "cancelled":
                await self._act(self.requestor, ENDED, lambda name: ours.cancel(name, WHY))
            case "rejected":
                await self._act(self.provider, ENDED, lambda name: theirs.reject(name, WHY))
            case _:
                await self._decline()
        await self._seen()

    # ---- steps ---------------------------------------------------------------------------------

    async def ask(self, doing: Callable[[], Awaitable[T]]) -> T:
        """Say it again until there is an answer."""
        async with asyncio.timeout(STEP_WITHIN_S):
            while True:
                try:
                    return await doing()
                except Disconnected:
                    await asyncio.sleep(AGAIN_S)

    async def _publish(self, side: Side) -> None:
        properties = {MARK: self.mark}
        publish = side.subscriptions.publish
        try:
            found: str | None = await publish(properties, f"({MARK}={self.mark})")
        except Disconnected:
            found = await self._own(side)
        side.subscription = found or await self.ask(
            lambda: publish(properties, f"({MARK}={self.mark})")
        )

    async def _own(self, side: Side) -> str | None:
        """Find what was published and not answered."""
        for item in await self.ask(lambda: mine(side)):
            if item[1] == self.mark:
                return item[0]
        return None

    async def _proposal(self, side: Side, state: str) -> str:
        event = await self._hear(
            side, lambda event: isinstance(event, ProposalEvent) and event.proposal.state == state
        )
        assert isinstance(event, ProposalEvent)
        return event.proposal.proposal_id

    async def _hear(
        self, side: Side, wanted: Callable[[NegotiationEvent], bool]
    ) -> NegotiationEvent:
        """Poll until what is wanted was heard."""
        async with asyncio.timeout(STEP_WITHIN_S):
            while True:
                for event in side.heard:
                    if wanted(event):
                        return event
                side.heard += await self.poll(side, POLL_S)

    async def poll(self, side: Side, timeout_s: float) -> list[NegotiationEvent]:
        subscription = side.subscription
        assert subscription is not None
        return await self.ask(lambda: side.subscriptions.events(subscription, timeout_s=timeout_s))

    async def _counter(self, side: Side, proposal: str) -> None:
        subscription = side.subscription
        assert subscription is not None
        counter = side.subscriptions.counter
        text = f"({MARK}={self.mark})"
        try:
            side.countered[proposal] = await self.ask(
                lambda: counter(subscription, proposal, {MARK: self.mark}, text)
            )
        except ApiError as error:  # it was done, and the answer died
            assert (error.status, self.deaths) == (410, 1), error

    async def _create(self, draft: str) -> None:
        self.step = "create"
        agreements = self.requestor.rest.market.agreements
        valid_to = times.to_rfc3339(times.truncate_to_us(time.time_ns() + VALID_S * times.NS_PER_S))
        try:
            self.agreement = await self.ask(lambda: agreements.create(draft, valid_to))
        except ApiError as error:
            assert (error.status, self.deaths) == (409, 1), error
            listed = await self.ask(agreements.find)
            self.agreement = listed[0].id
        self.requestor.rank = 0

    async def _act(self, side: Side, rank: int, act: Callable[[str], Awaitable[None]]) -> None:
        """Repeat an act until it is acknowledged, or was done before."""
        agreement = self.agreement
        assert agreement is not None
        async with asyncio.timeout(STEP_WITHIN_S):
            while side.rank < rank:
                try:
                    await self.ask(lambda: act(agreement))
                except ApiError as error:
                    found = await self.state(side)
                    if RANKS.get(found, ENDED) >= rank:
                        break
                    assert error.status in (408, 410, 500), (found, error)
                    await asyncio.sleep(AGAIN_S)
                else:
                    break
            side.rank = max(side.rank, rank)

    async def _decline(self) -> None:
        side, subscription, rejected = self.requestor, self.requestor.subscription, self.rejected
        assert subscription is not None
        assert rejected is not None
        try:
            await self.ask(lambda: side.subscriptions.reject(subscription, rejected, WHY))
        except ApiError as error:
            assert (error.status, self.deaths) == (410, 1), error

    async def _seen(self) -> None:
        """Wait until the other side knows the end."""
        if self.agreement is None:
            await self._hear(self.provider, lambda event: isinstance(event, ProposalRejectedEvent))
            return
        async with asyncio.timeout(STEP_WITHIN_S):
            for side in (self.requestor, self.provider):
                while RANKS.get(await self.state(side), ENDED) < ENDED:  # noqa: ASYNC110
                    await asyncio.sleep(AGAIN_S)

    async def state(self, side: Side) -> str:
        agreement = self.agreement
        assert agreement is not None
        return (await self.ask(lambda: side.rest.market.agreements.get(agreement))).state

    # ---- what must hold ------------------------------------------------------------------------

    async def acknowledged(self, side: Side) -> list[str]:
        """Return what a node has lost of what its program was told."""
        lost: list[str] = []
        subscription = side.subscription
        rank, countered = side.rank, dict(side.countered)
        if subscription is not None:
            if subscription not in {found for found, _ in await mine(side)}:
                lost.append(f"{side.name}: subscription {subscription}")
            for answer in countered.values():
                proposal = await side.subscriptions.proposal(subscription, answer)
                if proposal.state not in SETTLED:
                    lost.append(f"{side.name}: counter {answer} is {proposal.state}")
        if rank >= 0:
            agreement = self.agreement
            assert agreement is not None
            found = (await side.rest.market.agreements.get(agreement)).state
            if RANKS.get(found, ENDED) < rank:
                lost.append(f"{side.name}: rank {rank} was acknowledged, now {found}")
            if agreement not in {e.id for e in await side.rest.market.agreements.find()}:
                lost.append(f"{side.name}: {agreement} is not listed")
        return lost

    async def judge(self) -> list[str]:
        """Return what is wrong when all is over."""
        wrong: list[str] = []
        for side in (self.requestor, self.provider):
            wrong += await self.acknowledged(side)
            wrong += [f"{side.name}: {what}" for what in await self._told(side)]
        return wrong

    async def _told(self, side: Side) -> list[str]:
        """Compare the events with the story: each once, or twice when a death lies between."""
        wrong: list[str] = []
        side.heard += await self.poll(side, 0.0)
        heard = Counter(map(_name_of, side.heard))
        wrong += [
            f"heard {count} times: {name}"
            for name, count in heard.items()
            if count > 1 + self.deaths
        ]
        if self.agreement is None:
            return wrong
        expected = ["AgreementApprovedEvent"] if self.ends in ("terminated", "quit") else []
        last = self.ends.capitalize() if self.ends != "quit" else "Terminated"
        expected.append(f"Agreement{last}Event")
        events = side.rest.market.agreements.events
        told: list[str] = []
        async with asyncio.timeout(STEP_WITHIN_S):
            while len(told) < len(expected):
                found = await events(after=side.cursor, timeout_s=POLL_S)
                told = [e.event_type for e in found if e.agreement_id == self.agreement]
                if len(told) != len(found):
                    wrong.append(f"events of strangers: {found}")
                    break
        if told != expected:
            wrong.append(f"told {told} instead of {expected}")
        if (state := await self.state(side)) != last:
            wrong.append(f"the agreement is {state}")
        return wrong

    async def tidy(self) -> None:
        """Withdraw what was published."""
        for side in (self.requestor, self.provider):
            if side.subscription is not None:
                await self.ask(partial(side.subscriptions.withdraw, side.subscription))


async def mine(side: Side) -> list[tuple[str, str]]:
    """Return the subscriptions of a node, each with its mark."""
    if side.name == "requestor":
        demands = await side.rest.market.demands.mine()
        return [(item.demand_id, item.properties.get(MARK, "")) for item in demands]
    offers = await side.rest.market.offers.mine()
    return [(item.offer_id, item.properties.get(MARK, "")) for item in offers]


def _name_of(event: NegotiationEvent) -> tuple[str, str]:
    match event:
        case ProposalEvent():
            return "proposal", event.proposal.proposal_id
        case ProposalRejectedEvent():
            return "rejected", event.proposal_id
    return "agreement", event.agreement.agreement_id


async def last_event(rest: RestClient) -> str | None:
    """Return the cursor of the newest agreement event."""
    cursor: str | None = None
    while found := await rest.market.agreements.events(after=cursor, timeout_s=0, max_events=100):
        cursor = found[-1].event_date
    return cursor
