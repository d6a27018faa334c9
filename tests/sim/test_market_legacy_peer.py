"""A legacy peer that took a message whose answer was lost, and answers the repeat with an error."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import Call, RemoteError
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.market.ids import Role
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

Script = dict[str, Callable[[], object]]


@asynccontextmanager
async def legacy(
    fabric: MemoryFabric, node_id: NodeId, script: Script
) -> AsyncIterator[list[tuple[str, Any]]]:
    """Play a node that answers by a script; yields what it was told."""
    bus, heard = Bus(), list[tuple[str, Any]]()
    net = fabric.node(node_id)
    remote = RemoteBus(bus, net, [node_id], rng=World().rng)

    async def answer(call: Call, body: object) -> object:
        name = call.address.rpartition("/")[2]
        heard.append((name, body))
        answered = script[name]()
        if isinstance(answered, RemoteError):
            raise answered
        return answered

    def value(error: Any) -> object:
        return error.payload

    bus.serve("/public/market", answer, error=value)
    async with net, remote:
        yield heard


def refuse(payload: object) -> Callable[[], object]:
    return lambda: RemoteError(payload)


async def sold(fabric: MemoryFabric, folder: Path, requestor: Side) -> tuple[Any, NodeId]:
    """Bring an agreement into force with a provider that then goes away."""
    async with running(fabric, folder, PROVIDER_SECRET) as provider:
        return await agree(requestor, provider), provider.node_id


async def drained(side: Side) -> None:
    for _ in range(100):
        if not await side.outbox.pending():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await side.outbox.pending())


async def test_internal_error_of_an_ended_agreement_counts_as_delivered(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        agreement, provider = await sold(fabric, tmp_path, requestor)
        script: Script = {
            "AgreementTerminated": refuse({"Remote": {"InternalError": f"P-{agreement}"}}),
            "GetAgreement": lambda: {"state": "Terminated"},
        }
        async with legacy(fabric, provider, script) as heard:
            await requestor.market.terminate(requestor.who, agreement, {"message": "done"})
            await drained(requestor)

            [told, asked] = heard
            assert told[1]["agreementId"] == f"P-{agreement}"
            assert told[1]["signature"] == "NotSigned"
            assert asked[1] == {"agreementId": agreement, "role": "Provider"}


async def test_internal_error_of_a_running_agreement_is_said_again(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        agreement, provider = await sold(fabric, tmp_path, requestor)
        answers = iter([RemoteError({"Remote": {"InternalError": f"P-{agreement}"}}), None])
        script: Script = {
            "AgreementTerminated": lambda: next(answers),
            "GetAgreement": lambda: {"state": "Approved"},
        }
        async with legacy(fabric, provider, script) as heard:
            await requestor.market.terminate(requestor.who, agreement, {"message": "done"})
            await drained(requestor)

            assert [name for name, _ in heard].count("AgreementTerminated") == 2


async def test_ending_of_an_agreement_the_peer_has_lost_is_not_repeated(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        agreement, provider = await sold(fabric, tmp_path, requestor)
        script: Script = {"AgreementTerminated": refuse({"Remote": {"NotFound": f"P-{agreement}"}})}
        async with legacy(fabric, provider, script) as heard:
            await requestor.market.terminate(requestor.who, agreement, None)
            await drained(requestor)

            assert len(heard) == 1


async def ripe(fabric: MemoryFabric, folder: Path, requestor: Side) -> tuple[Any, NodeId]:
    """Create an agreement with a provider that then goes away."""
    async with running(fabric, folder, PROVIDER_SECRET) as provider:
        return await propose(requestor, await negotiate(requestor, provider)), provider.node_id


SAVED = {"Unexpected": {"public_msg": "Failed to save Agreement.", "original_msg": ""}}


async def test_confirming_what_the_provider_has_already_succeeds(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        agreement, provider = await ripe(fabric, tmp_path, requestor)
        script: Script = {
            "AgreementReceived": refuse({"Remote": [SAVED, f"P-{agreement}"]}),
            "GetAgreement": lambda: {"state": "Pending"},
        }
        async with legacy(fabric, provider, script):
            await requestor.market.confirm(requestor.who, agreement, None)

        assert (await requestor.row(agreement)).state == "Pending"


async def test_confirming_what_the_provider_refuses_fails_with_its_words(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        agreement, provider = await ripe(fabric, tmp_path, requestor)
        lost = {"Remote": [{"NotFound": "P-d766"}, f"P-{agreement}"]}
        async with legacy(fabric, provider, {"AgreementReceived": refuse(lost)}):
            with pytest.raises(PeerError, match=r"Protocol error: .* \[P-d766\] not found"):
                await requestor.market.confirm(requestor.who, agreement, None)

        assert (await requestor.row(agreement)).state == "Proposal"


async def test_counter_the_peer_has_already_counts_as_delivered(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            ids = await negotiate(requestor, provider)
            peer = provider.node_id
        countered = f"P{ids.provider_draft[1:]}"
        script: Script = {
            "ProposalReceived": refuse({"Remote": [{"AlreadyCountered": countered}, "P-1"]})
        }
        async with legacy(fabric, peer, script) as heard:
            await requestor.counter(Role.REQUESTOR, ids.demand, ids.provider_draft)
            await drained(requestor)

            assert heard[0][1]["prevProposalId"] == ids.provider_draft


async def test_refused_first_counter_is_told_as_a_rejection(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            demand = await requestor.seek()
            offer = await provider.publish()
            [event] = await requestor.events("demand", demand)
            peer = provider.node_id
        refusal = {"Remote": [{"Validation": {"NoSubscription": offer}}, "P-1"]}
        async with legacy(fabric, peer, {"InitialProposalReceived": refuse(refusal)}):
            counter = await requestor.counter(
                Role.REQUESTOR, demand, event["proposal"]["proposalId"]
            )

            [rejected] = await requestor.events("demand", demand)

        assert rejected["eventType"] == "ProposalRejectedEvent"
        assert rejected["proposalId"] == counter
        assert "wasn't found" in rejected["reason"]["message"]


async def test_an_offer_that_its_node_has_lost_is_not_proposed_again(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            demand = await requestor.seek()
            offer = await provider.publish()
            [event] = await requestor.events("demand", demand)
            peer = provider.node_id
        refusal = {"Remote": [{"Validation": {"NoSubscription": offer}}, "P-1"]}
        async with legacy(fabric, peer, {"InitialProposalReceived": refuse(refusal)}):
            await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
            [_] = await requestor.events("demand", demand)

        assert await requestor.events("demand", await requestor.seek(), timeout_s=0) == []


async def test_a_later_counter_refused_at_once_is_told_once(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            ids = await negotiate(requestor, provider)
            peer = provider.node_id
        refusal = {"Remote": [{"NotFound": f"P{ids.provider_draft[1:]}"}, "P-1"]}
        async with legacy(fabric, peer, {"ProposalReceived": refuse(refusal)}):
            with pytest.raises(PeerError, match="not found"):
                await requestor.counter(Role.REQUESTOR, ids.demand, ids.provider_draft)

        assert await requestor.events("demand", ids.demand, timeout_s=0) == []


async def test_a_later_counter_refused_after_the_peers_return_is_told_as_a_rejection(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            ids = await negotiate(requestor, provider)
            peer = provider.node_id
        counter = await requestor.counter(Role.REQUESTOR, ids.demand, ids.provider_draft)
        refusal = {"Remote": [{"NotFound": f"P{ids.provider_draft[1:]}"}, "P-1"]}
        async with legacy(fabric, peer, {"ProposalReceived": refuse(refusal)}):
            requestor.outbox.peer_alive(peer)

            [rejected] = await requestor.events("demand", ids.demand)

        assert rejected["proposalId"] == counter
        assert "not found" in rejected["reason"]["message"]
