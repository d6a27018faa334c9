"""A new machine that holds only the requestor's key takes its agreement up again."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shem.bus.types import Call
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Conflict, NotFound, PeerError, Unreachable
from shem.kernel.ids import AgreementId
from shem.market import reconcile
from shem.market.agreement_rows import load_agreement, set_agreement
from shem.market.ids import Role
from shem.net.memory import MemoryFabric
from shem.wire.flexbuffers import dumps_reply_ok
from tests.sim.market_pair import (
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    STRANGER_SECRET,
    Side,
    agree,
    running,
)

GET = "/public/market/GetAgreement"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "INTERVAL_S", 0.0)


@asynccontextmanager
async def new_machine(folder: Path) -> AsyncIterator[tuple[Side, Side, Any, Any]]:
    """Yield the new requestor's node, the provider's, the agreement's id and the lost copy."""
    fabric = MemoryFabric()
    async with running(fabric, folder, PROVIDER_SECRET) as provider:
        async with running(fabric, folder, REQUESTOR_SECRET) as requestor:
            agreement = await agree(requestor, provider)
            await requestor.until_log("Approved")
            lost = await requestor.row(agreement)
        empty = folder / "new.db"
        async with running(fabric, folder, REQUESTOR_SECRET, database=str(empty)) as returned:
            yield returned, provider, agreement, lost


async def take_up(side: Side, agreement: Any, provider: Side, who: Caller | None = None) -> Any:
    return await side.market.take_up(who or side.who, agreement, provider.node_id)


async def test_the_copy_is_the_one_that_was_lost(tmp_path: Path) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, lost):
        row = await take_up(returned, agreement, provider)

        same = {"proposal_id", "app_session_id", "approved_ns"}
        assert replace(row, **{name: getattr(lost, name) for name in same}) == lost
        assert await returned.log() == ["Approved"]
        await returned.market.terminate(returned.who, agreement, {"message": "from far away"})
        await provider.until_log("Approved", "Terminated")


async def test_that_a_requestor_does_not_know_it_ends_no_agreement(tmp_path: Path) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, _):
        address = f"/net/{provider.node_id}/shem/Hello"
        await returned.bus.request(returned.who, address, {}, timeout_s=5)
        with pytest.raises(NotFound):
            await take_up(returned, AgreementId("a" * 64), provider)

        await take_up(returned, agreement, provider)
        assert (await provider.row(agreement)).state == "Approved"


async def test_taking_it_up_again_changes_nothing(tmp_path: Path) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, _):
        first = await take_up(returned, agreement, provider)
        assert await take_up(returned, agreement, provider) == first
        assert await returned.log() == ["Approved"]


async def test_one_that_ended_meanwhile_tells_how(tmp_path: Path) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, _):
        await provider.market.terminate(provider.who, agreement, {"message": "too late"})

        assert (await take_up(returned, agreement, provider)).state == "Terminated"

        event = await returned.market.termination(returned.who, agreement)
        assert event.terminator is Role.PROVIDER
        assert event.reason == '{"message":"too late"}'


async def test_one_that_was_never_in_force_is_not_taken_up(tmp_path: Path) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, _):
        async with provider.store.unit(agreement) as unit:
            row = await load_agreement(unit.fetch, agreement, Role.PROVIDER)
            assert row is not None
            set_agreement(unit, row, state="Rejected")

        with pytest.raises(Conflict, match="not in force"):
            await take_up(returned, agreement, provider)
        assert await returned.market.agreement(agreement) is None


async def test_another_identity_cannot_take_it_up(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, STRANGER_SECRET) as stranger,
    ):
        agreement = await agree(requestor, provider)
        with pytest.raises(NotFound):
            await take_up(stranger, agreement, provider)
        with pytest.raises(NotFound):  # another key of the requestor's own node
            await take_up(requestor, agreement, provider, Caller(stranger.node_id, Assurance.LOCAL))
        with pytest.raises(NotFound):
            await take_up(requestor, agreement, stranger)


async def test_while_the_provider_is_away_nothing_is_taken_up(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
        gone = provider
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as returned:
        with pytest.raises(Unreachable):
            await take_up(returned, AgreementId("a" * 64), gone)


def answer_instead(provider: Side, said: object) -> None:
    """Have the provider answer GetAgreement with anything at all."""

    async def guard(call: Call, forward: object) -> bytes:
        del call, forward
        return dumps_reply_ok(said)

    provider.bus.guard(GET, guard)


def without(said: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != name}


Lie = Callable[[dict[str, Any]], dict[str, Any]]
STRANGE_ID = "0x" + "9" * 40
LIES: dict[str, Lie] = {
    "another id": lambda said: {**said, "timestamp": "2026-01-01T00:00:00Z"},
    "another requestor": lambda said: {
        **said,
        "demand": {**said["demand"], "requestorId": STRANGE_ID},
    },
    "another provider": lambda said: {**said, "offer": {**said["offer"], "providerId": STRANGE_ID}},
    "no date": lambda said: without(said, "validTo"),
    "a date too far away": lambda said: {**said, "validTo": "9999-01-01T00:00:00Z"},
    "no such state": lambda said: {**said, "state": "Splendid"},
    "no properties": lambda said: {**said, "offer": without(said["offer"], "properties")},
    "a number for a text": lambda said: {**said, "demand": {**said["demand"], "constraints": 7}},
    "no node id": lambda said: {**said, "demand": {**said["demand"], "requestorId": "me"}},
    "no offer id": lambda said: {**said, "offer": {**said["offer"], "offerId": "x"}},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_provider_that_lies_about_it_is_not_believed(tmp_path: Path, lie: str) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, _):
        question = {"agreementId": agreement, "role": "Provider"}
        truth: Any = await provider.bus.request(provider.who, GET, question, timeout_s=5)
        answer_instead(provider, LIES[lie](truth))

        with pytest.raises((PeerError, Conflict)):
            await take_up(returned, agreement, provider)
        assert await returned.market.agreement(agreement) is None


async def test_a_provider_that_answers_with_no_map_is_told_so(tmp_path: Path) -> None:
    async with new_machine(tmp_path) as (returned, provider, agreement, _):
        answer_instead(provider, "yes")
        with pytest.raises(PeerError, match="map"):
            await take_up(returned, agreement, provider)
