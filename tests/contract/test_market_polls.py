"""Long polls over real connections: who is handed events, who acknowledges, who gets them again."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shem.market.ids import Role
from shem.net.memory import MemoryFabric
from tests.contract.market_served import KEY, OTHER_KEY, served, until
from tests.sim.market_pair import (
    OFFER,
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    answer,
    negotiate,
    propose,
    running,
)

BASE = "/market-api/v1"
GONE = "not found. Could be unsubscribed."


class Program:
    """A client with connections of its own."""

    def __init__(self, url: str, key: dict[str, str] = KEY) -> None:
        self._session = aiohttp.ClientSession(url, headers=key)

    async def __aenter__(self) -> "Program":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """Close all connections, as the end of a process does."""
        await self._session.close()

    async def call(
        self, method: str, path: str, body: object = None, **params: Any
    ) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} if method == "POST" else {}
        data = json.dumps(body) if method == "POST" else None
        async with self._session.request(
            method, BASE + path, data=data, params=params, headers=headers
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text[:1] in ("[", "{", '"') else text

    async def events(self, side: "Served", timeout: float = 5.0, **params: Any) -> list[Any]:
        status, found = await self.call("GET", side.events_path, timeout=timeout, **params)
        assert status == 200, found
        return [about(event) for event in found]


def about(event: dict[str, Any]) -> str:
    found = event.get("proposal", event.get("agreement", event))
    return str(found.get("proposalId") or found["agreementId"])


class Served:
    """A node with its REST and one subscription."""

    def __init__(self, side: Side, url: str, kind: str) -> None:
        self.side = side
        self.url = url
        self.kind = kind
        self.subscription = ""

    @property
    def events_path(self) -> str:
        return f"/{self.kind}s/{self.subscription}/events"

    async def settled(self) -> None:
        """Wait until the server has seen all closed connections."""
        await asyncio.sleep(0.05)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Served, Served]]:
    fabric = MemoryFabric()
    async with AsyncExitStack() as stack:
        found = []
        for secret, kind in ((REQUESTOR_SECRET, "demand"), (PROVIDER_SECRET, "offer")):
            side = await stack.enter_async_context(running(fabric, tmp_path, secret))
            url = await stack.enter_async_context(served(side))
            found.append(Served(side, url, kind))
        yield found[0], found[1]


@pytest.fixture
async def demand(pair: tuple[Served, Served]) -> Served:
    """A demand to which one offer was proposed."""
    requestor, provider = pair
    requestor.subscription = await requestor.side.seek()
    provider.subscription = await provider.side.publish()
    await until(lambda: stored(requestor))
    return requestor


async def stored(served_: Served) -> int:
    rows = await served_.side.store.fetch(
        "SELECT COUNT(*) AS n FROM negotiation_event WHERE subscription_id = :id LIMIT 1",
        id=served_.subscription,
    )
    return int(rows[0]["n"])


async def test_the_next_poll_of_the_same_program_acknowledges(demand: Served) -> None:
    async with Program(demand.url) as program:
        assert len(await program.events(demand)) == 1
        assert await stored(demand) == 1
        assert await program.events(demand, timeout=0) == []
        assert await stored(demand) == 0


async def test_who_died_before_polling_again_is_told_again(demand: Served) -> None:
    async with Program(demand.url) as first:
        told = await first.events(demand)
    async with Program(demand.url) as second:
        assert await second.events(demand) == told
        assert await second.events(demand, timeout=0) == []


async def test_a_program_that_always_dies_is_told_three_times(demand: Served) -> None:
    for _ in range(3):
        async with Program(demand.url) as program:
            assert len(await program.events(demand)) == 1
    async with Program(demand.url) as program:
        assert await program.events(demand, timeout=0) == []


async def test_acting_on_an_event_acknowledges_it(demand: Served) -> None:
    async with Program(demand.url) as first:
        [proposal] = await first.events(demand)
        path = f"/demands/{demand.subscription}/proposals/{proposal}"
        terms = {"properties": {}, "constraints": "()"}
        assert (await first.call("POST", path, terms))[0] in (200, 400)
        assert (await first.call("POST", f"{path}/reject", {"message": "no"}))[0] == 204
    async with Program(demand.url) as second:
        assert await second.events(demand, timeout=0) == []


async def test_an_agreement_is_told_until_it_is_approved(pair: tuple[Served, Served]) -> None:
    requestor, provider = pair
    ids = await negotiate(requestor.side, provider.side)
    provider.subscription = ids.offer
    agreement = await propose(requestor.side, ids)
    await requestor.side.market.confirm(requestor.side.who, agreement, None)
    for _ in range(2):
        async with Program(provider.url) as program:
            assert await program.events(provider) == [agreement]
    async with Program(provider.url) as program:
        assert await program.events(provider) == [agreement]
        assert (await program.call("POST", f"/agreements/{agreement}/approve"))[0] == 204
    async with Program(provider.url) as program:
        assert await program.events(provider, timeout=0) == []


async def test_another_connection_of_a_running_program_acknowledges(demand: Served) -> None:
    async with Program(demand.url) as first, Program(demand.url) as pooled:
        assert len(await first.events(demand)) == 1
        assert await pooled.events(demand, timeout=0) == []
        assert await stored(demand) == 0


async def test_what_another_program_holds_is_neither_told_nor_acknowledged(
    demand: Served,
) -> None:
    async with Program(demand.url) as holder, Program(demand.url, OTHER_KEY) as other:
        told = await holder.events(demand)
        assert await other.events(demand, timeout=0) == []
        assert await stored(demand) == 1

        waiting = asyncio.create_task(other.events(demand, timeout=20))
        await demand.settled()
        await holder.die()
        assert await waiting == told


async def test_programs_of_one_key_that_name_themselves_are_told_apart(demand: Served) -> None:
    async with Program(demand.url, KEY | {"Shem-Program": "watcher"}) as watcher:
        assert (await watcher.call("GET", "/demands"))[0] == 200
        async with Program(demand.url, KEY | {"Shem-Program": "first run"}) as dies:
            told = await dies.events(demand)
        await demand.settled()

        async with Program(demand.url, KEY | {"Shem-Program": "second run"}) as follows:
            assert await follows.events(demand, timeout=0) == told
            assert await follows.events(demand, timeout=0) == []


async def test_calls_that_announce_their_end_share_one_session(demand: Served) -> None:
    one_shot = KEY | {"Connection": "close"}
    for expected in (1, 0, 0):
        async with Program(demand.url, one_shot) as program:
            assert len(await program.events(demand, timeout=0)) == expected
    assert await stored(demand) == 0


async def test_an_answer_that_broke_on_its_way_is_given_again(demand: Served) -> None:
    async with Program(demand.url) as alive:
        await alive.call("GET", "/demands")
        address = demand.url.removeprefix("http://").split(":")
        request = (
            f"GET {BASE}{demand.events_path}?timeout=5 HTTP/1.1\r\nHost: x\r\n"
            "Authorization: Bearer key\r\n\r\n"
        )
        connection = socket.create_connection((address[0], int(address[1])))
        connection.sendall(request.encode())
        await until(lambda: _held(demand))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        await demand.settled()

        assert len(await alive.events(demand)) == 1


async def _held(demand: Served) -> set[int]:
    return demand.side.market._queues._held_events(demand.subscription)  # type: ignore[arg-type]


async def test_one_event_goes_to_one_of_several_pollers(pair: tuple[Served, Served]) -> None:
    requestor, provider = pair
    requestor.subscription = await requestor.side.seek()
    async with Program(requestor.url) as one, Program(requestor.url) as two:
        waiting = [
            asyncio.create_task(program.events(requestor, timeout=1)) for program in (one, two, one)
        ]
        await requestor.settled()
        await provider.side.publish()
        counts = sorted(len(events) for events in await asyncio.gather(*waiting))
    assert counts == [0, 0, 1]


async def test_many_events_are_shared_by_pollers_without_doubles(
    pair: tuple[Served, Served],
) -> None:
    requestor, provider = pair
    requestor.subscription = await requestor.side.seek()
    for _ in range(30):
        await provider.side.publish()
    await until(lambda: _stored_all(requestor, 30))
    async with Program(requestor.url) as one, Program(requestor.url, OTHER_KEY) as two:
        parts = await asyncio.gather(
            one.events(requestor, maxEvents=20), two.events(requestor, maxEvents=20)
        )
    assert len(parts[0] + parts[1]) == len(set(parts[0] + parts[1])) == 30


async def _stored_all(served_: Served, count: int) -> bool:
    return await stored(served_) == count


async def test_a_cancelled_poller_leaves_the_event_to_the_next(
    pair: tuple[Served, Served],
) -> None:
    requestor, provider = pair
    requestor.subscription = await requestor.side.seek()
    async with Program(requestor.url) as program:
        cancelled = asyncio.create_task(program.events(requestor, timeout=30))
        await requestor.settled()
        cancelled.cancel()
        await requestor.settled()
        await provider.side.publish()
        assert len(await program.events(requestor)) == 1


@pytest.mark.parametrize("kind", ["demand", "offer"])
async def test_unsubscribing_ends_every_poll_at_once(
    pair: tuple[Served, Served], kind: str
) -> None:
    found = pair[0] if kind == "demand" else pair[1]
    found.subscription = await (found.side.seek() if kind == "demand" else found.side.publish())
    async with Program(found.url) as program:
        started = time.monotonic()
        waiting = [
            asyncio.create_task(program.call("GET", found.events_path, timeout=60))
            for _ in range(3)
        ]
        await found.settled()
        status, _ = await program.call("DELETE", f"/{kind}s/{found.subscription}")
        assert status == 204
        for refused, error in await asyncio.gather(*waiting):
            assert refused == 404
            assert error["message"] == f"Subscription [{found.subscription}] {GONE}"
        assert time.monotonic() - started < 10
        status, after = await program.call("GET", found.events_path, timeout=0)
        assert (status, after) == (404, after) if kind == "demand" else (200, [])


@pytest.mark.parametrize(("timeout", "least", "most"), [("0", 0, 1), ("-3", 0, 1), ("0.5", 0.5, 4)])
async def test_a_poll_lasts_as_long_as_it_was_asked_to(
    pair: tuple[Served, Served], timeout: str, least: float, most: float
) -> None:
    requestor, _ = pair
    requestor.subscription = await requestor.side.seek()
    async with Program(requestor.url) as program:
        started = time.monotonic()
        status, found = await program.call(
            "GET", requestor.events_path, timeout=timeout, pollTimeout="30"
        )
        assert (status, found) == (200, [])
        assert least <= time.monotonic() - started < most


@pytest.mark.parametrize("query", ["timeout=nan", "timeout=inf", "timeout=1e30", "timeout=x"])
async def test_an_unusable_time_is_refused(pair: tuple[Served, Served], query: str) -> None:
    requestor, _ = pair
    requestor.subscription = await requestor.side.seek()
    async with Program(requestor.url) as program:
        status, words = await program.call("GET", f"{requestor.events_path}?{query}")
        assert status == 400
        assert words.startswith("Query deserialize error: ")


@pytest.mark.parametrize("most", ["0", "101", "-1"])
async def test_a_number_of_events_out_of_range_is_refused(
    pair: tuple[Served, Served], most: str
) -> None:
    requestor, _ = pair
    requestor.subscription = await requestor.side.seek()
    async with Program(requestor.url) as program:
        status, error = await program.call("GET", requestor.events_path, maxEvents=most)
        words = f"Invalid maxEvents '{most}', should be between 1 and 100."
        assert (status, error["message"]) == (400, words)


async def test_a_wait_ends_when_the_agreement_is_decided(pair: tuple[Served, Served]) -> None:
    requestor, provider = pair
    ids = await negotiate(requestor.side, provider.side)
    agreement = await propose(requestor.side, ids)
    await requestor.side.market.confirm(requestor.side.who, agreement, None)
    async with Program(requestor.url) as program:
        path = f"/agreements/{agreement}/wait"
        assert (await program.call("POST", path, timeout=0.1))[0] == 408
        waiting = [asyncio.create_task(program.call("POST", path, timeout=20)) for _ in range(2)]
        await requestor.settled()
        await provider.side.market.reject(provider.side.who, agreement, {"message": "no"})
        for status, error in await asyncio.gather(*waiting):
            assert (status, error["message"]) == (410, "Rejected")


async def test_agreements_are_listed_sorted_and_limited(pair: tuple[Served, Served]) -> None:
    requestor, provider = pair
    made = []
    for number in range(3):
        demand = await requestor.side.seek(constraints=f"(number={number})")
        offer = await provider.side.publish(OFFER | {"number": number})
        [initial] = await requestor.side.events("demand", demand)
        proposal = initial["proposal"]["proposalId"]
        ids = await answer(requestor.side, provider.side, offer, demand, proposal)
        made.append(await propose(requestor.side, ids))
    async with Program(requestor.url) as program:

        async def listed(**params: Any) -> list[str]:
            status, found = await program.call("GET", "/agreements", **params)
            assert status == 200
            return [entry["id"] for entry in found]

        assert await listed() == made[::-1]
        assert await listed(sort="timestamp") == made
        assert await listed(sort="-timestamp", limit=2) == made[:0:-1]
        assert await listed(state="Proposal", limit=1) == made[2:]
        assert await listed(state="Pending") == []
        for wrong in ({"sort": "x"}, {"limit": 0}, {"limit": 99999999}, {"limit": "x"}):
            assert (await program.call("GET", "/agreements", **wrong))[0] == 400


async def test_the_role_of_a_countered_proposal_does_not_matter(
    pair: tuple[Served, Served],
) -> None:
    requestor, provider = pair
    ids = await negotiate(requestor.side, provider.side)
    provider.subscription = ids.offer
    await requestor.side.counter(Role.REQUESTOR, ids.demand, ids.provider_draft)
    await until(lambda: stored(provider))
    async with Program(provider.url) as program:
        assert len(await program.events(provider)) == 1
