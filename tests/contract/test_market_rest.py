"""Our REST beside recordings of the real daemon's: one negotiation, and every static refusal."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shem.net.memory import MemoryFabric
from tests.contract.market_served import KEY, served
from tests.sim.market_pair import PROVIDER_SECRET, REQUESTOR_SECRET, running

RECORDINGS = Path(__file__).parents[1] / "vectors" / "recordings"
ID = re.compile(r"(?:[RP]-)?[0-9a-f]{64}|[0-9a-f]{32}-[0-9a-f]{64}|0x[0-9a-f]{40}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
STATIC = (
    "not found.",
    "Could be unsubscribed.",
    "Content type error",
    "deserialize error",
    "Invalid maxEvents",
    "Invalid Agreement id",
    "Iterator with id",
    "bad value on maxEvents",
)
RECORDED_EXPIRATION = "1795500000000"
"""Of the recorded demands; it is over, and with it their agreements."""
OURS_ALONE = {"pendingDelivery"}
FOREIGN_WORDS = "Json deserialize error"


def recorded(name: str) -> list[dict[str, Any]]:
    text = (RECORDINGS / name).read_text().replace(RECORDED_EXPIRATION, "4100000000000")
    return [json.loads(line) for line in text.splitlines()[1:]]


@pytest.fixture
async def urls(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    fabric = MemoryFabric()
    async with AsyncExitStack() as stack:
        found = {}
        for name, secret in (("requestor", REQUESTOR_SECRET), ("provider", PROVIDER_SECRET)):
            side = await stack.enter_async_context(running(fabric, tmp_path, secret))
            found[name] = await stack.enter_async_context(served(side))
            found[side.node_id] = name
        yield found


class Replay:
    """Says a recording to our nodes, with our ids in the place of the recorded ones."""

    def __init__(self, urls: dict[str, str], session: aiohttp.ClientSession) -> None:
        self._urls = urls
        self._session = session
        self.ids: dict[str, str] = {}

    async def say(self, line: dict[str, Any]) -> tuple[int, object]:
        body = (
            self._translated(json.dumps(line["request"]))
            if isinstance(line.get("request"), dict)
            else None
        )
        query = {name: str(value) for name, value in (line.get("query") or {}).items()}
        async with self._session.request(
            line["method"],
            self._urls[line["node"]] + self._translated(line["path"]),
            params=query,
            data=body,
            headers=KEY | ({"Content-Type": "application/json"} if body else {}),
        ) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text)
            except ValueError:
                return answer.status, text

    def _translated(self, text: str) -> str:
        return ID.sub(lambda match: self.ids.get(match[0], match[0]), text)

    def compare(self, ours: object, theirs: object, where: str) -> None:
        """Compare shapes and constants; learn which id of ours stands for which of theirs."""
        if isinstance(theirs, dict):
            assert isinstance(ours, dict), where
            assert ours.keys() - OURS_ALONE == theirs.keys(), where
            for name, value in theirs.items():
                self.compare(ours[name], value, f"{where}.{name}")
        elif isinstance(theirs, list):
            assert isinstance(ours, list), where
            assert len(ours) == len(theirs), where
            for index, value in enumerate(theirs):
                self.compare(ours[index], value, f"{where}[{index}]")
        elif isinstance(theirs, str) and ID.fullmatch(theirs):
            assert isinstance(ours, str), where
            assert ID.fullmatch(ours), where
            assert self.ids.setdefault(theirs, ours) == ours, where
        elif isinstance(theirs, str) and TIME.fullmatch(theirs):
            assert isinstance(ours, str), where
            assert TIME.fullmatch(ours), where
        else:
            assert ours == theirs, where


async def test_recorded_negotiation_gives_the_same_answers(urls: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session:
        replay = Replay(urls, session)
        for number, line in enumerate(recorded("market_negotiation_rest.jsonl")):
            if line.get("request") and "validTo" in line["request"]:
                line["request"]["validTo"] = "2099-01-01T00:00:00Z"
            status, ours = await replay.say(line)

            where = f"#{number} {line['node']} {line['method']} {line['path']}"
            assert status == line["status"], (where, ours)
            replay.compare(ours, line["response"], where)


def static_refusals() -> list[dict[str, Any]]:
    return [
        line
        for line in recorded("market_rest_errors.jsonl")
        if line["node"] in ("requestor", "provider")
        and line["status"] in (400, 404)
        and any(words in json.dumps(line["response"]) for words in STATIC)
        and "Remote" not in json.dumps(line["response"])
    ]


async def test_recorded_refusals_come_with_the_same_words(urls: dict[str, str]) -> None:
    checked = 0
    async with aiohttp.ClientSession() as session:
        replay = Replay(urls, session)
        for line in static_refusals():
            status, ours = await replay.say(line)

            assert status == line["status"], (line, ours)
            theirs = line["response"]
            if isinstance(theirs, dict):
                assert isinstance(ours, dict)
                ours, theirs = ours["message"], theirs["message"]
                if theirs.startswith(FOREIGN_WORDS):
                    ours, theirs = ours[: len(FOREIGN_WORDS)], FOREIGN_WORDS
            assert ours == theirs, line
            checked += 1
    assert checked > 30


async def test_property_queries_are_unknown(urls: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"{urls['requestor']}/market-api/v1/offers/x/propertyQuery/1"
        async with session.post(url, headers=KEY, json={}) as answer:
            assert answer.status == 404


async def test_a_poll_of_a_program_that_went_away_consumes_nothing(
    urls: dict[str, str],
) -> None:
    terms = {"properties": {}, "constraints": "()"}
    async with aiohttp.ClientSession(headers=KEY) as session:
        requestor, provider = (f"{urls[n]}/market-api/v1" for n in ("requestor", "provider"))
        async with session.post(f"{requestor}/demands", json=terms) as answer:
            demand = await answer.json()
        with pytest.raises(TimeoutError):
            await session.get(
                f"{requestor}/demands/{demand}/events",
                params={"timeout": "60"},
                timeout=aiohttp.ClientTimeout(total=0.2),
            )

        async with session.post(f"{provider}/offers", json=terms) as answer:
            assert answer.status == 201
        async with session.get(f"{requestor}/demands/{demand}/events") as answer:
            events = await answer.json()

        assert [event["eventType"] for event in events] == ["ProposalEvent"]
