"""Our offers reach a real yagna and its offers reach us, by the rules that it keeps and expects."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from shem.kernel.world import World
from shem.market.announcer import IDS_PER_BROADCAST
from shem.market.messages import OFFERS_TOPIC, UNSUBSCRIBES_TOPIC
from shem.relay.service import Relay
from shem.rest.client import RestClient
from tests.dialogue import Agents
from tests.interop.deal import Deal, Party, refused, until
from tests.interop.our_node import our_node
from tests.interop.real_yagna import RealYagna, real_yagna
from tests.interop.tap import APP_KEY, Tap, tapped_node

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

MANY = 100
"""More than a yagna announces with ten questions for its neighbours."""
YAGNA_DELAY_S = 5.0
"""How long a yagna collects ids before it announces them."""
OURS_S = 3.0
THEIRS_S = YAGNA_DELAY_S + 5.0
PAGE = 150


@dataclass
class Pair:
    """A tapped node of ours and a yagna, each with a program."""

    relay: Relay
    tap: Tap
    ours: Party
    yagna: RealYagna
    theirs: Party


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(loopback_only, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pair")
    async with (
        Relay(World(), ("127.0.0.1", 0)) as relay,
        real_yagna(directory / "yagna", relay.address) as yagna,
        tapped_node(directory / "shem", relay.address) as tap,
        RestClient(tap.api_url, APP_KEY) as ours,
        RestClient(yagna.api_url, yagna.app_key) as theirs,
    ):
        yield Pair(relay, tap, Party(None, ours), yagna, Party(yagna, theirs))


async def publish(party, subnet, count):
    """Publish offers that differ in their name; return their ids."""
    properties, constraints = Agents(None, party.rest, subnet).offer()
    named = [{**properties, "golem.node.id.name": name} for name in names_of(subnet, count)]
    published = (party.market.offers.publish(each, constraints) for each in named)
    return set(await asyncio.gather(*published))


async def initial_proposals(party, subnet, names, within_s):
    """Look with a demand until the offers of these names have been proposed; return the seconds."""
    demand_id = await party.market.demands.publish(*Agents(party.rest, None, subnet).demand())
    found = set()

    async def all_there():
        events = await party.market.demands.events(demand_id, timeout_s=0.2, max_events=100)
        found.update(event.proposal.properties["golem.node.id.name"] for event in events)
        return found >= names

    took_s = await until(all_there, within_s)
    assert found == names
    return took_s


def names_of(subnet, count):
    return {f"{subnet}-{number}" for number in range(count)}


async def test_a_yagna_hears_all_our_offers_and_at_once(pair):
    offers = await publish(pair.ours, "ours", MANY)

    took_s = await initial_proposals(pair.theirs, "ours", names_of("ours", MANY), OURS_S)

    print(f"{MANY} offers of ours known to the yagna after {took_s:.2f} s")  # noqa: T201
    said = pair.tap.broadcasts(OFFERS_TOPIC, pair.tap.node_id)
    assert max(map(len, said)) <= IDS_PER_BROADCAST == 8
    assert offers <= {offer for ids in said for offer in ids}
    asked = [body["offerIds"] for body in pair.tap.calls("Get", pair.yagna.node_id)]
    assert offers <= {offer for ids in asked for offer in ids}


async def test_we_hear_all_offers_of_a_yagna(pair):
    offers = await publish(pair.theirs, "theirs", MANY)

    took_s = await initial_proposals(pair.ours, "theirs", names_of("theirs", MANY), THEIRS_S)

    print(f"{MANY} offers of the yagna known to us after {took_s:.2f} s")  # noqa: T201
    said = pair.tap.broadcasts(OFFERS_TOPIC, pair.yagna.node_id)
    assert max(map(len, said)) <= IDS_PER_BROADCAST
    assert offers <= {offer for ids in said for offer in ids}


async def test_a_demand_that_comes_later_matches_at_once(pair):
    for party in (pair.ours, pair.theirs):
        subnet = "theirs" if party is pair.ours else "ours"
        await initial_proposals(party, subnet, names_of(subnet, MANY), 1.5)


@pytest.mark.parametrize("seller", ["shem", "yagna"])
async def test_a_withdrawn_offer_is_withdrawn_at_the_other_node(pair, seller):
    sides = (pair.theirs, pair.ours) if seller == "shem" else (pair.ours, pair.theirs)
    deal = Deal(*sides, f"withdrawn-{seller}")
    await deal.demand()
    await deal.offer()
    await deal.match()

    await deal.provider.market.offers.withdraw(deal.offer_id)

    sender = pair.tap.node_id if seller == "shem" else pair.yagna.node_id

    async def told():
        said = pair.tap.broadcasts(UNSUBSCRIBES_TOPIC, sender)
        return deal.offer_id in {offer for ids in said for offer in ids}

    await until(told, THEIRS_S)
    await until(lambda: forgotten(deal), OURS_S)
    status, message = await refused(deal.counter())
    assert (status, "was already unsubscribed" in message) == (400, True)


async def forgotten(deal):
    """Ask with a new demand whether the offer is still proposed."""
    demands = deal.requestor.market.demands
    demand_id = await demands.publish(*deal.wants)
    try:
        return await demands.events(demand_id, timeout_s=0.3) == []
    finally:
        await demands.withdraw(demand_id)


@asynccontextmanager
async def scanning(party, constraints):
    call = party.rest.transport.call
    body = {"type": "offer", "constraints": constraints}
    scan_id = json.loads(await call("POST", "/market-api/v1/scan", body=body))
    try:

        async def page(peer, most=500):
            query = {"timeout": 3, "maxEvents": most, "peerId": peer}
            path = f"/market-api/v1/scan/{scan_id}/events"
            return json.loads(await call("GET", path, query=query, wait_s=5))

        yield page
    finally:
        await call("DELETE", f"/market-api/v1/scan/{scan_id}")


@pytest.mark.parametrize("seller", ["shem", "yagna"])
async def test_each_scans_what_it_knows_and_asks_the_other_for_its_offers(pair, seller):
    seeker, asked = (pair.theirs, pair.ours) if seller == "shem" else (pair.ours, pair.theirs)
    subnet = f"scan-{seller}"
    mine = await publish(asked, subnet, 3)
    await initial_proposals(seeker, subnet, names_of(subnet, 3), THEIRS_S)
    peer = pair.tap.node_id if seller == "shem" else pair.yagna.node_id

    async with scanning(seeker, f"(golem.node.debug.subnet={subnet})") as page:
        known = {offer["offerId"] for offer in await page(None)}
        theirs = {offer["offerId"] for offer in await page(peer)}

    assert known == mine
    published = {offer.offer_id for offer in await asked.market.offers.mine()}
    assert mine <= theirs <= published


async def test_a_yagna_pages_through_many_offers_of_ours(pair):
    await publish(pair.ours, "pages", PAGE + 30)
    published = {offer.offer_id for offer in await pair.ours.market.offers.mine()}

    async with scanning(pair.theirs, "()") as page:
        first = [offer["offerId"] for offer in await page(pair.tap.node_id)]
        rest = [offer["offerId"] for offer in await page(pair.tap.node_id)]

    assert len(first) == PAGE
    assert set(first) | set(rest) == published
    assert len(first) + len(rest) == len(published)


@pytest.mark.parametrize("seller", ["yagna", "shem"])
async def test_a_newcomer_hears_of_offers_that_were_there_before(pair, seller, tmp_path):
    """Comes last, the yagna first: its broadcasts are held up by neighbours that have gone."""
    subnet = f"before-{seller}"
    await publish(pair.ours if seller == "shem" else pair.theirs, subnet, 3)
    new = real_yagna if seller == "shem" else our_node
    async with new(tmp_path, pair.relay.address) as newcomer:
        party = await Party.at(newcomer)
        try:
            took_s = await initial_proposals(party, subnet, names_of(subnet, 3), THEIRS_S)
        finally:
            await party.close()

    print(f"a newcomer knew the offers of a {seller} after {took_s:.2f} s")  # noqa: T201
