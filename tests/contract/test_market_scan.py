"""Scans over REST: what is known, what comes, what a peer tells; whose they are, how they end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shem.bus.types import Call, NoSuchEndpoint
from shem.market import offer_server, scans
from shem.net.memory import MemoryFabric
from tests.contract.market_served import KEY, OTHER_KEY, STRANGE_KEY, served, until
from tests.sim.market_pair import PROVIDER_SECRET, REQUESTOR_SECRET, Side, running

BASE = "/market-api/v1"
QUERY = "/public/market/protocol/mk1/discovery/offers/Query"


class Town:
    """A node with its REST, and a peer it can ask."""

    def __init__(self, fabric: MemoryFabric, node: Side, peer: Side, url: str) -> None:
        self.fabric = fabric
        self.node = node
        self.peer = peer
        self.url = url
        self.session = aiohttp.ClientSession(url, headers=KEY)

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, BASE + path, **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("[", "{", '"')) else text

    async def scan(self, **wanted: Any) -> str:
        status, scan_id = await self.call("POST", "/scan", json={"type": "offer", **wanted})
        assert status == 201
        return str(scan_id)

    async def events(self, scan_id: str, **params: Any) -> Any:
        status, found = await self.call(
            "GET", f"/scan/{scan_id}/events", params={"timeout": 0, **params}
        )
        assert status == 200, found
        return found

    async def names(self, scan_id: str, **params: Any) -> list[str]:
        return [item["properties"]["name"] for item in await self.events(scan_id, **params)]


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    fabric = MemoryFabric()
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(running(fabric, tmp_path, REQUESTOR_SECRET))
        peer = await stack.enter_async_context(running(fabric, tmp_path, PROVIDER_SECRET))
        url = await stack.enter_async_context(served(node))
        found = Town(fabric, node, peer, url)
        stack.push_async_callback(found.session.close)
        yield found


async def publish(side: Side, name: str, **more: Any) -> str:
    return str(await side.publish({"name": name, **more}, "()"))


async def test_a_scan_gives_each_known_offer_once_in_the_order_of_arrival(town: Town) -> None:
    ids = [await publish(town.node, name) for name in "abc"]
    scan_id = await town.scan()

    first = await town.events(scan_id, maxEvents=2)

    assert [offer["offerId"] for offer in first] == ids[:2]
    assert first[0].keys() == {
        "properties",
        "constraints",
        "offerId",
        "providerId",
        "timestamp",
    }
    assert first[0]["providerId"] == town.node.node_id
    assert await town.names(scan_id) == ["c"]
    assert await town.events(scan_id) == []
    await publish(town.node, "d")
    assert await town.names(scan_id) == ["d"]


async def test_scans_are_numbered_from_zero_and_read_for_themselves(town: Town) -> None:
    await publish(town.node, "a")

    assert [await town.scan(), await town.scan()] == ["0", "1"]
    assert await town.names("0") == ["a"]
    assert await town.names("1") == ["a"]


async def test_only_offers_on_which_the_constraint_is_true(town: Town) -> None:
    await publish(town.node, "small", cores=1)
    await publish(town.node, "none")
    await publish(town.node, "big", cores=8)

    assert await town.names(await town.scan(constraints="(cores>2)")) == ["big"]
    assert await town.names(await town.scan(constraints="(!(cores>2))")) == ["small"]


async def test_a_poll_waits_for_an_offer_of_a_peer(town: Town) -> None:
    scan_id = await town.scan(constraints="(name=wanted)")
    waiting = asyncio.create_task(town.names(scan_id, timeout=20))
    await publish(town.peer, "other")
    await publish(town.peer, "wanted")

    assert await waiting == ["wanted"]


async def test_withdrawn_and_expired_offers_are_left_out(town: Town) -> None:
    gone = await publish(town.node, "gone")
    await publish(town.node, "kept")
    await town.node.market.unsubscribe(town.node.who, "offer", gone)  # type: ignore[arg-type]

    assert await town.names(await town.scan()) == ["kept"]


async def test_a_scan_for_demands_never_brings_anything(town: Town) -> None:
    await publish(town.node, "a")
    status, scan_id = await town.call("POST", "/scan", json={"type": "demand"})

    assert status == 201
    assert await town.events(scan_id) == []
    assert await town.events(scan_id, peerId=town.peer.node_id) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "Offer"},
        {"type": "offer", "timeout": -1},
        {"type": "offer", "timeout": "5"},
        {"type": "offer", "constraints": "(((("},
        {"type": "offer", "constraints": ""},
        {"type": "offer", "constraints": "(s=*world)"},
    ],
)
async def test_unusable_scans_are_refused(town: Town, body: dict[str, object]) -> None:
    status, error = await town.call("POST", "/scan", json=body)

    assert status == 400
    words = "Invalid constraint. " if "constraints" in body else "Json deserialize error: "
    assert error["message"].startswith(words)


async def test_unknown_members_of_a_scan_are_ignored(town: Town) -> None:
    assert await town.scan(properties={"a": 1}, timeout=None) == "0"


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"maxEvents": "-1"}, 400),
        ({"maxEvents": "x"}, 400),
        ({"maxEvents": "99999999999"}, 400),
        ({"peerId": "zz"}, 400),
        ({"timeout": "inf"}, 400),
        ({"maxEvents": "0", "timeout": "0"}, 200),
        ({"maxEvents": "5000", "timeout": "-1"}, 200),
    ],
)
async def test_parameters_of_a_poll(town: Town, params: dict[str, str], status: int) -> None:
    scan_id = await town.scan()

    assert (await town.call("GET", f"/scan/{scan_id}/events", params=params))[0] == status


async def test_a_scan_belongs_to_the_identity_that_opened_it(town: Town) -> None:
    scan_id = await town.scan()
    for method, path in (
        ("GET", f"/scan/{scan_id}/events"),
        ("DELETE", f"/scan/{scan_id}"),
        ("DELETE", f"/scan/{scan_id}/events"),
    ):
        status, error = await town.call(method, path, headers=STRANGE_KEY)
        assert (status, error["message"]) == (403, "Access denied")

    status, _ = await town.call("GET", f"/scan/{scan_id}/events?timeout=0", headers=OTHER_KEY)
    assert status == 200


@pytest.mark.parametrize("path", ["", "/events"])
async def test_both_ways_to_end_a_scan(town: Town, path: str) -> None:
    scan_id = await town.scan()

    assert await town.call("DELETE", f"/scan/{scan_id}{path}") == (204, "")
    for method, again in (("DELETE", path), ("GET", "/events")):
        status, error = await town.call(method, f"/scan/{scan_id}{again}")
        assert (status, error["message"]) == (404, f'Iterator with id "{scan_id}" not found')


async def test_ending_a_scan_wakes_its_pollers(town: Town) -> None:
    scan_id = await town.scan()
    waiting = [
        asyncio.create_task(town.call("GET", f"/scan/{scan_id}/events?timeout=30"))
        for _ in range(2)
    ]
    scan = town.node.market._scans._scans[scan_id]
    await _used_by(scan, 2)

    await town.call("DELETE", f"/scan/{scan_id}")

    assert [status for status, _ in await asyncio.gather(*waiting)] == [410, 410]


async def _used_by(scan: scans.Scan, users: int) -> None:
    async def is_used() -> bool:
        return scan.users == users

    await until(is_used)


async def test_an_unused_scan_is_forgotten_after_its_time(town: Town) -> None:
    forgotten = await town.scan(timeout=0)
    kept = await town.scan(timeout=100)
    await asyncio.sleep(0.01)

    assert (await town.call("GET", f"/scan/{forgotten}/events"))[0] == 404
    assert (await town.call("GET", f"/scan/{kept}/events?timeout=0"))[0] == 200
    await town.scan()
    assert forgotten not in town.node.market._scans._scans


async def test_of_too_many_scans_the_least_used_goes(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "SCANS_MAX", 2)
    ids = [await town.scan(), await town.scan()]
    await town.events(ids[0])
    await town.scan()

    assert (await town.call("GET", f"/scan/{ids[1]}/events"))[0] == 404
    assert await town.events(ids[0]) == []


async def test_a_cancelled_poll_takes_nothing(town: Town) -> None:
    scan_id = await town.scan()
    with pytest.raises(TimeoutError):
        await town.call(
            "GET",
            f"/scan/{scan_id}/events?timeout=60",
            timeout=aiohttp.ClientTimeout(total=0.2),
        )
    await town.call("GET", "/demands")  # by now the server knows that the poller is gone
    await publish(town.node, "a")

    assert await town.names(scan_id) == ["a"]


async def test_pollers_of_one_scan_share_its_offers(town: Town) -> None:
    scan_id = await town.scan()
    waiting = [asyncio.create_task(town.names(scan_id, timeout=0.5)) for _ in range(3)]
    scan = town.node.market._scans._scans[scan_id]
    await _used_by(scan, 3)
    await publish(town.node, "a")

    assert sorted(await asyncio.gather(*waiting)) == [[], [], ["a"]]


# --- the stream ---


async def test_the_stream_brings_what_is_known_and_what_comes(town: Town) -> None:
    first = await publish(town.node, "first")
    scan_id = await town.scan(constraints="(name=*)")
    accept = {"Accept": "text/event-stream, */*"}
    async with town.session.get(f"{BASE}/scan/{scan_id}/events", headers=accept) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        frame = await answer.content.readuntil(b"\n\n")
        event, data = frame.decode().rstrip().split("\n")
        assert event == "event: offer"
        assert json.loads(data.removeprefix("data: "))["offerId"] == first

        await publish(town.peer, "second")
        frame = await answer.content.readuntil(b"\n\n")
        assert b'"name":"second"' in frame

        await town.call("DELETE", f"/scan/{scan_id}")
        assert await answer.content.read() == b""


async def test_no_stream_of_an_unknown_scan(town: Town) -> None:
    accept = {"Accept": "text/event-stream"}
    async with town.session.get(f"{BASE}/scan/7/events", headers=accept) as answer:
        assert answer.status == 404
    async with town.session.get(
        f"{BASE}/scan/{await town.scan()}/events?timeout=0",
        headers={"Accept": "application/json, text/event-stream"},
    ) as answer:
        assert await answer.json() == []


# --- a peer's offers ---


async def test_a_peer_is_asked_page_by_page_and_then_from_the_beginning(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer_server, "PAGE", 15)
    town.fabric.cut(town.node.node_id, town.peer.node_id)
    for number in range(20):
        await publish(town.peer, f"{number:02}")
    town.fabric.join(town.node.node_id, town.peer.node_id)
    scan_id = await town.scan(constraints="(name=07)")
    names = [f"{number:02}" for number in range(20)]

    async def told(**params: int) -> list[str]:
        return await town.names(scan_id, peerId=town.peer.node_id, timeout=5, **params)

    assert await told() == names[:15]
    assert await told() == names[15:]
    assert await told(maxEvents=1) == names[:10]
    assert await told(maxEvents=1) == names[10:15]
    assert await told() == names[15:]


async def test_a_peer_that_lacks_the_service_is_a_bad_gateway(town: Town) -> None:
    async def lacking(_call: Call) -> bytes:
        raise NoSuchEndpoint

    town.peer.bus._bindings[QUERY].close()
    town.peer.bus.bind(QUERY, lacking)
    scan_id = await town.scan()

    status, _ = await town.call("GET", f"/scan/{scan_id}/events?peerId={town.peer.node_id}")
    assert status == 502


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"offers": "x"},
        {"offers": ["x"], "iterator": None},
        {"offers": ["0" * 32 + "-" + "1" * 64] * 2000, "iterator": None},
    ],
)
async def test_a_peer_that_answers_nonsense_is_a_bad_gateway(town: Town, answer: object) -> None:
    async def nonsense(_call: Call, _body: object) -> object:
        return answer

    town.peer.bus._bindings[QUERY].close()
    town.peer.bus.serve(QUERY, nonsense)
    scan_id = await town.scan()

    status, _ = await town.call("GET", f"/scan/{scan_id}/events?peerId={town.peer.node_id}")
    assert status == 502


async def test_a_peer_cannot_pass_off_an_offer_under_a_wrong_id(town: Town) -> None:
    offer = await publish(town.peer, "a")
    get = QUERY.removesuffix("Query") + "Get"
    rows = [
        {
            "id": offer,
            "properties": '{"name":"forged"}',
            "constraints": "()",
            "node_id": town.peer.node_id,
            "creation_ts": "2026-01-01T00:00:00",
            "insertion_ts": None,
            "expiration_ts": "2099-01-01T00:00:00",
        }
    ]

    async def forged(_call: Call, _body: object) -> object:
        return rows

    town.peer.bus._bindings[get].close()
    town.peer.bus.serve(get, forged)
    scan_id = await town.scan()

    assert await town.names(scan_id, peerId=town.peer.node_id, timeout=5) == []


async def test_a_peer_out_of_reach_and_a_silent_peer(town: Town) -> None:
    scan_id = await town.scan()
    absent = "0x" + "1" * 40
    status, error = await town.call("GET", f"/scan/{scan_id}/events?peerId={absent}")
    assert status == 500
    assert error["message"].startswith("GSB failure: ")

    async def silent(_call: Call, _body: object) -> object:
        await asyncio.Event().wait()
        return None

    town.peer.bus._bindings[QUERY].close()
    town.peer.bus.serve(QUERY, silent)
    path = f"/scan/{scan_id}/events?timeout=0.2&peerId={town.peer.node_id}"
    status, _ = await town.call("GET", path)
    assert status == 504
