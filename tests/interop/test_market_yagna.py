"""A whole market with a real yagna 0.17.6 on the other side, in either role."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from shem.kernel.config import NodeConfig
from shem.kernel.world import World
from shem.node.app import running_node
from shem.relay.service import Relay
from shem.rest.client import RestClient
from shem.rest.errors import ApiError
from tests.dialogue import POLL_S, Agents
from tests.interop.real_yagna import real_yagna

LOOPBACK = ("127.0.0.1", 0)
OUR_KEY = "market0000app0key"
REASON = {"message": "done", "golem.requestor.code": "Success"}

pytestmark = pytest.mark.timeout(150)


@asynccontextmanager
async def our_client(folder, relay):
    """Run a node of ours on the relay, and a program's client of it."""
    folder.mkdir(mode=0o700)
    config = NodeConfig(
        datadir=folder,
        api_url="http://127.0.0.1:0",
        gsb_url=f"unix:{folder}/gsb.sock",
        bind_url="udp://127.0.0.1:0",
        relay_host=f"{relay[0]}:{relay[1]}",
        autoconf_appkey=OUR_KEY,
    )
    async with running_node(config, World(), asyncio.Event()) as node:
        host, port = node.api_address
        async with RestClient(f"http://{host}:{port}", OUR_KEY) as client:
            yield client


@asynccontextmanager
async def both(tmp_path):
    """Yield (our client, yagna's client, yagna)."""
    async with (
        Relay(World(), LOOPBACK) as relay,
        real_yagna(tmp_path / "yagna", relay.address) as yagna,
        our_client(tmp_path / "ours", relay.address) as ours,
        RestClient(yagna.api_url, yagna.app_key) as theirs,
    ):
        yield ours, theirs, yagna


async def states(agreement_id, *clients):
    return [(await c.market.agreements.get(agreement_id)).state for c in clients]


async def wait_state(client, agreement_id, state, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while (await client.market.agreements.get(agreement_id)).state != state:
        assert time.monotonic() < deadline, await states(agreement_id, client)
        await asyncio.sleep(0.2)


async def test_yagna_rents_from_us_and_terminates(tmp_path):
    async with both(tmp_path) as (ours, theirs, _):
        made = await Agents(requestor=theirs, provider=ours, subnet="interop").negotiate()
        assert await states(made.agreement_id, ours, theirs) == ["Approved", "Approved"]

        await theirs.market.agreements.terminate(made.agreement_id, REASON)

        assert await states(made.agreement_id, ours, theirs) == ["Terminated", "Terminated"]
        event = await ours.market.agreements.termination(made.agreement_id)
        assert event.terminator == "Requestor"


async def test_every_ending_of_what_yagna_sells_us(tmp_path):
    async with both(tmp_path) as (ours, theirs, _):
        for ending in (we_terminate, yagna_terminates, yagna_rejects, we_cancel):
            await ending(ours, theirs)


async def we_terminate(ours, theirs):
    made = await Agents(requestor=ours, provider=theirs, subnet="terminate").negotiate()
    assert await states(made.agreement_id, ours, theirs) == ["Approved", "Approved"]

    await ours.market.agreements.terminate(made.agreement_id, REASON)

    assert await states(made.agreement_id, ours, theirs) == ["Terminated", "Terminated"]
    again = await ours.market.demands.events(made.demand_id, timeout_s=POLL_S)
    assert [event.proposal.state for event in again] == ["Initial"]


async def yagna_terminates(ours, theirs):
    made = await Agents(requestor=ours, provider=theirs, subnet="terminated").negotiate()

    await theirs.market.agreements.terminate(made.agreement_id, {"message": "bye"})

    event = await ours.market.agreements.termination(made.agreement_id)
    assert (event.terminator, event.reason["message"]) == ("Provider", "bye")


async def yagna_rejects(ours, theirs):
    agreement_id = await propose(Agents(requestor=ours, provider=theirs, subnet="reject"))

    await theirs.market.agreements.reject(agreement_id, {"message": "no"})

    with pytest.raises(ApiError, match="Rejected") as caught:
        await ours.market.agreements.wait(agreement_id)
    assert caught.value.status == 410


async def we_cancel(ours, theirs):
    agreement_id = await propose(Agents(requestor=ours, provider=theirs, subnet="cancel"))

    await ours.market.agreements.cancel(agreement_id, {"message": "changed mind"})

    with pytest.raises(ApiError, match="Cancelled"):
        await theirs.market.agreements.approve(agreement_id)


async def test_our_termination_reaches_a_yagna_that_was_away(tmp_path):
    async with both(tmp_path) as (ours, theirs, yagna):
        made = await Agents(requestor=ours, provider=theirs, subnet="interop").negotiate()
        await yagna.kill()

        await ours.market.agreements.terminate(made.agreement_id, REASON)
        await yagna.start()

        await wait_state(theirs, made.agreement_id, "Terminated", timeout_s=80)


async def test_rejected_proposals_are_told_both_ways(tmp_path):
    async with both(tmp_path) as (ours, theirs, _):
        for requestor, provider, subnet in ((ours, theirs, "one"), (theirs, ours, "two")):
            agents = Agents(requestor=requestor, provider=provider, subnet=subnet)
            demand, wants = agents.demand()
            offer, asks = agents.offer()
            demand_id = await requestor.market.demands.publish(demand, wants)
            offer_id = await provider.market.offers.publish(offer, asks)
            initial = await agents._proposal(requestor.market.demands, demand_id)
            counter = await requestor.market.demands.counter(demand_id, initial, demand, wants)
            seen = await agents._proposal(provider.market.offers, offer_id)
            reason = {"message": "busy", "golem.proposal.rejection.is-final": False}

            await provider.market.offers.reject(offer_id, seen, reason)

            [event] = await requestor.market.demands.events(demand_id, timeout_s=POLL_S)
            assert (event.proposal_id, event.reason["message"]) == (counter, "busy")


async def propose(agents):
    """Negotiate and confirm, no further."""
    demand, wants = agents.demand()
    offer, asks = agents.offer()
    demand_id = await agents.requestor.market.demands.publish(demand, wants)
    offer_id = await agents.provider.market.offers.publish(offer, asks)
    initial = await agents._proposal(agents.requestor.market.demands, demand_id)
    await agents.requestor.market.demands.counter(demand_id, initial, demand, wants)
    draft = await agents._proposal(agents.provider.market.offers, offer_id)
    await agents.provider.market.offers.counter(offer_id, draft, offer, asks)
    final = await agents._proposal(agents.requestor.market.demands, demand_id)
    valid_to = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
    agreement_id = await agents.requestor.market.agreements.create(final, valid_to)
    await agents.requestor.market.agreements.confirm(agreement_id)
    return agreement_id
