"""One negotiation between two daemons over REST, step by step, so that a test can interfere.

A `Party` is a daemon and the program that uses it. A `Deal` remembers the ids each step made. Where
a step is repeated until the other side can be reached again, `answered` tells how long that took.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import (
    AgreementEvent,
    AgreementOperationEvent,
    ProposalEvent,
    ProposalRejectedEvent,
)
from tests.dialogue import Agents
from tests.interop.daemon import Daemon

T = TypeVar("T")

POLL_S = 10.0
POLLS = 4
BACK_S = 30.0
PAUSE_S = 0.1
SESSION = "interop"
AWAY = frozenset({"peer-unreachable", "timeout", "internal"})
"""Codes of what a call for an absent peer may end with."""


@dataclass
class Party:
    """A daemon, and the program that uses it."""

    daemon: Daemon
    rest: RestClient

    @classmethod
    async def at(cls, daemon: Daemon) -> "Party":
        rest = RestClient(daemon.api_url, daemon.app_key)
        await rest.__aenter__()
        return cls(daemon, rest)

    @property
    def market(self) -> Any:
        return self.rest.market

    async def close(self) -> None:
        await self.rest.__aexit__(None, None, None)

    async def kill(self) -> None:
        await self.daemon.kill()

    async def back(self) -> None:
        """Start the daemon again; the program opens new connections."""
        await self.close()
        try:
            await self.daemon.start()
        finally:
            await self.rest.__aenter__()

    async def restart(self) -> None:
        await self.kill()
        await self.back()

    async def state(self, agreement_id: str) -> str:
        return (await self.market.agreements.get(agreement_id)).state

    async def events(self, agreement_id: str) -> list[AgreementOperationEvent]:
        """Return what the log says of one agreement."""
        found = await self.market.agreements.events(
            timeout_s=0, max_events=100, after=self.since(), app_session_id=None
        )
        return [event for event in found if event.agreement_id == agreement_id]

    @staticmethod
    def since() -> str:
        """Return a cursor that is far enough back for one test."""
        return text_of(datetime.now(UTC) - timedelta(minutes=2))

    async def until(self, agreement_id: str, state: str, within_s: float = BACK_S) -> float:
        """Wait for a state; return the seconds that took."""
        return await until(lambda: self._is(agreement_id, state), within_s)

    async def _is(self, agreement_id: str, state: str) -> bool:
        try:
            return await self.state(agreement_id) == state
        except Disconnected:
            return False


@dataclass
class Deal:
    """One negotiation."""

    requestor: Party
    provider: Party
    subnet: str
    expires_s: float = 3600
    offer_id: str = ""
    demand_id: str = ""
    initial: str = ""
    first: str = ""
    """The requestor's counter, as its own node names it; the provider's node says P- for R-."""
    draft: str = ""
    final: str = ""
    agreement_id: str = ""
    agents: Agents = field(init=False)

    def __post_init__(self) -> None:
        expires = datetime.now(UTC) + timedelta(seconds=self.expires_s)
        self.agents = Agents(self.requestor.rest, self.provider.rest, self.subnet, expires)

    @property
    def wants(self) -> tuple[dict[str, Any], str]:
        return self.agents.demand()

    @property
    def sells(self) -> tuple[dict[str, Any], str]:
        return self.agents.offer()

    async def offer(self) -> None:
        self.offer_id = await self.provider.market.offers.publish(*self.sells)

    async def demand(self) -> None:
        self.demand_id = await self.requestor.market.demands.publish(*self.wants)

    async def match(self) -> None:
        """Wait for the offer to be proposed by the requestor's market."""
        self.initial = await proposal(self.requestor.market.demands, self.demand_id)

    async def counter(self) -> None:
        """Counter the initial proposal; the provider's node is told in the background."""
        self.first = await self.requestor.market.demands.counter(
            self.demand_id, self.initial, *self.wants
        )

    async def heard(self) -> None:
        """Wait for the requestor's counter at the provider."""
        await proposal(self.provider.market.offers, self.offer_id, of=self.first)

    async def answer(self) -> None:
        """Counter back as the provider."""
        self.draft = await self.provider.market.offers.counter(
            self.offer_id, f"P-{self.first[2:]}", *self.sells
        )

    async def answered(self) -> None:
        self.final = await proposal(self.requestor.market.demands, self.demand_id, of=self.draft)

    async def create(self, valid_s: float = 600) -> None:
        valid_to = text_of(datetime.now(UTC) + timedelta(seconds=valid_s))
        self.agreement_id = await self.requestor.market.agreements.create(self.final, valid_to)

    async def confirm(self) -> None:
        await self.requestor.market.agreements.confirm(self.agreement_id, app_session_id=SESSION)

    async def proposed(self) -> None:
        """Wait for the agreement at the provider."""
        for _ in range(POLLS):
            events = await self.provider.market.offers.events(self.offer_id, timeout_s=POLL_S)
            for event in events:
                if not isinstance(event, AgreementEvent):
                    continue
                if event.agreement.agreement_id == self.agreement_id:
                    return
        raise AssertionError("the provider never heard of the agreement")

    async def approve(self, timeout_s: float = POLL_S) -> None:
        await self.provider.market.agreements.approve(
            self.agreement_id, app_session_id=SESSION, timeout_s=timeout_s
        )

    async def wait(self) -> None:
        await self.requestor.market.agreements.wait(self.agreement_id, timeout_s=POLL_S)

    def steps(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Return all steps from the demand to the agreement in force."""
        return (
            self.demand,
            self.match,
            self.counter,
            self.heard,
            self.answer,
            self.answered,
            self.create,
            self.confirm,
            self.proposed,
            self.approve,
            self.wait,
        )

    async def to_draft(self) -> None:
        """Come to where an agreement can be made; a published offer is used again."""
        await self.demand()
        if not self.offer_id:
            await self.offer()
        for step in (self.match, self.counter, self.heard, self.answer, self.answered):
            await step()

    async def to_proposed(self, valid_s: float = 600) -> None:
        await self.to_draft()
        await self.create(valid_s)
        await self.confirm()
        await self.proposed()

    async def to_approved(self) -> None:
        await self.to_proposed()
        await self.approve()
        await self.wait()

    async def states(self) -> tuple[str, str]:
        """Return what requestor and provider say of the agreement."""
        return (
            await self.requestor.state(self.agreement_id),
            await self.provider.state(self.agreement_id),
        )

    async def both(self, state: str, within_s: float = BACK_S) -> float:
        """Wait until both say so; return the seconds that took."""
        first = await self.requestor.until(self.agreement_id, state, within_s)
        return first + await self.provider.until(self.agreement_id, state, within_s)

    async def logs(self) -> tuple[list[AgreementOperationEvent], list[AgreementOperationEvent]]:
        return (
            await self.requestor.events(self.agreement_id),
            await self.provider.events(self.agreement_id),
        )


def told(event: AgreementOperationEvent) -> tuple[str, str | None, Any]:
    """Return what both sides must say alike of an event."""
    return event.event_type, event.terminator, event.reason


async def proposal(side: Any, subscription_id: str, of: str = "") -> str:
    """Wait for a proposal on a subscription: for any, or for one that the other side named `of`."""
    for _ in range(POLLS):
        for event in await side.events(subscription_id, timeout_s=POLL_S):
            if isinstance(event, ProposalEvent):
                found = event.proposal.proposal_id
                if found[2:] == of[2:] or not of:
                    return found
    raise AssertionError(f"no proposal came for {subscription_id}")


async def rejection(side: Any, subscription_id: str, of: str) -> ProposalRejectedEvent:
    """Wait for the rejection of a proposal that its own node names `of`."""
    for _ in range(POLLS):
        for event in await side.events(subscription_id, timeout_s=POLL_S):
            if isinstance(event, ProposalRejectedEvent) and event.proposal_id == of:
                return event
    raise AssertionError(f"no rejection came for {of}")


async def answered(call: Callable[[], Awaitable[T]], within_s: float = BACK_S) -> tuple[T, float]:
    """Call until the other side can be reached; return the answer and the seconds that took."""
    started = time.monotonic()
    while True:
        try:
            return await call(), time.monotonic() - started
        except (ApiError, Disconnected) as error:
            passing = isinstance(error, Disconnected) or error.code in AWAY
            if not passing or time.monotonic() - started > within_s:
                raise
            await asyncio.sleep(PAUSE_S)


async def until(question: Callable[[], Awaitable[bool]], within_s: float = BACK_S) -> float:
    """Ask until the answer is yes; return the seconds that took."""
    started = time.monotonic()
    while not await question():
        assert time.monotonic() - started < within_s, "it did not come to that in time"
        await asyncio.sleep(PAUSE_S)
    return time.monotonic() - started


async def refused(call: Awaitable[object]) -> tuple[int, str]:
    """Return status and message of a call that must be refused."""
    try:
        await call
    except ApiError as error:
        return error.status, error.message
    raise AssertionError("the call was not refused")


def text_of(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
