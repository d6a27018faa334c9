"""A whole negotiation through the REST of two nodes, ours or real yagnas: both agents scripted."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from shem.rest.client import RestClient
from shem.rest.models import AgreementEvent, ProposalEvent

PLATFORM = "erc20-hoodi-tglm"
POLL_S = 20.0
ROUNDS_MAX = 30


@dataclass
class Negotiation:
    """What came of it; times in seconds."""

    demand_id: str
    offer_id: str
    agreement_id: str
    offer_visible_s: float
    negotiation_s: float


@dataclass
class Agents:
    """Two scripted agents that meet on a subnet."""

    requestor: RestClient
    provider: RestClient
    subnet: str
    expires: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(hours=1))

    def demand(self) -> tuple[dict, str]:
        properties = {
            "golem.node.debug.subnet": self.subnet,
            "golem.node.id.name": "requestor",
            "golem.srv.comp.expiration": int(self.expires.timestamp() * 1000),
            f"golem.com.payment.platform.{PLATFORM}.address": "0x" + "1" * 40,
            "golem.com.payment.chosen-platform": PLATFORM,
        }
        return properties, f"(&(golem.node.debug.subnet={self.subnet})(golem.inf.mem.gib>=0.5))"

    def offer(self) -> tuple[dict, str]:
        properties = {
            "golem.node.debug.subnet": self.subnet,
            "golem.node.id.name": "provider",
            "golem.inf.mem.gib": 1.5,
            "golem.runtime.name": "vm",
            "golem.com.scheme": "payu",
            "golem.com.pricing.model": "linear",
            "golem.com.pricing.model.linear.coeffs": [0.0, 0.0, 0.0],
            "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
            f"golem.com.payment.platform.{PLATFORM}.address": "0x" + "2" * 40,
        }
        return properties, f"(golem.node.debug.subnet={self.subnet})"

    async def negotiate(self) -> Negotiation:
        """From a fresh demand and a fresh offer to Approved on both sides."""
        demand, wants = self.demand()
        offer, asks = self.offer()
        demand_id = await self.requestor.market.demands.publish(demand, wants)
        started = time.monotonic()
        offer_id = await self.provider.market.offers.publish(offer, asks)
        initial = await self._proposal(self.requestor.market.demands, demand_id)
        visible = time.monotonic()
        await self.requestor.market.demands.counter(demand_id, initial, demand, wants)
        draft = await self._proposal(self.provider.market.offers, offer_id)
        await self.provider.market.offers.counter(offer_id, draft, offer, asks)
        final = await self._proposal(self.requestor.market.demands, demand_id)
        agreement_id = await self._agree(offer_id, final)
        done = time.monotonic()
        return Negotiation(demand_id, offer_id, agreement_id, visible - started, done - visible)

    async def _agree(self, offer_id: str, proposal_id: str) -> str:
        valid_to = (datetime.now(UTC) + timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
        agreements = self.requestor.market.agreements
        agreement_id = await agreements.create(proposal_id, valid_to)
        await agreements.confirm(agreement_id, app_session_id="dialogue")
        for _ in range(ROUNDS_MAX):
            events = await self.provider.market.offers.events(offer_id, timeout_s=POLL_S)
            asked = [e.agreement.agreement_id for e in events if isinstance(e, AgreementEvent)]
            if agreement_id in asked:
                break
        else:
            raise AssertionError(f"the provider never heard of agreement {agreement_id}")
        await self.provider.market.agreements.approve(
            agreement_id, app_session_id="dialogue", timeout_s=POLL_S
        )
        await agreements.wait(agreement_id, timeout_s=POLL_S)
        return agreement_id

    @staticmethod
    async def _proposal(side, subscription_id: str) -> str:
        for _ in range(ROUNDS_MAX):
            for event in await side.events(subscription_id, timeout_s=POLL_S):
                if isinstance(event, ProposalEvent):
                    return event.proposal.proposal_id
        raise AssertionError(f"no proposal came for {subscription_id}")
