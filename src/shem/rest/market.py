"""Market API, both sides (docs/protocol/market.md §3.2)."""

from typing import Final

import msgspec

from shem.rest.models import (
    Agreement,
    AgreementListEntry,
    AgreementOperationEvent,
    Demand,
    NegotiationEvent,
    Offer,
    Properties,
    Proposal,
    Reason,
)
from shem.rest.transport import Query, Transport, decode, segment

BASE: Final = "/market-api/v1"
POLL_TIMEOUT_S: Final = 5.0
MAX_EVENTS: Final = 20
COUNTER_WAIT_S: Final = 60.0
"""yagna's own limit for a counter-proposal call."""
CONFIRM_WAIT_S: Final = 60.0
EVENT_TYPES: Final = frozenset({"ProposalEvent", "ProposalRejectedEvent", "AgreementEvent"})


class _Typed(msgspec.Struct, rename="camel"):
    event_type: str = ""


class Subscriptions:
    """Offers or Demands of this node, and the negotiations that hang on them."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path

    async def publish(self, properties: Properties, constraints: str) -> str:
        """Publish; returns the subscription id."""
        body = {"properties": properties, "constraints": constraints}
        return await self._transport.post(str, self._path, body=body)

    async def withdraw(self, subscription_id: str) -> None:
        await self._transport.call("DELETE", f"{self._path}/{segment(subscription_id)}")

    async def events(
        self,
        subscription_id: str,
        *,
        timeout_s: float = POLL_TIMEOUT_S,
        max_events: int = MAX_EVENTS,
    ) -> list[NegotiationEvent]:
        """Wait up to `timeout_s` for events; each is given out once. Unknown kinds are skipped."""
        path = f"{self._path}/{segment(subscription_id)}/events"
        query = {"timeout": timeout_s, "maxEvents": max_events}
        raws = await self._transport.read(list[msgspec.Raw], path, query=query, wait_s=timeout_s)
        return [
            decode(NegotiationEvent, "GET " + path, bytes(raw))  # type: ignore[arg-type]
            for raw in raws
            if decode(_Typed, "GET " + path, bytes(raw)).event_type in EVENT_TYPES
        ]

    async def proposal(self, subscription_id: str, proposal_id: str) -> Proposal:
        return await self._transport.read(Proposal, self._proposal(subscription_id, proposal_id))

    async def counter(
        self, subscription_id: str, proposal_id: str, properties: Properties, constraints: str
    ) -> str:
        """Answer a proposal with our own; returns its id."""
        path = self._proposal(subscription_id, proposal_id)
        body = {"properties": properties, "constraints": constraints}
        return await self._transport.post(str, path, body=body, wait_s=COUNTER_WAIT_S)

    async def reject(
        self, subscription_id: str, proposal_id: str, reason: Reason | None = None
    ) -> None:
        path = self._proposal(subscription_id, proposal_id) + "/reject"
        await self._transport.call("POST", path, body=reason)

    def _proposal(self, subscription_id: str, proposal_id: str) -> str:
        return f"{self._path}/{segment(subscription_id)}/proposals/{segment(proposal_id)}"


class Offers(Subscriptions):
    """The provider's side."""

    async def mine(self) -> list[Offer]:
        return await self._transport.read(list[Offer], self._path)


class Demands(Subscriptions):
    """The requestor's side."""

    async def mine(self) -> list[Demand]:
        return await self._transport.read(list[Demand], self._path)


class Agreements:
    """Agreements of either role."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, proposal_id: str, valid_to: str) -> str:
        """Promote the provider's draft (requestor); returns the agreement id."""
        body = {"proposalId": proposal_id, "validTo": valid_to}
        return await self._transport.post(str, f"{BASE}/agreements", body=body)

    async def confirm(self, agreement_id: str, *, app_session_id: str | None = None) -> None:
        """Sign and send to the provider (requestor)."""
        query = {"appSessionId": app_session_id}
        await self._post(agreement_id, "confirm", query=query, wait_s=CONFIRM_WAIT_S)

    async def wait(self, agreement_id: str, *, timeout_s: float = POLL_TIMEOUT_S) -> None:
        """Return when the provider approved; ApiError 408 not yet, 410 rejected or over."""
        await self._post(agreement_id, "wait", query={"timeout": timeout_s}, wait_s=timeout_s)

    async def approve(
        self,
        agreement_id: str,
        *,
        timeout_s: float = POLL_TIMEOUT_S,
        app_session_id: str | None = None,
    ) -> None:
        """Approve and wait until the requestor's node has committed (provider)."""
        query = {"timeout": timeout_s, "appSessionId": app_session_id}
        await self._post(agreement_id, "approve", query=query, wait_s=timeout_s)

    async def reject(self, agreement_id: str, reason: Reason | None = None) -> None:
        await self._post(agreement_id, "reject", body=reason)

    async def cancel(self, agreement_id: str, reason: Reason | None = None) -> None:
        await self._post(agreement_id, "cancel", body=reason)

    async def terminate(self, agreement_id: str, reason: Reason | None = None) -> None:
        await self._post(agreement_id, "terminate", body=reason)

    async def termination(self, agreement_id: str) -> AgreementOperationEvent:
        """Who terminated, when and why; ApiError 400 when it is not terminated."""
        path = f"{BASE}/agreements/{segment(agreement_id)}/terminate/reason"
        return await self._transport.read(AgreementOperationEvent, path)

    async def get(self, agreement_id: str) -> Agreement:
        return await self._transport.read(Agreement, f"{BASE}/agreements/{segment(agreement_id)}")

    async def find(
        self,
        *,
        state: str | None = None,
        app_session_id: str | None = None,
        before: str | None = None,
        after: str | None = None,
    ) -> list[AgreementListEntry]:
        query = {
            "state": state,
            "appSessionId": app_session_id,
            "beforeDate": before,
            "afterDate": after,
        }
        return await self._transport.read(
            list[AgreementListEntry], f"{BASE}/agreements", query=query
        )

    async def events(
        self,
        *,
        after: str | None = None,
        app_session_id: str | None = None,
        timeout_s: float = POLL_TIMEOUT_S,
        max_events: int = MAX_EVENTS,
    ) -> list[AgreementOperationEvent]:
        """Events later than `after`; they stay and can be read again."""
        query = {
            "afterTimestamp": after,
            "appSessionId": app_session_id,
            "timeout": timeout_s,
            "maxEvents": max_events,
        }
        return await self._transport.read(
            list[AgreementOperationEvent], f"{BASE}/agreementEvents", query=query, wait_s=timeout_s
        )

    async def _post(
        self,
        agreement_id: str,
        verb: str,
        *,
        query: Query | None = None,
        body: object = msgspec.UNSET,
        wait_s: float | None = None,
    ) -> None:
        path = f"{BASE}/agreements/{segment(agreement_id)}/{verb}"
        await self._transport.call("POST", path, query=query, body=body, wait_s=wait_s)


class Market:
    """`/market-api/v1`."""

    def __init__(self, transport: Transport) -> None:
        self.offers = Offers(transport, f"{BASE}/offers")
        self.demands = Demands(transport, f"{BASE}/demands")
        self.agreements = Agreements(transport)
