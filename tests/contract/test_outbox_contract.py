"""Outbox and identities on both engines, as the node uses them."""

import asyncio
from pathlib import Path

from shem.identity.service import IdentityService
from shem.kernel.config import NodeConfig
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.store.outbox import DONE, Drop, Outbox, OutboxRow, Outcome, Retry
from shem.store.unit import Store
from tests.contract.conftest import OpenStore

US = NodeId("0x" + "1" * 40)
PEER = NodeId("0x" + "2" * 40)


async def post(store: Store, lane: str, key: str) -> None:
    async with store.unit(lane) as unit:
        unit.post(identity=US, peer=PEER, lane=lane, kind="test", key=key, payload={"key": key})


async def until_empty(outbox: Outbox) -> None:
    async with asyncio.timeout(20):
        while await outbox.pending():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def test_rows_of_many_lanes_arrive_in_order_and_are_settled(store: Store) -> None:
    arrived: dict[str, list[str]] = {}
    refused: set[str] = set()

    async def deliver(row: OutboxRow) -> Outcome:
        assert row.payload == {"key": row.key}
        if row.key == "3-3":
            return Drop("never")
        if row.key.endswith("-1") and row.key not in refused:
            refused.add(row.key)
            return Retry("not yet")
        arrived.setdefault(row.lane, []).append(row.key)
        return DONE

    outbox = Outbox(store, World())
    outbox.register("test", deliver)
    service = asyncio.create_task(outbox.run())
    await asyncio.gather(*(in_order(store, str(lane)) for lane in range(4)))
    await until_empty(outbox)
    await store.close()
    await asyncio.wait_for(service, 10)

    expected = {str(lane): [f"{lane}-{n}" for n in range(5)] for lane in range(4)}
    expected["3"].remove("3-3")
    assert arrived == expected


async def in_order(store: Store, lane: str) -> None:
    for number in range(5):
        await post(store, lane, f"{lane}-{number}")


async def test_what_was_not_delivered_is_delivered_after_a_restart(open_again: OpenStore) -> None:
    first = await open_again()
    for key in ("a", "b"):
        await post(first, "lane", key)
    await first.close()
    store = await open_again()
    arrived: list[str] = []

    async def deliver(row: OutboxRow) -> Outcome:
        arrived.append(row.key)
        return DONE

    outbox = Outbox(store, World())
    outbox.register("test", deliver)
    service = asyncio.create_task(outbox.run())
    await until_empty(outbox)
    service.cancel()
    await asyncio.wait((service,))

    assert arrived == ["a", "b"]


async def test_identities_and_app_keys_survive_a_restart(
    open_again: OpenStore, tmp_path: Path
) -> None:
    config = NodeConfig(datadir=tmp_path)
    first = IdentityService(await open_again(), World(), config)
    await first.start()
    other = await first.create_identity(alias="other")
    key = await first.create_app_key("agent", identity=other.node_id, allow_origins=("http://x",))

    second = IdentityService(await open_again(), World(), config)
    await second.start()

    assert [info.node_id for info in await second.identities()] == [
        first.default.node_id,
        other.node_id,
    ]
    assert await second.app_keys() == [key]
    assert await second.app_keys(first.default.node_id) == []
    principal = await second.principal(key.key)
    assert principal is not None
    assert principal.identity == other.node_id
    await second.drop_app_key("agent")
    assert await second.principal(key.key) is None
