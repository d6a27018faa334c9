"""What the agent remembers survives it, and what has ended stays ended."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.provider.records import ActivityPhase, AgreementState, Records, Refusal
from shem.store.open import open_store

ME = NodeId("0x" + "11" * 20)
OTHER = NodeId("0x" + "22" * 20)


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    yield Records(store, World(), ME)
    await store.close()


async def test_settings_are_kept_across_restarts(tmp_path: Path) -> None:
    for value in ("first", "second"):
        store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
        await Records(store, World(), ME).set("cursor", value)
        await store.close()

    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    assert await Records(store, World(), ME).setting("cursor") == "second"
    assert await Records(store, World(), OTHER).setting("cursor") is None
    await store.close()


async def test_an_agreement_is_added_once_and_moves_on(records: Records) -> None:
    await records.add_agreement("a", {"runtime": "wasmtime"}, 5)
    await records.add_agreement("a", {"runtime": "other"}, 6)
    [added] = await records.open_agreements()
    assert (added.state, added.body, added.expires_ns) == (
        AgreementState.APPROVING,
        {"runtime": "wasmtime"},
        5,
    )

    await records.set_agreement("a", AgreementState.BREAKING, {"golem.provider.code": "Expired"})

    [breaking] = await records.open_agreements()
    assert breaking.state is AgreementState.BREAKING
    assert breaking.reason == {"golem.provider.code": "Expired"}


async def test_what_has_ended_stays_ended(records: Records) -> None:
    await records.add_agreement("a", {}, 5)
    await records.set_agreement("a", AgreementState.ENDED)
    await records.set_agreement("a", AgreementState.APPROVED)
    await records.add_activity("x", "a")
    await records.set_activity("x", ActivityPhase.ENDED)
    await records.set_activity("x", ActivityPhase.STOPPING)

    assert await records.open_agreements() == []
    assert await records.open_activities() == []


async def test_the_first_reason_of_an_activitys_end_is_kept(records: Records) -> None:
    await records.add_activity("x", "a")
    await records.set_process("x", 4711, 12.5, restarts=1)
    await records.set_activity("x", ActivityPhase.STOPPING, reason="destroyed")
    await records.set_activity("x", ActivityPhase.REPORTING, reason="later", error_message="m")

    [activity] = await records.open_activities()

    assert (activity.pid, activity.pid_started, activity.restarts) == (4711, 12.5, 1)
    assert (activity.phase, activity.reason) == (ActivityPhase.REPORTING, "destroyed")


async def test_an_activity_is_added_once(records: Records) -> None:
    await records.add_activity("x", "a")
    await records.set_process("x", 1, 1.0, restarts=0)
    await records.add_activity("x", "a")

    [activity] = await records.open_activities()
    assert activity.pid == 1


async def test_a_refused_activity_is_never_one_that_runs(records: Records) -> None:
    await records.add_activity("a", "agreement", Refusal("Agreement ended", "it is over"))

    [refused] = await records.open_activities()
    assert refused.phase is ActivityPhase.REPORTING
    assert (refused.reason, refused.error_message) == ("Agreement ended", "it is over")
