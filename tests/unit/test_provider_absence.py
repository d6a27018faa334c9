"""Requestors that answer, in whatever way, and requestors that do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shem.bus.types import Call, GsbError, NoSuchEndpoint
from shem.provider import absence as absence_module
from shem.provider.absence import PING, Absence
from shem.wire.flexbuffers import dumps_reply_err, dumps_reply_ok
from tests.provider_site import Site, site, until
from tests.rented import AGREEMENT_ID, PROVIDER, REQUESTOR
from tests.scripted_node import LOST, Answer, ok

TERM = {"golem.srv.offline.max-absence-sec": 1}
NET = "/net-api/v2/net/status"
ON_THE_NET = ok({"nodeId": PROVIDER, "sessions": 1})


class Peer:
    """The requestor's node, as the bus shows it."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self.reply = dumps_reply_ok({})

    async def answer(self, call: Call) -> bytes:
        assert call.address == f"/net/{REQUESTOR}/{PING}"
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.reply


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence_module, "ASK_PERIOD_LEAST_S", 0.05)
    monkeypatch.setattr(absence_module, "ASKS_PER_TERM", 20)
    monkeypatch.setattr(absence_module, "LOOK_PERIOD_S", 0.05)


@asynccontextmanager
async def watched(
    directory: Path, net: Answer = ON_THE_NET, *, agree: bool = True
) -> AsyncIterator[tuple[Site, Peer]]:
    async with site(directory, offer=TERM, agree=agree) as there:
        peer = Peer()
        there.bus.bind(f"/net/{REQUESTOR}", peer.answer)
        there.node.answer("GET", NET, net)
        common = dict(there.common)
        config = common.pop("config")
        absence = Absence(
            gsb_url=config.gsb_url,
            agreements=there.agreements,
            activities=there.activities,
            **common,
        )
        there.common["scope"].spawn(absence.run(), "absence")
        yield there, peer


@pytest.mark.parametrize("failure", [None, NoSuchEndpoint()])
async def test_any_answer_is_a_sign_of_life(tmp_path: Path, failure: Exception | None) -> None:
    async with watched(tmp_path) as (there, peer):
        peer.failure = failure
        await until(lambda: peer.asked >= 30)
        peer.failure, peer.reply = None, dumps_reply_err({"service": "odd"})
        await until(lambda: peer.asked >= 50)

        assert there.terminations() == []
        assert await there.records.silences() == {}


async def test_a_requestor_that_is_silent_for_its_whole_term_is_not_waited_for(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path) as (there, peer):
        peer.failure = GsbError("no route")

        await until(lambda: len(there.terminations()) == 1)

        assert there.terminations() == [
            {
                "message": "Requestor is unreachable more than 1s",
                "golem.provider.code": "RequestorUnreachable",
            }
        ]


@pytest.mark.parametrize("net", [ok({"nodeId": PROVIDER, "sessions": 0}), LOST])
async def test_while_the_provider_itself_is_off_the_network_nobody_is_silent(
    tmp_path: Path, net: Answer
) -> None:
    async with watched(tmp_path, net) as (there, peer):
        peer.failure = GsbError("no route")
        await until(lambda: peer.asked >= 40)

        assert there.terminations() == []
        assert await there.records.silences() == {}


async def test_silence_counts_on_over_a_restart_and_ends_with_an_answer(tmp_path: Path) -> None:
    async with watched(tmp_path) as (there, peer):
        peer.failure = GsbError("no route")
        async with asyncio.timeout(10):
            while not (before := await there.records.silences()):  # noqa: ASYNC110 - a store tells nobody
                await asyncio.sleep(0.01)

    async with watched(tmp_path, agree=False) as (there, peer):
        assert await there.records.silences() == before
        async with asyncio.timeout(10):
            while await there.records.silences():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert there.agreements.is_approved(AGREEMENT_ID)
