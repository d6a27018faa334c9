"""From a demand to an approved Agreement (docs/protocol/market.md §13.4).

Every initial proposal that suits is countered once; the first draft that comes back becomes an
agreement; a rejected one sends us on to the next. A call that got no answer is not repeated
blindly: a demand that may have been published twice is harmless, a counter that was already made
says so (410), an agreement that may exist unconfirmed binds nobody, and before confirming again we
look at its state.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from shem.kernel import times
from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import NegotiationEvent, Proposal, ProposalEvent, ProposalRejectedEvent
from shem.sdk.demand import DemandText
from shem.sdk.errors import GolemError, NoProvider, explain
from shem.sdk.patience import passing
from shem.sdk.session import Session

EVENTS_POLL_S: Final = 5.0
APPROVAL_POLL_S: Final = 15.0
APPROVAL_MAX_S: Final = 60.0
"""How long a provider may think about our confirmed agreement."""
VALID_S: Final = 120
"""An agreement that is not approved this long after its creation lapses."""
ATTEMPTS_MAX: Final = 50
WITHDRAW_PATIENCE_S: Final = 5.0
GIVE_UP_S: Final = 5.0
"""How long an agreement that is given up is tried to be cancelled."""


@dataclass(slots=True)
class Negotiation:
    """One search for a provider; `run` returns the id of an approved agreement."""

    session: Session
    demand: DemandText
    timeout_s: float
    only: str | None = None
    """Take this provider alone."""
    _countered: set[str] = field(default_factory=set)
    _seen: Counter[str] = field(default_factory=Counter)

    async def run(self) -> str:
        clock = self.session.world.clock
        deadline = clock.monotonic() + self.timeout_s
        subscription = await self._publish()
        try:
            while (left_s := deadline - clock.monotonic()) > 0:
                events = await self._events(subscription, min(EVENTS_POLL_S, left_s))
                if events is None:
                    subscription = await self._publish()
                    continue
                for event in events:
                    if agreement_id := await self._react(subscription, event):
                        return agreement_id
        finally:
            await self._withdraw(subscription)
        raise NoProvider(self._summary())

    def _summary(self) -> str:
        seen = ", ".join(f"{count} × {what}" for what, count in self._seen.items())
        return (
            f"no provider agreed within {self.timeout_s:g} s on subnet {self.session.subnet!r}"
            f" (seen: {seen or 'no offer that fits the demand'})"
        )

    async def _publish(self) -> str:
        publish = self.session.rest.market.demands.publish
        return await self.session.patience.ask(
            lambda: publish(self.demand.properties, self.demand.constraints)
        )

    async def _events(self, subscription: str, timeout_s: float) -> list[NegotiationEvent] | None:
        """Return new events, or None when the demand is gone from the market."""
        poll = self.session.rest.market.demands.events
        try:
            return await self.session.patience.try_ask(
                lambda: poll(subscription, timeout_s=timeout_s)
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise explain(error) from error
        except Disconnected as error:
            raise explain(error) from error

    async def _withdraw(self, subscription: str) -> None:
        withdraw = self.session.rest.market.demands.withdraw
        try:
            await self.session.patience.ask(
                lambda: withdraw(subscription), patience_s=WITHDRAW_PATIENCE_S
            )
        except GolemError:
            """The demand expires by itself; nobody answers it meanwhile."""

    async def _react(self, subscription: str, event: NegotiationEvent) -> str | None:
        if isinstance(event, ProposalRejectedEvent):
            self._seen[f"rejected: {(event.reason or {}).get('message', 'no reason')}"] += 1
        if not isinstance(event, ProposalEvent):
            return None
        proposal = event.proposal
        if self.only is not None and proposal.issuer_id != self.only:
            self._seen["offer of another provider"] += 1
            return None
        if proposal.prev_proposal_id is None:
            await self._counter(subscription, proposal)
            return None
        return await self._agree(proposal)

    async def _counter(self, subscription: str, proposal: Proposal) -> None:
        refusal = self.demand.refusal(proposal.properties)
        if refusal is not None or len(self._countered) >= ATTEMPTS_MAX:
            self._seen[f"offer that {refusal or 'came too late'}"] += 1
            return
        properties = self.demand.counter(proposal.properties)
        counter = self.session.rest.market.demands.counter
        try:
            await self.session.patience.try_ask(
                lambda: counter(
                    subscription, proposal.proposal_id, properties, self.demand.constraints
                )
            )
        except ApiError as error:
            if error.status != 410:
                self._seen[f"counter-proposal refused: {error.message}"] += 1
                return
        except Disconnected as error:
            raise explain(error) from error
        self._countered.add(proposal.proposal_id)
        self._seen["counter-proposal made"] += 1

    async def _agree(self, draft: Proposal) -> str | None:
        """Make, sign and await an agreement on a draft; None when it came to nothing."""
        valid_ns = self.session.world.clock.wall_ns() + VALID_S * times.NS_PER_S
        valid_to = times.to_rfc3339(times.truncate_to_us(valid_ns))
        agreement_id: str | None = None
        try:
            agreement_id = await self.session.rest.market.agreements.create(
                draft.proposal_id, valid_to
            )
            await self._confirm(agreement_id)
            await self._approval(agreement_id)
        except ApiError as error:
            if error.status in {401, 403}:
                raise explain(error) from error
            self._seen[f"agreement that failed: {error.message}"] += 1
            if not passing(error):
                return None
        except Disconnected:
            self._seen["agreement given up: the node was away"] += 1
        except asyncio.CancelledError:
            await self._give_up(agreement_id)
            raise
        else:
            return agreement_id
        await self._give_up(agreement_id)
        return None

    async def _give_up(self, agreement_id: str | None) -> None:
        """Cancel what nobody waits for any more, or end it when it came into force meanwhile.

        Else a provider that answers late would keep its machine ready, and be owed for it.
        """
        if agreement_id is None:
            return
        agreements, ask = self.session.rest.market.agreements, self.session.patience.try_ask
        reason = {"message": "Given up: there was no answer in time"}
        try:
            await ask(lambda: agreements.cancel(agreement_id, reason), patience_s=GIVE_UP_S)
        except (ApiError, Disconnected) as error:
            if isinstance(error, Disconnected) or error.status != 410:
                return  # it lapses, unless it comes into force: what the market can do is done
            with suppress(ApiError, Disconnected):
                await ask(lambda: agreements.terminate(agreement_id, reason), patience_s=GIVE_UP_S)

    async def _confirm(self, agreement_id: str) -> None:
        agreements = self.session.rest.market.agreements
        pauses = self.session.patience.pauses()
        while True:
            try:
                await agreements.confirm(agreement_id, app_session_id=self.session.app_session_id)
                return
            except (ApiError, Disconnected) as error:
                if not passing(error) or not await pauses.next():
                    raise
            found = await self.session.patience.try_ask(lambda: agreements.get(agreement_id))
            if found.state != "Proposal":
                return

    async def _approval(self, agreement_id: str) -> None:
        wait = self.session.rest.market.agreements.wait
        pauses = self.session.patience.pauses(APPROVAL_MAX_S)
        while True:
            try:
                await wait(agreement_id, timeout_s=min(APPROVAL_POLL_S, pauses.left_s))
                return
            except (ApiError, Disconnected) as error:
                if not passing(error) or not await pauses.next():
                    raise
