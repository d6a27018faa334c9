"""Identities made, unlocked and locked on running nodes trade, or stop, without a restart."""

from contextlib import AsyncExitStack

import pytest

from shem.rest.client import RestClient
from shem.rest.errors import ApiError
from tests.dialogue import Agents
from tests.interop.deal import until
from tests.interop.town import OTHER, PAIRS, SHEM, YAGNA

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

PASSWORD = "open sesame"
GONE_S = 20.0


async def new_identity(daemon, alias, *arguments):
    """Make an identity and an application key for it by command; return both."""
    created = await daemon.cli("id", "create", alias, *arguments)
    key = await daemon.cli("app-key", "create", f"for-{alias}", "--id", alias)
    return created["Ok"]["nodeId"], key


async def terms(agreement_id, *clients):
    """Return the state and both parties as each side sees them."""
    found = [await client.market.agreements.get(agreement_id) for client in clients]
    return {(each.state, each.demand.requestor_id, each.offer.provider_id) for each in found}


async def programs(stack, town, pair, keys):
    """Open a client per party; `keys` name the application key where it is not the usual one."""
    clients = []
    for name in pair:
        daemon = town.parties[name].daemon
        key = keys.get(name, daemon.app_key)
        clients.append(await stack.enter_async_context(RestClient(daemon.api_url, key)))
    return clients


@pytest.mark.parametrize("pair", PAIRS)
async def test_new_identity_trades_at_once(town, pair, request):
    alias = f"worker-{request.node.callspec.id.replace(' ', '-')}"
    await new_identity(town.shem, f"{alias}-first", "--no-password")
    node_id, key = await new_identity(town.shem, alias, "--no-password")
    expected = [node_id if name == SHEM else town.parties[name].daemon.node_id for name in pair]

    async with AsyncExitStack() as stack:
        clients = await programs(stack, town, pair, {SHEM: key})
        deal = await Agents(*clients, town.subnet()).negotiate()

        assert await terms(deal.agreement_id, *clients) == {("Approved", *expected)}
        await clients[0].market.agreements.terminate(deal.agreement_id)
        await until(lambda: _is(clients[1], deal.agreement_id, "Terminated"), GONE_S)


@pytest.mark.parametrize("peer", [OTHER, YAGNA])
async def test_identity_trades_from_its_unlocking_to_its_locking(town, peer):
    alias = f"sealed-{peer.replace(' ', '-')}"
    node_id, key = await new_identity(town.shem, alias, "--password", PASSWORD)
    async with AsyncExitStack() as stack:
        ours, theirs = await programs(stack, town, (SHEM, peer), {SHEM: key})
        with pytest.raises(ApiError) as refused:
            await ours.market.demands.mine()
        assert refused.value.status == 401

        await town.shem.cli("id", "unlock", alias, "--password", PASSWORD)
        deal = await Agents(ours, theirs, town.subnet()).negotiate()
        expected = ("Approved", node_id, town.parties[peer].daemon.node_id)
        assert await terms(deal.agreement_id, ours, theirs) == {expected}

        await town.shem.cli("id", "lock", alias)
        with pytest.raises(ApiError) as refused:
            await ours.market.demands.mine()
        assert refused.value.status == 401
        finder = town.parties[peer].daemon
        await until(lambda: _is_lost(finder, node_id), GONE_S)

        await town.shem.cli("id", "unlock", alias, "--password", PASSWORD)
        await ours.market.agreements.terminate(deal.agreement_id)
        await until(lambda: _is(theirs, deal.agreement_id, "Terminated"), GONE_S)


async def _is(client, agreement_id, state):
    return (await client.market.agreements.get(agreement_id)).state == state


async def _is_lost(daemon, node_id):
    code, _, _ = await daemon.run("net", "find", node_id, "--json")
    return code != 0
