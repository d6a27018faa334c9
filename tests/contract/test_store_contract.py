"""What both engines promise: units of work, locks, expectations, wake-ups, types."""

import asyncio

import pytest

from shem.kernel.errors import Conflict, ShemError, StorageFault, UsageError
from shem.kernel.ids import NodeId
from shem.store.inbox import InboxMessage, answered, remember
from shem.store.unit import ROWS_MAX, Store, StoreClosed, Unit
from tests.contract.conftest import OpenStore

US = NodeId("0x" + "1" * 40)
PEER = NodeId("0x" + "2" * 40)
INSERT = """
    INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
    VALUES (:identity, :peer, 'test', :key, :digest, :reply, :received_ns)
"""


def insert(unit: Unit, key: str, *, digest: str | None = "", number: int = 0) -> None:
    unit.execute(
        INSERT,
        identity=US,
        peer=PEER,
        key=key,
        digest=digest,
        reply=b"",
        received_ns=number,
    )


async def keys(store: Store) -> list[str]:
    rows = await store.fetch("SELECT key FROM inbox ORDER BY key LIMIT 1000")
    return [row["key"] for row in rows]


async def test_what_a_unit_wrote_is_there_after_the_block(store: Store) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")
        insert(unit, "two")

    assert await keys(store) == ["one", "two"]


async def test_an_exception_in_the_block_discards_everything(store: Store) -> None:
    woken = store.topics.version("t")

    with pytest.raises(ZeroDivisionError):
        async with store.unit("a") as unit:
            insert(unit, "one")
            unit.notify("t")
            unit.after_commit(lambda: pytest.fail("there was no commit"))
            _ = 1 // 0

    assert await keys(store) == []
    assert store.topics.version("t") == woken


async def test_a_unit_does_not_see_its_own_writes(store: Store) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")

        assert await unit.fetch("SELECT key FROM inbox LIMIT 5") == []


async def test_a_missed_expectation_is_a_conflict_and_keeps_nothing(store: Store) -> None:
    with pytest.raises(Conflict):
        async with store.unit("a") as unit:
            insert(unit, "one")
            unit.execute("UPDATE inbox SET digest = 'x' WHERE key = :key", expect=1, key="none")

    assert await keys(store) == []


async def test_touching_more_rows_than_expected_is_a_conflict(store: Store) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")
        insert(unit, "two")

    with pytest.raises(Conflict):
        async with store.unit("a") as unit:
            unit.execute("DELETE FROM inbox", expect=1)

    assert await keys(store) == ["one", "two"]


async def test_an_insert_that_does_nothing_touches_no_row(store: Store) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")

    async with store.unit("a") as unit:
        unit.execute(
            INSERT + " ON CONFLICT DO NOTHING",
            expect=0,
            identity=US,
            peer=PEER,
            key="one",
            digest="",
            reply=b"",
            received_ns=0,
        )


async def test_what_is_there_already_is_a_conflict(store: Store) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")

    with pytest.raises(Conflict):
        async with store.unit("b") as unit:
            insert(unit, "two")
            insert(unit, "one")

    assert await keys(store) == ["one"]


async def test_a_row_without_its_counterpart_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict):
        async with store.unit("a") as unit:
            unit.execute(
                "INSERT INTO app_key VALUES ('n', 'k', 'd', 'manager', :nobody, '[]', 0)",
                nobody=PEER,
            )


async def test_a_broken_constraint_is_a_fault_of_ours(store: Store) -> None:
    with pytest.raises(StorageFault):
        async with store.unit("a") as unit:
            insert(unit, "one", digest=None)


async def test_broken_sql_is_a_fault_and_the_store_goes_on(store: Store) -> None:
    with pytest.raises(StorageFault):
        async with store.unit("a") as unit:
            unit.execute("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(StorageFault):
        await store.fetch("SELECT nothing FROM nowhere")

    async with store.unit("a") as unit:
        insert(unit, "one")
    assert await keys(store) == ["one"]


async def test_a_failing_unit_spoils_no_other(store: Store) -> None:
    async def work(number: int) -> None:
        async with store.unit(f"unit {number}") as unit:
            insert(unit, f"{number:03d}")
            if number % 5 == 0:
                insert(unit, f"{number:03d}")

    outcomes = await asyncio.gather(*(work(n) for n in range(60)), return_exceptions=True)

    assert [n for n, outcome in enumerate(outcomes) if outcome] == list(range(0, 60, 5))
    assert all(isinstance(outcome, Conflict) for outcome in outcomes if outcome)
    assert await keys(store) == [f"{n:03d}" for n in range(60) if n % 5]


async def test_one_unit_at_a_time_per_key(store: Store, open_again: OpenStore) -> None:
    stores = [store, await open_again()]

    async def count_up(number: int) -> None:
        async with stores[number % len(stores)].unit("counter") as unit:
            rows = await unit.fetch("SELECT count(*) AS n FROM inbox")
            await asyncio.sleep(0)
            insert(unit, f"{rows[0]['n']:03d}")

    # Two stores on one SQLite file never run at once: the data directory is locked.
    if type(store).__name__ == "SqliteStore":
        stores.pop()
    await asyncio.gather(*(count_up(n) for n in range(30)))

    assert await keys(store) == [f"{n:03d}" for n in range(30)]


async def test_units_of_other_keys_do_not_wait(store: Store) -> None:
    async with store.unit("slow") as slow:
        insert(slow, "slow")
        await asyncio.wait_for(in_another_task(store, "quick"), 10)
        assert await keys(store) == ["quick"]

    assert await keys(store) == ["quick", "slow"]


async def in_another_task(store: Store, key: str) -> None:
    async def work() -> None:
        async with store.unit(key) as unit:
            insert(unit, key)

    await asyncio.create_task(work())


async def test_a_unit_inside_another_is_refused(store: Store) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        async with store.unit("a"), store.unit("b"):
            pytest.fail("units nested")

    async with store.unit("a") as unit:
        insert(unit, "one")


async def test_a_unit_takes_nothing_after_its_end(store: Store) -> None:
    async with store.unit("a") as unit:
        pass

    with pytest.raises(RuntimeError):
        insert(unit, "one")
    with pytest.raises(RuntimeError):
        await unit.fetch("SELECT 1 AS one")


async def test_numbers_given_in_one_series_have_no_gap_and_no_double(store: Store) -> None:
    async def append(number: int) -> None:
        async with store.unit(f"agreement {number}") as unit:
            unit.serialise("series")
            unit.execute(
                """
                INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
                SELECT :identity, :peer, 'series', :key, '', :reply,
                    coalesce(max(received_ns), 0) + 1 FROM inbox
                """,
                identity=US,
                peer=PEER,
                key=str(number),
                reply=b"",
            )

    await asyncio.gather(*(append(n) for n in range(40)))

    rows = await store.fetch("SELECT received_ns FROM inbox ORDER BY received_ns LIMIT 100")
    assert [row["received_ns"] for row in rows] == list(range(1, 41))


async def test_posting_and_serialising_in_any_order_never_locks_up(store: Store) -> None:
    async def work(number: int) -> None:
        async with store.unit(f"unit {number % 3}") as unit:
            for name in ("x", "y") if number % 2 else ("y", "x"):
                unit.serialise(name)
            unit.post(
                identity=US, peer=PEER, lane="l", kind="k", key=str(number), payload={"n": number}
            )

    await asyncio.wait_for(asyncio.gather(*(work(n) for n in range(40))), 30)

    rows = await store.fetch("SELECT key FROM outbox LIMIT 100")
    assert sorted(int(row["key"]) for row in rows) == list(range(40))


async def test_posting_the_same_key_again_is_a_no_op(store: Store) -> None:
    for text in ("first", "second"):
        async with store.unit("a") as unit:
            unit.post(identity=US, peer=PEER, lane="l", kind="k", key="1", payload={"is": text})
    async with store.unit("a") as unit:
        unit.post(identity=US, peer=PEER, lane="l", kind="other", key="1", payload={})
        unit.post(identity=US, peer=US, lane="l", kind="k", key="1", payload={})

    rows = await store.fetch("SELECT kind, peer, payload FROM outbox ORDER BY id LIMIT 9")
    assert [(row["kind"], row["peer"]) for row in rows] == [("k", PEER), ("other", PEER), ("k", US)]
    assert rows[0]["payload"] == '{"is":"first"}'


async def test_every_type_comes_back_as_it_went_in(store: Store) -> None:
    text = "Gołem \U0001f9f1 'quoted' \"double\" :name $1 -- \n"

    async with store.unit("a") as unit:
        unit.execute(
            INSERT,
            identity=US,
            peer=PEER,
            key=text,
            digest="",
            reply=bytes(range(256)),
            received_ns=2**63 - 1,
        )

    [row] = await store.fetch("SELECT * FROM inbox WHERE key = :key LIMIT 1", key=text)
    assert row["key"] == text
    assert row["reply"] == bytes(range(256))
    assert row["received_ns"] == 2**63 - 1
    assert type(row["received_ns"]) is int


async def test_absent_values_compare_as_null(store: Store) -> None:
    query = "SELECT count(*) AS n FROM inbox WHERE :filter IS NULL OR key = :filter"
    async with store.unit("a") as unit:
        insert(unit, "one")
        insert(unit, "two")

    assert (await store.fetch(query, filter=None))[0]["n"] == 2
    assert (await store.fetch(query, filter="one"))[0]["n"] == 1


async def test_sums_are_integers_and_text_sorts_by_code_point(store: Store) -> None:
    async with store.unit("a") as unit:
        for number, key in enumerate(("b", "A", "a", "B", "ä", "_")):
            insert(unit, key, number=number)

    assert await keys(store) == ["A", "B", "_", "a", "b", "ä"]
    [row] = await store.fetch("SELECT sum(received_ns) AS total FROM inbox")
    assert row["total"] == 15
    assert type(row["total"]) is int


@pytest.mark.parametrize("value", ["nul \0", "half \ud800", 2**63, -(2**63) - 1])
async def test_what_an_engine_cannot_hold_is_refused_by_both(store: Store, value: object) -> None:
    with pytest.raises(UsageError):
        async with store.unit("a") as unit:
            unit.execute("DELETE FROM inbox WHERE key = :key", key=value)


async def test_missing_and_surplus_parameters_are_mistakes(store: Store) -> None:
    with pytest.raises(TypeError):
        await store.fetch("SELECT :a AS a")
    with pytest.raises(TypeError):
        await store.fetch("SELECT :a AS a", a=1, b=2)


async def test_reads_cannot_write(store: Store) -> None:
    with pytest.raises(TypeError):
        await store.fetch("DELETE FROM inbox")
    with pytest.raises((StorageFault, ShemError)):
        await store.fetch("WITH x AS (SELECT 1) DELETE FROM inbox")


async def test_an_unbounded_read_is_refused(store: Store) -> None:
    rows = ROWS_MAX + 1
    with pytest.raises(StorageFault, match="LIMIT"):
        await store.fetch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) "
            "SELECT i FROM n",
            rows=rows,
        )


async def test_pollers_wake_after_the_commit_and_see_it(store: Store) -> None:
    version = store.topics.version("t")
    seen: list[list[str]] = []

    async def poll() -> None:
        assert await store.topics.changed("t", version, 10)
        seen.append(await keys(store))

    poller = asyncio.create_task(poll())
    async with store.unit("a") as unit:
        insert(unit, "one")
        unit.notify("t")
        await asyncio.sleep(0)
        assert not poller.done()
    await poller

    assert seen == [["one"]]


async def test_actions_run_after_the_commit_and_cannot_undo_it(store: Store) -> None:
    order: list[str] = []
    async with store.unit("a") as unit:
        insert(unit, "one")
        unit.after_commit(lambda: order.append("first"))
        unit.after_commit(lambda: 1 // 0)
        unit.after_commit(lambda: order.append("last"))
        assert order == []

    assert order == ["first", "last"]
    assert await keys(store) == ["one"]


async def test_a_caller_cancelled_during_the_commit_leaves_a_whole_unit(store: Store) -> None:
    version = store.topics.version("t")

    async def work() -> None:
        async with store.unit("a") as unit:
            insert(unit, "one")
            insert(unit, "two")
            unit.notify("t")
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())

    assert await keys(store) == ["one", "two"]
    assert store.topics.version("t") != version


async def test_a_caller_cancelled_in_the_block_leaves_nothing(store: Store) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with store.unit("a") as unit:
            insert(unit, "one")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await keys(store) == []
    async with store.unit("a") as unit:
        insert(unit, "two")
    assert await keys(store) == ["two"]


async def test_everything_is_there_after_opening_again(store: Store, open_again: OpenStore) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")
    await store.close()

    assert await keys(await open_again()) == ["one"]


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()

    with pytest.raises(StoreClosed):
        await store.fetch("SELECT 1 AS one")
    with pytest.raises(StoreClosed):
        async with store.unit("a") as unit:
            insert(unit, "one")


async def test_closing_ends_the_waiting_of_pollers(store: Store) -> None:
    poller = asyncio.create_task(store.topics.changed("t", store.topics.version("t"), 600))
    await asyncio.sleep(0)
    await store.close()

    assert await asyncio.wait_for(poller, 5) is False


async def test_a_repeated_message_gets_the_answer_it_had_before(store: Store) -> None:
    message = InboxMessage(US, PEER, "proposal", "p-1", b"contents")
    async with store.unit("a") as unit:
        assert await answered(unit, message) is None
        remember(unit, message, b"answer", 7)

    async with store.unit("a") as unit:
        assert await answered(unit, message) == b"answer"
        assert await answered(unit, InboxMessage(US, US, "proposal", "p-1", b"contents")) is None
        with pytest.raises(ShemError, match="other contents"):
            await answered(unit, InboxMessage(US, PEER, "proposal", "p-1", b"forged"))
