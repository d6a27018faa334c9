"""Copies of agreements that parted while one side was away, and what becomes of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shem.bus.types import Call, RemoteError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.ids import NodeId
from shem.market import agreement_states, reconcile
from shem.market.agreement_rows import load_agreement, set_agreement
from shem.market.ids import Role
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    OFFER,
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    STRANGER_SECRET,
    Side,
    agree,
    answer,
    negotiate,
    propose,
    running,
)

ROLES = {"requestor": Role.REQUESTOR, "provider": Role.PROVIDER}
STATES = "/public/market/AgreementStates"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "INTERVAL_S", 0.0)
    monkeypatch.setattr(reconcile, "RETRY_S", 0.2)


async def put(side: Side, agreement: Any, role: Role, **columns: Any) -> None:
    """Make a copy what no message made it."""
    async with side.store.unit(agreement) as unit:
        row = await load_agreement(unit.fetch, agreement, role)
        assert row is not None
        set_agreement(unit, row, **columns)


async def lose(side: Side, agreement: Any) -> None:
    async with side.store.unit(agreement) as unit:
        unit.execute("DELETE FROM agreement_event WHERE agreement_id = :id", id=agreement)
        unit.execute("DELETE FROM agreement WHERE agreement_id = :id", id=agreement)


async def until_state(side: Side, agreement: Any, state: str) -> None:
    topic = f"market.agreement:{agreement}"
    for _ in range(20):
        version = side.store.topics.version(topic)
        if (await side.row(agreement)).state == state:
            return
        assert await side.store.topics.changed(topic, version, 5.0), await side.row(agreement)
    raise AssertionError(state)


@asynccontextmanager
async def parted(
    folder: Path, requestor_copy: str | None, provider_copy: str | None, **columns: Any
) -> AsyncIterator[tuple[Side, Side, Any]]:
    """Yield two nodes with copies as named, who meet again by `meet`."""
    fabric = MemoryFabric()
    async with AsyncExitStack() as stack:
        async with (
            running(fabric, folder, REQUESTOR_SECRET) as requestor,
            running(fabric, folder, PROVIDER_SECRET) as provider,
        ):
            agreement = await agree(requestor, provider)
            fabric.cut(requestor.node_id, provider.node_id)
            for side, role, copy in (
                (requestor, Role.REQUESTOR, requestor_copy),
                (provider, Role.PROVIDER, provider_copy),
            ):
                if copy is None:
                    await lose(side, agreement)
                else:
                    await put(side, agreement, role, state=copy, **columns)
        sides = [
            await stack.enter_async_context(running(fabric, folder, secret))
            for secret in (REQUESTOR_SECRET, PROVIDER_SECRET)
        ]
        FABRICS[sides[0].node_id] = fabric
        yield sides[0], sides[1], agreement


FABRICS: dict[str, MemoryFabric] = {}


async def meet(one: Side, other: Side) -> None:
    """Mend the link and use it: both see the other show up."""
    FABRICS.pop(one.node_id).join(one.node_id, other.node_id)
    address = f"/net/{other.node_id}/shem/Hello"
    await one.bus.request(one.who, address, {}, timeout_s=5)


@pytest.mark.parametrize(
    ("requestor_copy", "provider_copy", "ends"),
    [
        ("Approved", "Terminated", ("Terminated", "Terminated")),
        ("Terminated", "Approved", ("Terminated", "Terminated")),
        ("Pending", "Approved", ("Approved", "Approved")),
        ("Proposal", "Approved", ("Approved", "Approved")),
        ("Approved", "Pending", ("Terminated", "Cancelled")),
        ("Approved", "Rejected", ("Terminated", "Rejected")),
        ("Cancelled", "Pending", ("Cancelled", "Cancelled")),
        ("Cancelled", "Approved", ("Cancelled", "Terminated")),
        ("Pending", "Rejected", ("Rejected", "Rejected")),
        ("Proposal", "Rejected", ("Rejected", "Rejected")),
        ("Proposal", "Pending", ("Pending", "Pending")),
        ("Pending", "Expired", ("Expired", "Expired")),
        ("Expired", "Approved", ("Expired", "Terminated")),
        ("Pending", "Terminated", ("Terminated", "Terminated")),
    ],
)
async def test_copies_agree_after_the_two_met_again(
    tmp_path: Path, requestor_copy: str, provider_copy: str, ends: tuple[str, str]
) -> None:
    async with parted(tmp_path, requestor_copy, provider_copy) as (requestor, provider, agreement):
        await meet(requestor, provider)
        await until_state(requestor, agreement, ends[0])
        await until_state(provider, agreement, ends[1])


async def test_an_agreement_that_the_provider_has_lost_is_over(tmp_path: Path) -> None:
    async with parted(tmp_path, "Approved", None) as (requestor, provider, agreement):
        await meet(requestor, provider)
        await until_state(requestor, agreement, "Terminated")
        event = await requestor.market.termination(requestor.who, agreement)
        assert event.terminator is Role.PROVIDER
        assert event.reason is not None
        assert "unknown" in event.reason
        assert await requestor.log() == ["Approved", "Terminated"]


async def test_the_peers_reason_and_terminator_are_taken_over(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            agreement = await agree(requestor, provider)
            fabric.cut(requestor.node_id, provider.node_id)
            await provider.market.terminate(provider.who, agreement, {"message": "bye", "x": 1})
            async with provider.store.unit("test") as unit:
                unit.execute("DELETE FROM outbox")
        fabric.join(requestor.node_id, provider.node_id)
        async with running(fabric, tmp_path, PROVIDER_SECRET):
            await requestor.until_log("Approved", "Terminated")
            event = await requestor.market.termination(requestor.who, agreement)
            assert event.terminator is Role.PROVIDER
            assert event.reason == '{"message":"bye","x":1}'


async def test_an_approval_of_which_the_requestor_knows_nothing_is_said_again(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            agreement = await propose(requestor, await negotiate(requestor, provider))
            await requestor.market.confirm(requestor.who, agreement, None)
            await put(provider, agreement, Role.PROVIDER, state="Approved", approved_ns=5000)
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            await requestor.until_log("Approved")
            assert (await requestor.row(agreement)).approved_ns == 5000
            assert (await provider.row(agreement)).state == "Approved"


async def test_live_copies_that_agree_stay_as_they_are(tmp_path: Path) -> None:
    async with parted(tmp_path, "Approved", "Approved") as (requestor, provider, agreement):
        marked = asyncio.Event()
        asked: list[str] = []
        for side in (requestor, provider):
            _watch(side, asked, marked)
        await meet(requestor, provider)
        await asyncio.wait_for(marked.wait(), 5)
        await asyncio.sleep(0.05)
        for side in (requestor, provider):
            assert (await side.row(agreement)).state == "Approved"
            assert await side.log() == ["Approved"]


def _watch(side: Side, asked: list[str], both: asyncio.Event) -> None:
    served = side.bus._bindings[STATES].endpoint

    async def endpoint(call: Call) -> Any:
        asked.append(call.caller.node_id)
        if len(set(asked)) == 2:
            both.set()
        async for reply in served(call):
            yield reply

    side.bus._bindings[STATES].close()
    side.bus.attach(STATES, endpoint)


async def test_a_copy_that_moved_since_the_question_is_left_alone(tmp_path: Path) -> None:
    async with parted(tmp_path, "Pending", "Rejected") as (requestor, provider, agreement):
        served = provider.bus._bindings[STATES].endpoint
        asked = asyncio.Event()

        async def slow(call: Call) -> Any:
            async for reply in served(call):
                await put(requestor, agreement, Role.REQUESTOR, state="Cancelled")
                asked.set()
                yield reply

        provider.bus._bindings[STATES].close()
        provider.bus.attach(STATES, slow)
        await meet(requestor, provider)
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.sleep(0.05)
        assert (await requestor.row(agreement)).state == "Cancelled"
        assert "Rejected" not in await requestor.log()


# --- the question itself ---


async def test_a_stranger_is_told_of_nothing(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
        running(fabric, tmp_path, STRANGER_SECRET) as stranger,
    ):
        agreement = await agree(requestor, provider)

        async def ask(side: Side, role: str) -> Any:
            body = {"agreementIds": [agreement, "0" * 64], "role": role}
            address = f"/net/{provider.node_id}/market/AgreementStates"
            caller = Caller(side.node_id, Assurance.LOCAL)
            answer = await side.bus.request(caller, address, body, timeout_s=5)
            assert isinstance(answer, list)
            return [item["state"] for item in answer]

        assert await ask(requestor, "Provider") == ["Approved", None]
        assert await ask(requestor, "Requestor") == [None, None]
        assert await ask(stranger, "Provider") == [None, None]


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"agreementIds": "x", "role": "Provider"},
        {"agreementIds": [1], "role": "Provider"},
        {"agreementIds": ["0" * 64] * 101, "role": "Provider"},
        {"agreementIds": [], "role": "provider"},
    ],
)
async def test_malformed_questions_are_refused(tmp_path: Path, body: object) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
        with pytest.raises(RemoteError):
            await provider.bus.request(provider.who, STATES, body, timeout_s=5)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        [{}],
        [{"agreementId": "x", "state": "Terminated"}],
        [{"agreementId": None, "state": "Nonsense"}],
        [{"agreementId": None, "state": "Terminated", "terminator": "Nobody"}],
        [{"agreementId": None, "state": "Terminated", "reason": "x"}],
    ],
)
async def test_a_peer_that_answers_nonsense_changes_nothing(tmp_path: Path, answer: Any) -> None:
    async with parted(tmp_path, "Approved", "Approved") as (requestor, provider, agreement):
        asked = asyncio.Event()

        async def nonsense(_call: Call, _body: object) -> object:
            asked.set()
            for item in answer or []:
                if "agreementId" in item and item["agreementId"] is None:
                    item["agreementId"] = agreement
            return answer

        provider.bus._bindings[STATES].close()
        provider.bus.serve(STATES, nonsense)
        await meet(requestor, provider)
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.sleep(0.05)
        assert (await requestor.row(agreement)).state == "Approved"


async def test_many_agreements_are_asked_for_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_states, "BATCH", 2)
    fabric = MemoryFabric()
    sizes: list[int] = []
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        made = []
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            for number in range(5):
                demand = await requestor.seek(constraints=f"(number={number})")
                offer = await provider.publish(OFFER | {"number": number})
                [initial] = await requestor.events("demand", demand)
                proposal = initial["proposal"]["proposalId"]
                ids = await answer(requestor, provider, offer, demand, proposal)
                made.append(await agree(requestor, provider, ids))
            for agreement in made:
                await put(provider, agreement, Role.PROVIDER, state="Rejected")
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            served = provider.bus._bindings[STATES].endpoint

            async def counted(call: Call) -> Any:
                sizes.append(len(call.data))
                async for reply in served(call):
                    yield reply

            provider.bus._bindings[STATES].close()
            provider.bus.attach(STATES, counted)
            for agreement in made:
                await until_state(requestor, agreement, "Terminated")
            assert len(sizes) == 3


# --- legacy peers ---


@asynccontextmanager
async def with_a_legacy_provider(
    folder: Path, said: Any, *, state: str = "Approved"
) -> AsyncIterator[tuple[Side, Any, asyncio.Event]]:
    """Yield a requestor whose provider is a legacy node now, which says `said`."""
    fabric = MemoryFabric()
    async with running(fabric, folder, REQUESTOR_SECRET) as requestor:
        async with running(fabric, folder, PROVIDER_SECRET) as provider:
            agreement = await agree(requestor, provider)
            await put(requestor, agreement, Role.REQUESTOR, state=state)
        fabric.cut(requestor.node_id, provider.node_id)
        async with running(fabric, folder, PROVIDER_SECRET, features=frozenset()) as legacy:
            get, asked = "/public/market/GetAgreement", asyncio.Event()
            legacy.bus._bindings[STATES].close()
            legacy.bus._bindings[get].close()
            legacy.bus._bindings["/public/shem/Hello"].close()

            async def told(call: Call, _body: object) -> object:
                asked.set()
                assert call.caller.node_id == requestor.node_id
                if isinstance(said, Exception):
                    raise said
                return said

            legacy.bus.serve(get, told, error=lambda error: getattr(error, "payload", None))
            fabric.join(requestor.node_id, provider.node_id)
            yield requestor, agreement, asked


async def test_a_legacy_provider_that_terminated_is_believed(tmp_path: Path) -> None:
    async with with_a_legacy_provider(tmp_path, {"state": "Terminated"}) as (node, agreement, _):
        await node.until_log("Approved", "Terminated")
        event = await node.market.termination(node.who, agreement)
        assert event.terminator is Role.PROVIDER
        assert event.reason == '{"message":"The Provider says that this agreement is Terminated."}'


async def test_a_legacy_provider_without_the_agreement_is_believed(tmp_path: Path) -> None:
    error = RemoteError({"notFound": "x"})
    async with with_a_legacy_provider(tmp_path, error) as (node, _, _asked):
        await node.until_log("Approved", "Terminated")


@pytest.mark.parametrize(
    "said",
    [
        None,
        "Terminated",
        {},
        {"state": 1},
        {"state": "Nonsense"},
        RemoteError({"service": "x"}),
        RemoteError("timeout"),
    ],
)
async def test_a_legacy_provider_that_says_nothing_usable_changes_nothing(
    tmp_path: Path, said: Any
) -> None:
    async with with_a_legacy_provider(tmp_path, said) as (node, agreement, asked):
        await asyncio.wait_for(asked.wait(), 10)
        await asyncio.sleep(0.05)
        assert (await node.row(agreement)).state == "Approved"


async def test_the_words_of_a_third_node_are_not_asked_for(tmp_path: Path) -> None:
    """A node that claims the provider's place is not it: the question goes to the provider."""
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            agreement = await agree(requestor, provider)
        async with running(fabric, tmp_path, STRANGER_SECRET) as stranger:
            address = f"/net/{requestor.node_id}/market/GetAgreement"
            with pytest.raises(RemoteError):
                await stranger.bus.request(
                    Caller(NodeId(stranger.node_id), Assurance.LOCAL),
                    address,
                    {"agreementId": agreement, "role": "Requestor"},
                    timeout_s=5,
                )
        assert (await requestor.row(agreement)).state == "Approved"
