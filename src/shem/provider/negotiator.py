"""One offer: published, kept published, and negotiated (docs/protocol/provider-agent.md §4, §5).

The rules decide; this loop only asks and answers. A poll acknowledges the events of the one before,
so all of them are answered, or written down, first: what dies with the agent is told again. Only an
answer that does not succeed is not waited for, since other requestors wait too. An offer survives
restarts of agent and node: the same text is not published twice, and one that the node no longer
knows is published again; so is one that a clock ahead of its time has published, as soon as that is
set right.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Final

import structlog

from shem.kernel import times
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.provider.agreements import Agreements
from shem.provider.ledger import resources_of
from shem.provider.offer import OfferText
from shem.provider.patience import BackOff, until_answered
from shem.provider.records import Records
from shem.provider.rules import Accepted, negotiate
from shem.provider.verdicts import Limits, Negotiation, Properties, Reject
from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import AgreementEvent, NegotiationEvent, ProposalEvent

EVENTS_TIMEOUT_S: Final = 20.0
EVENTS_MAX: Final = 5
HOLD_S: Final = 3.0
"""How long an answer that does not succeed holds the next poll."""
ANSWER_WITHIN_S: Final = 30.0
WITHDRAW_TIMEOUT_S: Final = 2.0
AHEAD_MAX_NS: Final = 60 * NS_PER_S
"""An offer that was published so long after now was published by a wrong clock."""
UNFINISHED: Final = "Negotiations aren't finished."
OFFER_SETTING: Final = "offer:"
"""Prefix of the setting that keeps an offer's subscription and the digest of its text."""
_GONE: Final = frozenset({404, 410})

log = structlog.get_logger()


class Negotiator:
    """Negotiates one offer."""

    def __init__(
        self,
        *,
        name: str,
        offer: OfferText,
        limits: Callable[[], Limits],
        agreements: Agreements,
        records: Records,
        client: RestClient,
        world: World,
    ) -> None:
        self._name = name
        self._offer = offer
        self._limits = limits
        self._agreements = agreements
        self._records = records
        self._client = client
        self._world = world
        self._subscription: str | None = None
        self._published_ns = 0
        self._withdrawn = False

    async def run(self) -> None:
        """Keep the offer up and answer what comes, for ever."""
        async with asyncio.TaskGroup() as answers:
            await self._follow(answers)

    async def _follow(self, answers: asyncio.TaskGroup) -> None:
        back_off = BackOff(self._world)
        self._subscription = await self._published_before()
        while not self._withdrawn:
            if self._subscription is not None and self._is_ahead(self._published_ns):
                answers.create_task(self._withdraw_at_last(self._subscription))
                self._subscription = None
            try:
                if self._subscription is None:
                    self._subscription = await self._publish()
                events = await self._client.market.offers.events(
                    self._subscription, timeout_s=EVENTS_TIMEOUT_S, max_events=EVENTS_MAX
                )
            except (ApiError, Disconnected) as error:
                if isinstance(error, ApiError) and error.status in _GONE:
                    log.info("offer.gone", offer=self._name, reason=str(error))
                    await self._take_back()  # a clock that is set back may make it valid again
                    self._subscription = None
                elif not (isinstance(error, ApiError) and error.status == 408):
                    log.info("offer.not_polled", offer=self._name, reason=str(error))
                await back_off.wait()
                continue
            back_off.reset()
            tasks = [
                answers.create_task(self._answer(self._subscription, event)) for event in events
            ]
            if tasks:
                await asyncio.wait(tasks, timeout=HOLD_S)
        await self._take_back()  # what was published while it was withdrawn

    @property
    def offer(self) -> OfferText:
        return self._offer

    async def withdraw(self) -> None:
        """Take the offer back, if that is quickly done; otherwise it expires by itself.

        `run` ends with it, within the time of a poll.
        """
        self._withdrawn = True
        await self._take_back()

    async def _withdraw_at_last(self, subscription: str) -> None:
        """Take an offer back whose place another takes, however long the node does not answer."""
        offers = self._client.market.offers
        try:
            await until_answered("withdraw", lambda: offers.withdraw(subscription), self._world)
        except ShemError as error:
            log.info("offer.not_withdrawn", offer=self._name, reason=str(error))

    async def _take_back(self) -> None:
        if self._subscription is None:
            return
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                await self._client.market.offers.withdraw(self._subscription)
            self._subscription = None
        except (TimeoutError, ShemError) as error:
            log.info("offer.not_withdrawn", offer=self._name, reason=str(error))

    async def withdraw_earlier(self, kept: str) -> None:
        """Take back what an earlier run published under this name, and forget it."""
        self._subscription = str(json.loads(kept)[0])
        await self.withdraw()
        await self._records.forget(self._setting)

    async def _published_before(self) -> str | None:
        """Return the subscription of an earlier run if the node still has it, with this text."""
        kept = await self._records.setting(self._setting)
        if kept is None:
            return None
        self._subscription, digest = json.loads(kept)
        mine = await until_answered("own offers", self._client.market.offers.mine, self._world)
        for offer in mine:
            if offer.offer_id == self._subscription and digest == self._digest():
                self._published_ns = _moment(offer.timestamp)
                if not self._is_ahead(self._published_ns):
                    log.info("offer.kept", offer=self._name, subscription=self._subscription)
                    return self._subscription
        await self._take_back()
        return None

    async def _publish(self) -> str:
        self._published_ns = self._world.clock.wall_ns()
        subscription = await self._client.market.offers.publish(
            self._offer.properties, self._offer.constraints(self._published_ns)
        )
        await self._records.set(self._setting, json.dumps([subscription, self._digest()]))
        log.info("offer.published", offer=self._name, subscription=subscription)
        return subscription

    def _is_ahead(self, published_ns: int) -> bool:
        return published_ns > self._world.clock.wall_ns() + AHEAD_MAX_NS

    async def _answer(self, subscription: str, event: NegotiationEvent) -> None:
        try:
            if isinstance(event, ProposalEvent):
                await self._answer_proposal(subscription, event)
            elif isinstance(event, AgreementEvent):
                await self._answer_agreement(event)
        except ShemError as error:
            log.info("negotiation.not_answered", offer=self._name, reason=str(error))

    async def _answer_proposal(self, subscription: str, event: ProposalEvent) -> None:
        proposal = event.proposal
        ours = self._offer.properties
        verdict = self._judge(proposal.properties, ours, proposal.issuer_id)
        offers = self._client.market.offers
        proposal_id = proposal.proposal_id
        if isinstance(verdict, Reject):
            reason = verdict.reason()
            log.info("proposal.rejected", peer=proposal.issuer_id, reason=verdict.message)
            await until_answered(
                "reject",
                lambda: offers.reject(subscription, proposal_id, reason),
                self._world,
                within_s=ANSWER_WITHIN_S,
            )
            return
        properties = verdict.properties
        constraints = self._offer.constraints(self._world.clock.wall_ns())
        log.info("proposal.countered", peer=proposal.issuer_id)
        await until_answered(
            "counter",
            lambda: offers.counter(subscription, proposal_id, properties, constraints),
            self._world,
            within_s=ANSWER_WITHIN_S,
        )

    async def _answer_agreement(self, event: AgreementEvent) -> None:
        agreement = event.agreement
        if self._agreements.in_force(agreement.agreement_id) is not None:
            return  # told again after a restart, and taken up again already
        ours = agreement.offer.properties
        verdict = self._judge(agreement.demand.properties, ours, agreement.demand.requestor_id)
        if not isinstance(verdict, Reject) and verdict.changed:
            verdict = Reject(UNFINISHED, is_final=False)
        if isinstance(verdict, Reject):
            log.info("agreement.rejected", agreement=agreement.agreement_id, reason=verdict.message)
            reason = verdict.reason()
            await until_answered(
                "reject agreement",
                lambda: self._client.market.agreements.reject(agreement.agreement_id, reason),
                self._world,
                within_s=ANSWER_WITHIN_S,
            )
            return
        self._agreements.reserve(agreement.agreement_id, resources_of(ours))
        await self._agreements.approve(agreement)

    def _judge(self, demand: Properties, ours: Properties, requestor: str) -> Accepted | Reject:
        return negotiate(
            Negotiation(
                demand=demand,
                offer=ours,
                limits=self._limits(),
                now_ns=self._world.clock.wall_ns(),
                requestor=requestor,
                shortage=self._agreements.ledger.shortage(resources_of(ours)),
            )
        )

    @property
    def _setting(self) -> str:
        return OFFER_SETTING + self._name

    def _digest(self) -> str:
        text = json.dumps(self._offer.properties, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _moment(timestamp: str) -> int:
    """Return when a node says that an offer was published; 0 when it does not say."""
    try:
        return times.parse(timestamp)
    except UsageError:
        return 0
