"""Relay and node daemons, each on a host of its own, reached from the test by REST and bus.

The bus is a unix socket, which every namespace sees; a REST port inside a namespace is reached
through a `Door`, under the same address as inside.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shem.bus.client import BusClient
from shem.bus.types import Call
from shem.devnet.door import Door
from shem.devnet.internet import Host, Internet
from shem.identity.keys import PrivateKey
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import ShemError
from shem.rest.client import RestClient
from tests.interop.daemon import Daemon
from tests.interop.our_node import OurNode
from tests.interop.real_yagna import RealYagna

RELAY_PORT = 7477
NODE_PORT = 11_500
START_S = 60
AGAIN_S = 0.1
PING = "diagnostic/net/GsbRemotePing"
SLOW = "test/Slow"
CHUNK = "test/Chunk"
CONTENT = random.Random(1).randbytes(2_000_000)
CHUNK_SIZE = 65_536
LONG_CALL_S = 25
RELIABLE, UNRELIABLE, TRANSFER = "", "/udp", "/transfer"
CHANNELS = (RELIABLE, UNRELIABLE, TRANSFER)


class _Hosted(Daemon):
    """A daemon on a host; it is up when its REST server answers."""

    async def is_up(self) -> bool:
        try:
            async with RestClient(self.api_url, self.app_key) as rest:
                await rest.identity.me()
        except ShemError:
            return False
        return True


class HostedNode(_Hosted, OurNode):
    """Our node."""


class HostedYagna(_Hosted, RealYagna):
    """A real yagna. Its host has no way out but to the other hosts."""


KINDS: dict[str, type[Daemon]] = {"ours": HostedNode, "yagna": HostedYagna}


@dataclass
class Station:
    """A node daemon on its host, and the program beside it that uses the bus."""

    host: Host
    daemon: Daemon
    bus: BusClient
    begun: Counter[str] = field(default_factory=Counter)
    """How often each slow call was begun, by its name."""

    @property
    def node_id(self) -> str:
        return self.daemon.node_id

    def rest(self) -> RestClient:
        return RestClient(self.daemon.api_url, self.daemon.app_key)

    async def call(
        self, other: "Station", service: str, body: object, *, channel: str = "", timeout_s: float
    ) -> object:
        address = f"{channel}/net/{other.node_id}/{service}"
        return await self.bus.request(address, body, timeout_s=timeout_s)

    async def serve(self) -> None:
        """Answer the calls that the tests make."""
        await self.bus.serve(f"/public/{SLOW}", self._answer_slowly)
        await self.bus.bind(f"/public/{CHUNK}", self._chunk)

    async def _answer_slowly(self, call: Call, body: Any) -> object:
        self.begun[body["name"]] += 1
        await asyncio.sleep(body["seconds"])
        return body["name"]

    async def _chunk(self, call: Call) -> bytes:
        return CONTENT[int(call.data) :][:CHUNK_SIZE]

    async def call_slowly(self, other: "Station", name: str, seconds: float) -> object:
        """Make one call that takes long; nobody repeats it."""
        body = {"name": name, "seconds": seconds}
        return await self.call(other, SLOW, body, timeout_s=LONG_CALL_S)

    async def download(self, other: "Station") -> float:
        """Fetch 2 MB of the other's in chunks, as GFTP does it; return the seconds that took."""
        started = time.monotonic()
        chunks = [
            await self.bus.call(
                f"{TRANSFER}/net/{other.node_id}/{CHUNK}", str(offset).encode(), timeout_s=30
            )
            for offset in range(0, len(CONTENT), CHUNK_SIZE)
        ]
        assert b"".join(chunks) == CONTENT
        return time.monotonic() - started

    async def ping(self, other: "Station", channel: str = "", timeout_s: float = 10) -> float:
        started = time.monotonic()
        await self.call(other, PING, {}, channel=channel, timeout_s=timeout_s)
        return time.monotonic() - started

    async def reaches(self, other: "Station", channel: str = "", *, within_s: float) -> float:
        """Call until there is an answer; return the seconds that took.

        A new call is made every now and then, whatever became of those before: a legacy node loses
        some without a word.
        """
        started = time.monotonic()
        calls: set[asyncio.Task[float]] = set()
        try:
            while (spent := time.monotonic() - started) < within_s:
                calls.add(asyncio.create_task(self.ping(other, channel, within_s)))
                pause_s = AGAIN_S + spent / 20
                await asyncio.wait(calls, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                ended = {call for call in calls if call.done()}
                if any(call.exception() is None for call in ended):
                    return time.monotonic() - started
                calls -= ended
                if ended:
                    await asyncio.sleep(AGAIN_S)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        raise AssertionError(
            f"{other.host.name} is out of reach of {self.host.name} for {spent:.1f} s"
        )

    async def go_down(self) -> None:
        """Shut the daemon down; a yagna, which takes its time, is killed."""
        await (self.daemon.stop() if isinstance(self.daemon, OurNode) else self.daemon.kill())

    async def routes(self) -> set[str]:
        """Return the kinds of its sessions."""
        rows = await self.daemon.cli("net", "sessions")
        return {row["type"] for row in rows}  # type: ignore[attr-defined]


@dataclass
class RelayStation:
    """Our relay as a process on its host."""

    host: Host
    directory: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> tuple[str, int]:
        return (in_url(self.host.address), RELAY_PORT)

    @property
    def log(self) -> Path:
        return self.directory / "relay.log"

    async def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.host.space.enter,
                Path(sys.executable).with_name("shem"),
                *("relay", "run", "--listen", f"{any_address(self.host)}:{RELAY_PORT}"),
                *("--state-dir", self.directory),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_S):
            while "relay listening" not in self.log.read_text():
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Region:
    """A relay and the stations around it."""

    net: Internet
    relay: RelayStation
    directory: Path
    stack: contextlib.AsyncExitStack
    stations: list[Station] = field(default_factory=list)

    async def station(
        self,
        kind: str,
        name: str,
        *,
        behind_nat: bool = False,
        strict_nat: bool = False,
        env: dict[str, str] | None = None,
        key: PrivateKey | None = None,
    ) -> Station:
        """Start a daemon (`ours` or `yagna`) on a new host, with a key of its own or this one."""
        host = self.net.host(
            name, behind_nat=behind_nat or strict_nat, ipv6=self.relay.host.is_ipv6
        )
        if host.nat is not None:
            host.nat.per_receiver = strict_nat
        daemon = KINDS[kind](
            self.directory / name,
            self.relay.address,
            extra_env={"SHEM_LOG_LEVEL": os.environ.get("SHEM_LOG_LEVEL", "info"), **(env or {})},
            enter=host.space.enter,
            **({} if key is None else {"key": key}),
        )
        daemon.bind = (any_address(host), NODE_PORT)
        await self.stack.enter_async_context(Door(host, daemon.api_port))
        self.stack.push_async_callback(daemon.kill)
        await daemon.start()
        bus = await self.stack.enter_async_context(BusClient(parse_gsb_url(daemon.gsb_url)))
        station = Station(host, daemon, bus)
        await station.serve()
        self.stations.append(station)
        return station


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def any_address(host: Host) -> str:
    return "[::]" if host.is_ipv6 else "0.0.0.0"


@asynccontextmanager
async def region(net: Internet, directory: Path, *, ipv6: bool = False) -> AsyncIterator[Region]:
    """Have a relay on a host; daemons' logs are printed when the block fails."""
    async with contextlib.AsyncExitStack() as stack:
        relay = RelayStation(net.host("relay", ipv6=ipv6), directory / "relay")
        stack.push_async_callback(relay.kill)
        await relay.start()
        made = Region(net, relay, directory, stack)
        try:
            yield made
        except BaseException:
            for station in made.stations:
                print(f"--- {station.host.name}\n{station.daemon.log[-6000:]}")  # noqa: T201
            print(f"--- relay\n{relay.log.read_text()[-3000:]}")  # noqa: T201
            raise


async def until(question: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Ask until the answer is yes; return the seconds that took."""
    started = time.monotonic()
    while not await question():
        assert time.monotonic() - started < within_s, "it did not come to that in time"
        await asyncio.sleep(AGAIN_S)
    return time.monotonic() - started


def freeze(daemon: Daemon) -> None:
    """Stop a process without ending it."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)


def thaw(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGCONT)
