"""Durable units of work per second on SQLite, by the number of callers that wait at once.

`python -m tests.bench.bench_store [URL-OR-FOLDER]`
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shem.kernel.world import World
from shem.store.open import open_store
from shem.store.unit import Store

SECONDS = 2.0
CALLERS = (1, 4, 32)
INSERT = """
    INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
    VALUES ('', '', 'bench', :key, '', :reply, 0)
"""
READ = """
    SELECT digest FROM inbox
    WHERE identity = '' AND peer = '' AND kind = 'bench' AND key = :key
"""


async def measure(store: Store, callers: int) -> tuple[float, float]:
    """Return units per second and the median milliseconds of one."""
    end = time.perf_counter() + SECONDS
    taken: list[float] = []

    async def call(caller: int) -> None:
        number = 0
        while (start := time.perf_counter()) < end:
            number += 1
            async with store.unit(str(caller)) as unit:
                key = f"{callers}-{caller}-{number}"
                unit.execute(INSERT, key=key, reply=bytes(300))
            taken.append(time.perf_counter() - start)

    await asyncio.gather(*(call(caller) for caller in range(callers)))
    return len(taken) / SECONDS, statistics.median(taken) * 1000


async def measure_reads(store: Store) -> float:
    count = 0
    end = time.perf_counter() + SECONDS / 2
    while time.perf_counter() < end:
        await store.fetch(READ, key="1-0-1")
        count += 1
    return count / (SECONDS / 2)


@contextmanager
def place() -> Iterator[str]:
    if len(sys.argv) > 1:
        yield sys.argv[1]
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "shem.db")


async def main() -> None:
    with place() as where:
        store = await open_store(where, world=World())
        for callers in CALLERS:
            rate, median_ms = await measure(store, callers)
            sys.stdout.write(
                f"store  {callers:3d} callers  {rate:8.0f} units/s  {median_ms:.2f} ms\n"
            )
        sys.stdout.write(f"store  point reads  {await measure_reads(store):8.0f} /s\n")
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
