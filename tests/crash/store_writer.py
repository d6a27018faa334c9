"""A process that commits units as fast as it can and acknowledges each; the tests kill it.

python store_writer.py STORE WORKERS FIRST [LIMIT]   commit units, acknowledge on stdout
python store_writer.py STORE deliver                 deliver the outbox, name the rows on stdout
"""

import asyncio
import os
import sys

from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.store.open import open_store
from shem.store.outbox import DONE, Outbox, OutboxRow, Outcome
from shem.store.unit import Store

US = NodeId("0x" + "1" * 40)
PEER = NodeId("0x" + "2" * 40)
ROWS_PER_UNIT = 3
INSERT = """
    INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
    VALUES (:identity, :peer, 'crash', :key, :unit, :reply, 0)
"""


async def work(store: Store, worker: int, number: int, limit: int) -> None:
    for step in range(number, number + limit):
        name = f"{worker}-{step}"
        async with store.unit(str(worker)) as unit:
            for row in range(ROWS_PER_UNIT):
                unit.execute(
                    INSERT,
                    identity=US,
                    peer=PEER,
                    key=f"{name}-{row}",
                    unit=name,
                    reply=bytes(row * 3000),
                )
            unit.post(identity=US, peer=PEER, lane=str(worker), kind="k", key=name, payload=name)
        os.write(1, f"{name}\n".encode())


async def deliver(store: Store) -> None:
    outbox = Outbox(store, World())

    async def say(row: OutboxRow) -> Outcome:
        os.write(1, f"{row.key}\n".encode())
        return DONE

    outbox.register("k", say)
    await outbox.run()


async def main(path: str, what: str, first: int, limit: int) -> None:
    store = await open_store(path, world=World())
    if what == "deliver":
        await deliver(store)
        return
    os.write(1, b"ready\n")
    async with asyncio.TaskGroup() as group:
        for worker in range(int(what)):
            group.create_task(work(store, worker, first, limit))
    await store.close()


if __name__ == "__main__":
    first, limit = (*map(int, sys.argv[3:5]), 0, 1_000_000)[:2] if len(sys.argv) > 3 else (0, 0)
    asyncio.run(main(sys.argv[1], sys.argv[2], first, limit or 1_000_000))
