"""What our node and a real yagna tell of the net, and of each other: REST, find, ping, sessions."""

import json

import pytest

from tests.interop.town import OTHER, SHEM, YAGNA

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAYS = pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(SHEM, YAGNA, id="our node asks about a yagna"),
        pytest.param(YAGNA, SHEM, id="a yagna asks about our node"),
        pytest.param(SHEM, OTHER, id="our node asks about our node"),
    ],
)


def daemons(town, *names):
    return [town.parties[name].daemon for name in names]


@WAYS
async def test_find_tells_identities_and_addresses(town, one, other):
    asking, sought = daemons(town, one, other)

    found = await asking.cli("net", "find", sought.node_id)

    assert found["identities"] == [sought.node_id]
    host, port = sought.bind
    assert found["endpoints"] == [f"{host}:{port}"]


@WAYS
async def test_ping_measures_both_channels(town, one, other):
    asking, sought = daemons(town, one, other)

    [row] = await asking.cli("net", "ping", sought.node_id)

    assert (row["nodeId"], row["p2p"]) == (sought.node_id, True)
    assert 0 < float(row["ping (udp)"]) < 1000
    assert 0 < float(row["ping (tcp)"]) < 1000


async def test_each_shows_its_session_with_the_other(town):
    yagna, ours = daemons(town, YAGNA, SHEM)
    await ours.cli("net", "ping", yagna.node_id)

    for one, other in ((yagna, ours), (ours, yagna)):
        rows = {row["nodeId"]: row for row in await one.cli("net", "sessions")}
        assert rows[other.node_id]["type"] == "p2p"
        assert other.node_id in await one.cli("net", "list-neighbors", "5")


async def test_the_status_has_the_same_members_and_true_values(town):
    shown = []
    for daemon in daemons(town, YAGNA, SHEM):
        call = town.parties[YAGNA if daemon is town.yagna else SHEM].rest.transport.call
        status = json.loads(await call("GET", "/net-api/v2/net/status"))
        command = await daemon.cli("net", "status")
        host, port = daemon.bind
        assert status["nodeId"] == command["nodeId"] == daemon.node_id
        assert status["listenIp"] == command["listenAddress"] == f"{host}:{port}"
        assert status["publicIp"] == command["publicAddress"] == f"{host}:{port}"
        assert status["sessions"] == command["sessions"] >= 2
        shown.append((status.keys(), command.keys(), command["bandwidth"].keys()))
    assert shown[0] == shown[1]


@pytest.mark.parametrize("path", ["/net-api/v2/vpn/net", "/net-api/v1/net"])
async def test_a_virtual_network_is_refused_clearly_by_our_node(town, path):
    status, message = await refusal(town.parties[SHEM], path)

    assert status == 501
    assert "not supported yet" in message


async def refusal(party, path):
    from shem.rest.errors import ApiError

    try:
        await party.rest.transport.call("GET", path)
    except ApiError as error:
        return error.status, error.message
    raise AssertionError("it was not refused")
