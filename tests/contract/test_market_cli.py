"""`shem market …` beside a whole market whose bus is served on a socket."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shem.bus.socket_server import SocketServer
from shem.bus.types import GsbError, RemoteError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import parse_gsb_url
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    agree,
    negotiate,
    propose,
    running,
)

RUN = "import sys; from shem.cli.main import main; main(sys.argv[1:])"


class Town:
    """Two markets; commands go to the requestor's."""

    def __init__(self, fabric: MemoryFabric, requestor: Side, provider: Side, url: str) -> None:
        self.fabric = fabric
        self.requestor = requestor
        self.provider = provider
        self._url = url

    async def shem(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            "-g",
            self._url,
            "market",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def json(self, *arguments: str) -> Any:
        status, output = await self.shem(*arguments, "--json")
        assert status == 0, output
        return json.loads(output)


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    fabric = MemoryFabric()
    async with AsyncExitStack() as stack:
        requestor = await stack.enter_async_context(running(fabric, tmp_path, REQUESTOR_SECRET))
        provider = await stack.enter_async_context(running(fabric, tmp_path, PROVIDER_SECRET))
        url = f"unix:{tmp_path}/gsb.sock"
        local = Caller(requestor.node_id, Assurance.LOCAL)
        await stack.enter_async_context(
            SocketServer(requestor.bus, parse_gsb_url(url), world=requestor.world, caller=local)
        )
        yield Town(fabric, requestor, provider, url)


async def test_lists_of_subscriptions_and_proposals(town: Town) -> None:
    ids = await negotiate(town.requestor, town.provider)

    assert await town.json("offers") == []
    [offer] = await town.json("offers", "--all")
    assert offer["id"] == ids.offer
    assert offer["own"] is False
    assert offer["properties"]["golem.runtime.name"] == "wasmtime"
    [demand] = await town.json("demands")
    assert demand["id"] == ids.demand
    assert demand["identity"] == town.requestor.node_id
    proposals = await town.json("proposals")
    assert [item["id"] for item in proposals] == [
        ids.provider_draft,
        ids.first_counter,
        ids.initial,
    ]
    assert [item["issuer"] for item in proposals] == ["peer", "us", "peer"]
    assert len(await town.json("proposals", "--limit", "1")) == 1
    assert await town.json("proposals", "--subscription", ids.offer) == []


async def test_agreements_with_live_states(town: Town) -> None:
    agreement = await agree(town.requestor, town.provider)

    [entry] = await town.json("agreements")
    assert (entry["id"], entry["state"], entry["role"]) == (agreement, "Approved", "Requestor")
    assert entry["peer"] == town.provider.node_id
    assert await town.json("agreements", "--state", "pending") == []
    [shown] = await town.json("agreement", "show", agreement)
    assert [event["eventType"] for event in shown["events"]] == ["AgreementApprovedEvent"]
    assert shown["offer"]["properties"]["golem.runtime.name"] == "wasmtime"

    status, table = await town.shem("agreements")
    assert status == 0
    assert agreement in table
    assert table.split("\n")[0].split()[:4] == ["id", "role", "peer", "state"]


async def test_an_agreement_is_terminated_while_the_peer_is_away(town: Town) -> None:
    agreement = await agree(town.requestor, town.provider)
    town.fabric.cut(town.requestor.node_id, town.provider.node_id)

    status, output = await town.shem("agreement", "terminate", agreement, "--reason", "enough")
    assert (status, output) == (0, f"Agreement {agreement} is terminated.\n")
    [entry] = await town.json("agreements", "--state", "Terminated")
    assert entry["pendingDelivery"][0]["message"] == "AgreementTerminated"
    _, shown = await town.shem("agreement", "show", agreement)
    assert "AgreementTerminatedEvent  Requestor  enough" in shown
    assert "AgreementTerminated waits for the peer since " in shown
    _, table = await town.shem("agreements")
    assert entry["pendingDelivery"][0]["since"] in table

    town.fabric.join(town.requestor.node_id, town.provider.node_id)
    town.requestor.outbox.peer_alive(town.provider.node_id)
    await town.provider.until_log("Approved", "Terminated")


async def test_refusals_have_their_exit_codes(town: Town) -> None:
    proposed = await propose(town.requestor, await negotiate(town.requestor, town.provider))

    assert (await town.shem("agreement", "show", "0" * 64))[0] == 1
    assert (await town.shem("agreement", "show", "nonsense"))[0] == 2
    assert (await town.shem("agreements", "--state", "nonsense"))[0] == 2
    assert (await town.shem("agreements", "--limit", "0"))[0] == 2
    status, words = await town.shem("agreement", "terminate", proposed)
    assert status == 1
    assert "Can't update Agreement state from Proposal to Terminated." in words


@pytest.mark.parametrize("name", ["Agreements", "Terminate"])
async def test_a_peer_cannot_ask(town: Town, name: str) -> None:
    for path in (f"local/shem/market/{name}", f"../local/shem/market/{name}"):
        address = f"/net/{town.requestor.node_id}/{path}"
        with pytest.raises(GsbError):
            await town.provider.bus.request(town.provider.who, address, {}, timeout_s=5)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("Subscriptions", {}),
        ("Subscriptions", {"kind": "x"}),
        ("Proposals", {"limit": 0}),
        ("Proposals", {"limit": "x"}),
        ("Agreements", {"state": 1}),
        ("Agreement", None),
        ("Terminate", {"agreementId": "0" * 64}),
    ],
)
async def test_malformed_questions_are_refused(town: Town, name: str, body: object) -> None:
    bus = town.requestor.bus
    with pytest.raises(RemoteError) as refused:
        await bus.request(town.requestor.who, f"/local/shem/market/{name}", body, timeout_s=5)
    assert refused.value.payload["status"] == 400  # type: ignore[index]
