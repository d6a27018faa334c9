"""The net: round trips and bulk transfer, ours to ours beside yagna to yagna over one relay.

Both kinds of node are asked the same way, by our bus client at their socket: `/public/bench` is
served at one node and called from the other. Bulk is what a file transfer does: chunks of 40 KiB
asked for over the transfer channel, some at a time. Each pair is measured with direct sessions, and
once more at a relay that calls nobody public, so that all goes through it.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from shem.bus.client import BusClient
from shem.bus.types import Call
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from tests.bench.pair import Figures, show
from tests.interop.daemon import Daemon
from tests.interop.our_node import OurNode
from tests.interop.real_yagna import RealYagna

RELAY = "tests.bench.blind_relay"
SERVICE = "/public/bench"
ROUNDS = 4
PINGS = 50
BULK_BYTES = 20_000_000
BULK_ROUNDS = 2
CHUNK = 40 * 1024
CHUNKS_AT_ONCE = 12
"""As many as a file transfer of yagna's asks for ahead."""
CHANNELS = {"reliable": "", "transfer": "/transfer", "unreliable": "/udp"}
TIMEOUT_S = 60.0


async def measure_net(*, with_yagna: bool) -> tuple[Figures, Figures | None]:
    """Measure both kinds in turns, so that what else the machine does harms both alike."""
    kinds: list[type[Daemon]] = [OurNode, RealYagna] if with_yagna else [OurNode]
    figures: list[Figures] = [{} for _ in kinds]
    for route in ("direct", "relayed"):
        async with relay(route) as address, AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(pair(kind, address)) for kind in kinds]
            for _ in range(ROUNDS):
                for (client, target), found in zip(pairs, figures, strict=True):
                    await _round_trips(client, target, route, found)
            for _ in range(BULK_ROUNDS):
                for (client, target), found in zip(pairs, figures, strict=True):
                    speed = await _bulk(client, f"/transfer/net/{target}/bench/GetChunk")
                    found.setdefault(f"{route}, 20 MB [MB/s]", []).append(speed)
    return figures[0], figures[1] if with_yagna else None


@asynccontextmanager
async def relay(route: str) -> AsyncIterator[tuple[str, int]]:
    """Run a relay that tells addresses, or keeps them to itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        RELAY,
        route,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        host, port = (await process.stdout.readline()).decode().split()
        yield host, int(port)
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def pair(
    kind: type[Daemon], relay_address: tuple[str, int]
) -> AsyncIterator[tuple[BusClient, NodeId]]:
    """Run two nodes; give a client of the first, and the id of the second, which serves."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shem-bench-"))
        nodes = [kind(Path(folder) / name, relay_address) for name in ("one", "two")]
        for node in nodes:
            stack.push_async_callback(node.kill)
        await asyncio.gather(*(node.start() for node in nodes))
        here, there = [
            await stack.enter_async_context(BusClient(parse_gsb_url(node.gsb_url)))
            for node in nodes
        ]
        await there.connected()
        await there.bind(SERVICE, _answer)
        await _until_reached(here, nodes[1].node_id)
        yield here, nodes[1].node_id


async def _answer(call: Call) -> bytes:
    return bytes(int(call.data)) if call.address.endswith("/GetChunk") else call.data


async def _until_reached(client: BusClient, target: NodeId) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        for prefix in CHANNELS.values():
            while True:
                try:
                    await client.call(f"{prefix}/net/{target}/bench/Echo", b"hello", timeout_s=3)
                    break
                except ShemError:
                    await asyncio.sleep(0.1)


async def _round_trips(client: BusClient, target: NodeId, route: str, found: Figures) -> None:
    for channel, prefix in CHANNELS.items():
        times = found.setdefault(f"{route}, round trip, {channel} [ms]", [])
        for _ in range(PINGS):
            begun = time.perf_counter()
            await client.call(f"{prefix}/net/{target}/bench/Echo", b"ping", timeout_s=TIMEOUT_S)
            times.append((time.perf_counter() - begun) * 1e3)


async def _bulk(client: BusClient, address: str) -> float:
    """Fetch 20 MB; return MB per second."""
    chunks = iter(range(BULK_BYTES // CHUNK))
    got = 0

    async def fetch() -> None:
        nonlocal got
        for _ in chunks:
            chunk = await client.call(address, str(CHUNK).encode(), timeout_s=TIMEOUT_S)
            got += len(chunk)

    begun = time.perf_counter()
    await asyncio.gather(*(fetch() for _ in range(CHUNKS_AT_ONCE)))
    seconds = time.perf_counter() - begun
    assert got == BULK_BYTES // CHUNK * CHUNK
    return got / seconds / 1e6


if __name__ == "__main__":
    from tests.bench.isolation import enter_loopback_namespace

    show(*asyncio.run(measure_net(with_yagna=enter_loopback_namespace())))
