"""A relay, a requestor node, a provider node and its agent: separate processes.

    async with Devnet(directory) as net:
        env = net.requestor.client_env()      # what a requestor's program needs
        await net.requestor.kill()            # SIGKILL
        await net.requestor.start()           # the same node again

They live on loopback, or where `places` says. Leaving the block, however it is left, ends every
process, ExeUnits included; the files stay for whoever wants to read the logs. A node is ready when
its REST API answers and it has a session with the relay; the agent, when its offer is on the
market.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shem.devnet.daemons import SUBNET, Node, Program, free_port
from shem.devnet.package import serve_package
from shem.devnet.places import LOOPBACK_ADDRESS, Place, Places
from shem.devnet.processes import (
    MARK_VARIABLE,
    Child,
    clean_environment,
    idle_ended,
    is_exe_unit,
    left_behind,
    sweep,
)
from shem.identity.keys import PrivateKey
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.world import World
from shem.rest.client import RestClient
from shem.sdk.payloads import WasmPackage

RELAY_GREETING: Final = "relay listening on "
SOCKET_PATH_MAX: Final = 100
"""Unix socket paths have at most 108 bytes, a few of which we keep."""


class Devnet:
    """The network; `async with` starts and ends it."""

    requestor: Node
    provider: Node
    relay: Program
    agent: Program
    package: WasmPackage
    relay_address: tuple[str, int]

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        places: Places | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.world = World()
        self.places = places or Places()
        self.requestor_key = PrivateKey.generate(self.world.rng)
        """Kept outside of its node's data directory, so that another machine may have it."""
        self.mark = secrets.token_hex(8)
        self._env = {**clean_environment(), **(env or {}), MARK_VARIABLE: self.mark}
        self._stack = AsyncExitStack()
        self.killed_at_end: list[str] = []
        """Processes that were still there after all had been asked to stop."""

    async def __aenter__(self) -> Self:
        if len(str(self.directory / "requestor" / "gsb.sock")) > SOCKET_PATH_MAX:
            raise UsageError(f"{self.directory} is too long a path for a socket; choose another")
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    def processes(self) -> dict[str, Child]:
        """Return the running daemons by name."""
        running = [program.child for program in self._programs() if program.child is not None]
        return {child.name: child for child in running if child.alive}

    def place_of(self, name: str) -> Place:
        """Return where a daemon lives."""
        return next(program.place for program in self._programs() if program.name == name)

    def check(self) -> None:
        """Raise DevnetError when a daemon that should run has ended."""
        for program in self._programs():
            program.check()

    def _programs(self) -> tuple[Program, ...]:
        return (self.relay, self.requestor.program, self.provider.program, self.agent)

    @property
    def package_dir(self) -> Path:
        """What is in it is served beside the package."""
        return self.directory / "package"

    def exe_units(self) -> list[int]:
        """Return the process ids of the ExeUnits that run now."""
        return [
            process.pid
            for process in left_behind(self.mark, self.directory)
            if is_exe_unit(process)
        ]

    def program_env(self) -> dict[str, str]:
        """Return the environment of a requestor's program."""
        state_dir = str(self.requestor.program.directory / "state")
        return {**self._env, **self.requestor.client_env(), "SHEM_STATE_DIR": state_dir}

    async def new_machine(self, place: Place) -> float:
        """Lose the requestor's machine; start one in its place that has nothing but the key.

        Returns how many seconds its node took to be ready.
        """
        await self.requestor.kill()
        self.requestor = await self._node("requestor-new", place, self._requestor_env())
        return await self.requestor.start()

    async def _start(self) -> None:
        self.package_dir.mkdir(exist_ok=True)
        served = serve_package(self.package_dir, self.places.web)
        self.package = await self._stack.enter_async_context(served)
        self.relay_address = (self.places.relay.address, free_port(socket.SOCK_DGRAM))
        self.relay = self._relay()
        await self.relay.start()
        self.requestor = await self._node("requestor", self.places.requestor, self._requestor_env())
        self.provider = await self._node("provider", self.places.provider, {})
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.requestor.start())
                group.create_task(self.provider.start())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self.agent = self._agent()
        await self.agent.start()

    async def _end(self) -> None:
        """End all processes; what does not end by itself is killed."""
        try:
            programs = [
                getattr(self, "agent", None),
                *(node.program for node in self._nodes()),
                getattr(self, "relay", None),
            ]
            await asyncio.gather(*(program.stop() for program in programs if program))
            await idle_ended(self.mark, self.directory, self.world)
        finally:
            self.killed_at_end = await sweep(self.mark, self.directory, self.world)
            await self._stack.aclose()

    def _nodes(self) -> list[Node]:
        return [node for name in ("requestor", "provider") if (node := getattr(self, name, None))]

    def _requestor_env(self) -> dict[str, str]:
        return {"YAGNA_AUTOCONF_ID_SECRET": self.requestor_key.secret_bytes().hex()}

    def _relay(self) -> Program:
        directory, place = self.directory / "relay", self.places.relay

        async def ready() -> bool:
            log = directory / "relay.log"
            return log.exists() and RELAY_GREETING in log.read_text(errors="replace")

        listen = f"{place.bind}:{self.relay_address[1]}"
        arguments = ("relay", "run", "--listen", listen, "--state-dir", str(directory))
        return Program("relay", arguments, directory, self._env, self.world, place, ready)

    async def _node(self, name: str, place: Place, extra: Mapping[str, str]) -> Node:
        directory = self.directory / name
        api_port = free_port(socket.SOCK_STREAM)
        await self._stack.enter_async_context(place.door(api_port))
        api_url = f"http://{LOOPBACK_ADDRESS}:{api_port}"
        app_key = secrets.token_hex(16)
        gsb_url = f"unix:{directory / 'gsb.sock'}"
        env = {
            **self._env,
            **extra,
            "YAGNA_DATADIR": str(directory / "data"),
            "YAGNA_API_URL": api_url,
            "YAGNA_AUTOCONF_APPKEY": app_key,
            "YA_NET_RELAY_HOST": "{}:{}".format(*self.relay_address),
            "YA_NET_BIND_URL": f"udp://{place.bind}:{free_port(socket.SOCK_DGRAM)}",
            "GSB_URL": gsb_url,
        }

        async def ready() -> bool:
            return await _answers(api_url, app_key, _has_session)

        program = Program(name, ("node", "run"), directory, env, self.world, place, ready)
        return Node(program, api_url, app_key, gsb_url)

    def _agent(self) -> Program:
        directory = self.directory / "agent"
        env = {
            **self._env,
            **self.provider.client_env(),
            "DATA_DIR": str(directory / "data"),
            "NODE_NAME": "devnet-provider",
            "SUBNET": SUBNET,
            "SHEM_PRIVATE_TRANSFERS": "yes",  # the package is served on this machine
        }

        async def ready() -> bool:
            return await _answers(self.provider.api_url, self.provider.app_key, _has_offer)

        place = self.places.provider
        return Program("agent", ("provider", "run"), directory, env, self.world, place, ready)


async def _answers(
    api_url: str, app_key: str, question: Callable[[RestClient], Awaitable[bool]]
) -> bool:
    try:
        async with RestClient(api_url, app_key) as rest:
            return await question(rest)
    except ShemError:
        return False


async def _has_session(rest: RestClient) -> bool:
    return (await rest.net.status()).sessions > 0


async def _has_offer(rest: RestClient) -> bool:
    return bool(await rest.market.offers.mine())


def default_directory() -> Path:
    """Return a new directory for a devnet, short enough for sockets."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="shem-devnet-", dir=os.environ.get("TMPDIR")))
