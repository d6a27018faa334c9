"""Activity rows on both engines: intents once, results in order, event dates that only grow."""

import asyncio
from dataclasses import replace

import pytest

from shem.activity import ledger
from shem.activity.batches import BatchState
from shem.activity.eventlog import EventKind, append_event, load_events
from shem.activity.intents import Intent, IntentState, load_intents, save_intent
from shem.activity.keptrows import (
    Keeping,
    KeptBatch,
    add_size,
    count_kept_batches,
    delete_batch,
    delete_kept,
    load_kept,
    load_kept_batch,
    load_kept_batches,
    load_kept_results,
    load_oldest,
    load_total,
    save_keeping,
    save_kept_batch,
    save_kept_results,
    save_promise,
)
from shem.activity.ledger import Batch
from shem.activity.records import (
    Activity,
    Role,
    activities_of_agreement,
    activity_of_intent,
    alive_agreements,
    alive_signs,
    load_activity,
    load_states,
    roles_of,
    save_activity,
    save_destroy,
    save_state,
    save_usage,
)
from shem.activity.states import ActivityState, State
from shem.kernel.errors import Conflict
from shem.kernel.ids import ActivityId, AgreementId, BatchId, NodeId
from shem.store.unit import Store
from tests.contract.conftest import OpenStore

US = NodeId("0x" + "1" * 40)
PEER = NodeId("0x" + "2" * 40)
AGREEMENT = AgreementId("ab" * 32)
NOW_NS = 1_800_000_000_000_000_123


def an_activity(name: str, role: Role = Role.PROVIDER, intent: str | None = None) -> Activity:
    return Activity(
        activity_id=ActivityId(name),
        role=role,
        identity=US,
        agreement_id=AGREEMENT,
        requestor=PEER,
        provider=US,
        app_session_id="s",
        intent_id=intent,
        state=ActivityState(State.NEW),
        before=None,
        usage=None,
        usage_ns=NOW_NS,
        destroy_ns=None,
        created_ns=NOW_NS,
        state_ns=NOW_NS,
    )


def a_batch(name: str, commands: int = 2) -> Batch:
    return Batch(
        activity_id=ActivityId("a"),
        batch_id=BatchId(name),
        identity=US,
        agreement_id=AGREEMENT,
        state=BatchState.INTENT,
        digest="d",
        commands=commands,
        stored=0,
        failed=False,
        finished=False,
        message=None,
        created_ns=NOW_NS,
    )


def a_result(index: int, result: str = "Ok") -> ledger.Result:
    return {"index": index, "result": result, "stdout": "nul \0 and \U0001f600", "stderr": [255]}


async def saved(store: Store, activity: Activity) -> Activity:
    async with store.unit(activity.activity_id) as unit:
        save_activity(unit, activity)
    return activity


async def test_an_activity_is_found_by_all_its_names(store: Store) -> None:
    provided = await saved(store, an_activity("a", intent="i"))
    rented = await saved(store, an_activity("a", Role.REQUESTOR, intent="i"))

    assert await load_activity(store.fetch, "a", Role.PROVIDER) == provided
    assert await roles_of(store.fetch, "a") == [provided, rented]
    assert await activities_of_agreement(store.fetch, AGREEMENT) == [provided, rented]
    assert [sign.activity_id for sign in await alive_signs(store.fetch, Role.PROVIDER)] == ["a"]
    assert await alive_agreements(store.fetch, Role.PROVIDER) == [AGREEMENT]
    intent = (PEER, AGREEMENT, "i")
    assert await activity_of_intent(store.fetch, Role.PROVIDER, *intent) == provided
    assert await load_activity(store.fetch, "b", Role.PROVIDER) is None


async def test_saving_an_activity_again_changes_nothing(store: Store) -> None:
    first = await saved(store, an_activity("a"))
    await saved(store, replace(first, state=ActivityState(State.READY)))
    assert await load_activity(store.fetch, "a", Role.PROVIDER) == first


async def test_an_intent_makes_one_activity(store: Store) -> None:
    await saved(store, an_activity("a", intent="i"))
    with pytest.raises(Conflict):
        await saved(store, an_activity("b", intent="i"))
    await saved(store, an_activity("c"))
    await saved(store, an_activity("d"))


async def test_state_usage_and_destroy_are_kept(store: Store) -> None:
    activity = await saved(store, an_activity("a"))
    silent = ActivityState(State.UNRESPONSIVE, State.READY, "why", "what")
    async with store.unit("a") as unit:
        save_state(unit, activity, silent, NOW_NS + 1)
        save_usage(unit, activity, (1.5, 0.0), NOW_NS + 2)
        save_destroy(unit, activity, NOW_NS + 3)
    known = await load_activity(store.fetch, "a", Role.PROVIDER)
    assert known is not None
    assert (known.state, known.before, known.usage) == (silent, State.NEW, (1.5, 0.0))
    assert (known.usage_ns, known.destroy_ns) == (NOW_NS + 2, NOW_NS + 3)
    assert await load_states(store.fetch, Role.PROVIDER, 0) == {"Unresponsive": 1}
    assert await load_states(store.fetch, Role.PROVIDER, NOW_NS + 2) == {}
    async with store.unit("a") as unit:
        save_state(unit, known, ActivityState(State.TERMINATED), NOW_NS)
        save_destroy(unit, known, None)
    assert await alive_signs(store.fetch, Role.PROVIDER) == []
    assert await alive_agreements(store.fetch, Role.PROVIDER) == []


async def test_a_done_intent_stays_done(store: Store) -> None:
    open_ = Intent("i", US, AGREEMENT, PEER, IntentState.OPEN, None, None)
    done = replace(open_, state=IntentState.DONE, activity_id=ActivityId("a"))
    for intent in (open_, done, replace(open_, state=IntentState.FAILED, message="late")):
        async with store.unit("a") as unit:
            save_intent(unit, intent, NOW_NS)
    assert await load_intents(store.fetch, US, AGREEMENT) == [done]
    assert await load_intents(store.fetch, PEER, AGREEMENT) == []


async def test_a_batch_keeps_its_results_in_order(store: Store, open_again: OpenStore) -> None:
    batch = a_batch("b")
    async with store.unit("a") as unit:
        ledger.save_batch(unit, batch, "[]")
    with pytest.raises(Conflict):
        async with store.unit("a") as unit:
            ledger.save_batch(unit, batch, "[]")
    async with store.unit("a") as unit:
        ledger.save_batch_state(unit, batch, BatchState.ACCEPTED, None)
    for index in range(2):
        known = await ledger.load_batch(store.fetch, "a", "b")
        assert known is not None and known.open
        async with store.unit("a") as unit:
            ledger.save_results(unit, known, [a_result(index)])
    with pytest.raises(Conflict):
        async with store.unit("a") as unit:
            ledger.save_results(unit, known, [a_result(1)])

    again = await open_again()

    known = await ledger.load_batch(again.fetch, "a", "b")
    assert known is not None
    assert (known.stored, known.finished, known.open) == (2, True, False)
    assert await ledger.load_results(again.fetch, known) == [a_result(0), a_result(1)]
    assert await ledger.load_results(again.fetch, known, 0) == [a_result(0)]
    assert await ledger.load_open(again.fetch) == []


@pytest.mark.parametrize(
    ("state", "commands", "finished"),
    [
        (BatchState.ACCEPTED, 2, False),
        (BatchState.ACCEPTED, 0, True),
        (BatchState.UNKNOWN, 0, False),
        (BatchState.NEVER, 2, True),
        (BatchState.REFUSED, 2, True),
    ],
)
async def test_a_batch_is_finished_when_nothing_more_can_come(
    store: Store, state: BatchState, commands: int, finished: bool
) -> None:
    batch = a_batch("b", commands)
    async with store.unit("a") as unit:
        ledger.save_batch(unit, batch, "[]")
    async with store.unit("a") as unit:
        ledger.save_batch_state(unit, batch, state, "why")
    [(known, script)] = await ledger.load_batches(store.fetch, "a")
    assert (known.finished, known.message, script) == (finished, "why", "[]")
    assert bool(await ledger.load_open(store.fetch, "a")) is not finished


async def test_an_error_ends_a_batch(store: Store) -> None:
    batch = a_batch("b", 3)
    async with store.unit("a") as unit:
        ledger.save_batch(unit, batch, "[]")
        ledger.save_results(unit, batch, [a_result(0), a_result(1, "Error")])
    known = await ledger.load_batch(store.fetch, "a", "b")
    assert known is not None
    assert (known.stored, known.failed, known.finished) == (2, True, True)


async def test_a_reader_of_events_misses_none_whatever_the_clock_says(store: Store) -> None:
    async def append(number: int) -> None:
        activity = an_activity(f"a{number}")
        async with store.unit(activity.activity_id) as unit:
            append_event(unit, activity, EventKind.CREATE, NOW_NS - number * 5_000)

    seen: list[str] = []
    after_ns = 0
    for start in range(0, 40, 8):
        await asyncio.gather(*(append(number) for number in range(start, start + 8)))
        while events := await load_events(store.fetch, US, after_ns, "s", 3):
            assert all(event.event_ns > after_ns for event in events)
            assert all(event.event_ns % 1_000 == 0 for event in events)
            after_ns = events[-1].event_ns
            seen += [event.activity_id for event in events]

    assert sorted(seen) == sorted(f"a{number}" for number in range(40))
    assert await load_events(store.fetch, US, 0, "other", 3) == []
    assert await load_events(store.fetch, PEER, 0, None, 3) == []


def kept_batch(position: int) -> KeptBatch:
    return KeptBatch(
        activity_id=ActivityId("a1"),
        batch_id=f"b{position}",
        position=position,
        accepted_ns=NOW_NS,
        script=[{"sign": {}}] * 2,
        commands=2,
        stored=0,
    )


async def test_kept_results_are_counted_read_and_dropped(store: Store) -> None:
    activity = an_activity("a1")
    async with store.unit("a1") as unit:
        save_promise(unit, activity, NOW_NS)
        save_promise(unit, activity, NOW_NS + 1)
        for position in (0, 1):
            save_kept_batch(unit, activity, kept_batch(position))
        fresh = [{"index": 0, "stdout": "x"}, {"index": 1, "stdout": None}]
        size = save_kept_results(unit, activity, kept_batch(1), fresh)
        add_size(unit, "a1", size)
    async with store.unit("a1") as unit:
        save_keeping(unit, "a1", Keeping.KEPT, NOW_NS + 5)
    fetch = store.fetch

    kept = await load_kept(fetch, "a1")
    assert kept is not None
    assert (kept.state, kept.size, kept.since_ns) == (Keeping.KEPT, size, NOW_NS + 5)
    assert await load_total(fetch) == (1, size)
    assert [item.activity_id for item in await load_oldest(fetch, (0, ""))] == ["a1"]
    assert await load_oldest(fetch, (NOW_NS + 5, "a1")) == []
    assert await count_kept_batches(fetch, "a1") == 2
    assert [batch.batch_id for batch in await load_kept_batches(fetch, "a1", 1)] == ["b1"]
    known = await load_kept_batch(fetch, "a1", "b1")
    assert known is not None and known.stored == 2
    assert await load_kept_results(fetch, known, None) == fresh
    assert await load_kept_results(fetch, known, 0) == fresh[:1]

    async with store.unit("a1") as unit:
        delete_batch(unit, "a1", "b1")
        delete_kept(unit, "a1")
    assert await load_kept_batch(fetch, "a1", "b1") is None
    assert await load_total(fetch) == (0, 0)
