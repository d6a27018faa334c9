"""What operators see of a relay: Prometheus metrics, and the status for people.

Served over HTTP when an address for it was given: `/metrics` and `/status` (JSON). The figures are
read from the core when somebody asks; nothing is counted for their sake.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from shem.kernel.errors import UsageError
from shem.relay.core import RelayCore
from shem.relay.registry import Address

PREFIX: Final = "shem_relay"


class RelayCollector(Collector):
    """The figures of one relay, as Prometheus knows them."""

    def __init__(self, core: RelayCore) -> None:
        self._core = core

    def collect(self) -> Iterator[Metric]:
        counts, directory = self._core.counts, self._core.directory
        nodes = tuple(directory.by_slot.values())
        gauges = (
            ("sessions", "Sessions with a proven node.", len(directory.sessions)),
            ("nodes", "Registered nodes.", len(nodes)),
            ("public_nodes", "Nodes that anybody can dial.", sum(n.is_public for n in nodes)),
            ("slots", "Slots ever assigned.", directory.registry.slots),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
        counters = (
            ("forwarded_datagrams", "Datagrams forwarded.", counts.forwarded),
            ("forwarded_bytes", "Their bytes, heads included.", counts.forwarded_bytes),
            ("handshakes", "Sessions made.", counts.handshakes),
            ("questions", "Requests of nodes with a session.", counts.questions),
            ("expired_sessions", "Sessions that fell silent.", counts.expired),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        refused = CounterMetricFamily(
            f"{PREFIX}_refused_datagrams", "Datagrams without effect.", labels=["reason"]
        )
        for reason, count in counts.refused.items():
            refused.add_metric([reason], count)
        yield refused


@asynccontextmanager
async def serving_metrics(
    listen: Address, core: RelayCore, status: Callable[[], dict[str, object]]
) -> AsyncIterator[Address]:
    """Serve for the duration of the block; yield the address, with the real port."""
    registry = CollectorRegistry()
    registry.register(RelayCollector(core))
    ProcessCollector(registry=registry)

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(status())

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/status", show_status)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *listen)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(f"cannot listen on {listen[0]}:{listen[1]}: {error}") from error
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()
