"""The published Python client, unmodified, trades through two of our nodes."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import ya_market
from ya_market.exceptions import ApiException

from shem.kernel.world import World
from shem.relay.service import Relay
from tests.contract.node_served import APP_KEY, node_served

pytestmark = pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")

PROPERTIES = {
    "golem.node.id.name": "test",
    "golem.inf.mem.gib": 4.0,
    "golem.com.usage.vector": ["golem.usage.duration_sec"],
    "golem.com.pricing.model.linear.coeffs": [0.1, 0.0],
}


class Program:
    """Both roles' APIs of one node, as SDKs make them."""

    def __init__(self, url: str) -> None:
        configuration = ya_market.Configuration(host=f"{url}/market-api/v1")
        configuration.access_token = APP_KEY
        self.client = ya_market.ApiClient(configuration)
        self.client.default_headers["authorization"] = f"Bearer {APP_KEY}"
        self.requestor = ya_market.RequestorApi(self.client)
        self.provider = ya_market.ProviderApi(self.client)
        root = ya_market.Configuration(host=url)
        self.root = ya_market.ApiClient(root)
        self.root.default_headers["authorization"] = f"Bearer {APP_KEY}"

    async def identity(self) -> Any:
        return await self.root.call_api(
            "/me", "GET", response_type="object", _return_http_data_only=True
        )

    async def close(self) -> None:
        await self.client.close()
        await self.root.close()


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[tuple[Program, Program]]:
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), ("127.0.0.1", 0), None))
        host, port = relay.address
        found = []
        for name in ("requestor", "provider"):
            _, url = await stack.enter_async_context(
                node_served(tmp_path / name, relay_host=f"{host}:{port}")
            )
            program = Program(url)
            stack.push_async_callback(program.close)
            found.append(program)
        yield found[0], found[1]


def base(constraints: str = "()") -> Any:
    return ya_market.DemandOfferBase(properties=PROPERTIES, constraints=constraints)


async def events(collect: Any, subscription: str) -> list[Any]:
    found: list[Any] = await collect(subscription, timeout=20, max_events=10)
    assert found, "no event came"
    return found


async def approved(requestor: Program, provider: Program) -> tuple[str, str, str]:
    """Negotiate up to an agreement in force."""
    offer = await provider.provider.subscribe_offer(base())
    demand = await requestor.requestor.subscribe_demand(base("(golem.inf.mem.gib>=0.5)"))
    [initial] = await events(requestor.requestor.collect_offers, demand)
    assert isinstance(initial, ya_market.ProposalEvent)
    assert initial.proposal.state == "Initial"
    counter = await requestor.requestor.counter_proposal_demand(
        demand, initial.proposal.proposal_id, base()
    )
    own = await requestor.requestor.get_proposal_offer(demand, counter)
    assert (own.state, own.prev_proposal_id) == ("Draft", initial.proposal.proposal_id)
    [seen] = await events(provider.provider.collect_demands, offer)
    await provider.provider.counter_proposal_offer(offer, seen.proposal.proposal_id, base())
    [draft] = await events(requestor.requestor.collect_offers, demand)
    agreement = await requestor.requestor.create_agreement(
        ya_market.AgreementProposal(
            draft.proposal.proposal_id, datetime.now(UTC) + timedelta(hours=1)
        )
    )
    await requestor.requestor.confirm_agreement(agreement, app_session_id="mine")
    [told] = await events(provider.provider.collect_demands, offer)
    assert isinstance(told, ya_market.AgreementEvent)
    assert told.agreement.agreement_id == agreement
    await provider.provider.approve_agreement(agreement, app_session_id="theirs", timeout=10)
    await requestor.requestor.wait_for_approval(agreement, timeout=10)
    return agreement, demand, offer


async def test_a_negotiation_from_offers_to_a_terminated_agreement(
    programs: tuple[Program, Program],
) -> None:
    requestor, provider = programs
    started = datetime.now(UTC)
    agreement, demand, offer = await approved(requestor, provider)

    found = await requestor.requestor.get_agreement(agreement)
    assert found.state == "Approved"
    assert found.app_session_id == "mine"
    assert found.approved_date is not None
    assert found.demand.requestor_id == (await requestor.identity())["identity"]
    assert found.offer.provider_id == (await provider.identity())["identity"]
    assert (await provider.provider.get_agreement(agreement)).app_session_id == "theirs"
    [listed] = await requestor.requestor.get_demands()
    assert listed.demand_id == demand
    [listed] = await provider.provider.get_offers()
    assert listed.offer_id == offer

    await requestor.requestor.terminate_agreement(
        agreement, request_body={"message": "Finished", "golem.requestor.code": "Success"}
    )
    # The client has no model for these events, with yagna neither: they are taken as they come.
    answer = await provider.client.request(
        "GET",
        f"{provider.client.configuration.host}/agreementEvents",
        query_params=[("afterTimestamp", started.isoformat()), ("appSessionId", "theirs")],
        headers=provider.client.default_headers,
    )
    happened = json.loads(answer.data)
    assert [event["eventType"] for event in happened] == [
        "AgreementApprovedEvent",
        "AgreementTerminatedEvent",
    ]
    assert happened[1]["terminator"] == "Requestor"
    assert happened[1]["reason"]["message"] == "Finished"
    assert (await provider.provider.get_agreement(agreement)).state == "Terminated"
    await requestor.requestor.unsubscribe_demand(demand)
    await provider.provider.unsubscribe_offer(offer)
    with pytest.raises(ApiException) as refused:
        await requestor.requestor.collect_offers(demand, timeout=0)
    assert refused.value.status == 404


async def test_rejections_and_cancellations(programs: tuple[Program, Program]) -> None:
    requestor, provider = programs
    offer = await provider.provider.subscribe_offer(base())
    demand = await requestor.requestor.subscribe_demand(base())
    [initial] = await events(requestor.requestor.collect_offers, demand)
    counter = await requestor.requestor.counter_proposal_demand(
        demand, initial.proposal.proposal_id, base()
    )
    [seen] = await events(provider.provider.collect_demands, offer)
    await provider.provider.reject_proposal_demand(
        offer, seen.proposal.proposal_id, request_body={"message": "busy"}
    )
    [rejected] = await events(requestor.requestor.collect_offers, demand)
    assert isinstance(rejected, ya_market.ProposalRejectedEvent)
    assert rejected.proposal_id == counter
    assert rejected.reason.message == "busy"

    await provider.provider.counter_proposal_offer(offer, seen.proposal.proposal_id, base())
    [draft] = await events(requestor.requestor.collect_offers, demand)
    agreement = await requestor.requestor.create_agreement(
        ya_market.AgreementProposal(
            draft.proposal.proposal_id, datetime.now(UTC) + timedelta(hours=1)
        )
    )
    await requestor.requestor.confirm_agreement(agreement)
    await requestor.requestor.cancel_agreement(agreement, request_body={"message": "no"})
    with pytest.raises(ApiException) as refused:
        await requestor.requestor.wait_for_approval(agreement, timeout=1)
    assert refused.value.status == 410
    assert (await provider.provider.get_agreement(agreement)).state == "Cancelled"
