"""A relay, a requestor node, a provider node and its agent: separate processes on loopback.

    async with Devnet(directory) as net:
        env = net.requestor.client_env()      # what a requestor's program needs
        await net.requestor.kill()            # SIGKILL
        await net.requestor.start()           # the same node again

Leaving the block, however it is left, ends every process, ExeUnits included; the files stay for
whoever wants to read the logs. A node is ready when its REST API answers and it has a session with
the relay; the agent, when its offer is on the market.
"""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shem.devnet.package import serve_package
from shem.devnet.processes import (
    MARK_VARIABLE,
    POLL_S,
    Child,
    DevnetError,
    clean_environment,
    is_exe_unit,
    left_behind,
    spares_ended,
    sweep,
    tail_of,
)
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.world import World
from shem.rest.client import RestClient
from shem.sdk.payloads import WasmPackage

READY_TIMEOUT_S: Final = 30.0
SUBNET: Final = "devnet"
RELAY_GREETING: Final = "relay listening on "
SOCKET_PATH_MAX: Final = 100
"""Unix socket paths have at most 108 bytes, a few of which we keep."""


def shem_command() -> list[str]:
    """Return the installed `shem` of this Python."""
    script = Path(sys.executable).with_name("shem")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from shem.cli.main import main; main()"]


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Program:
    """A long-running command of the devnet that can be killed and started again."""

    name: str
    arguments: tuple[str, ...]
    directory: Path
    env: Mapping[str, str]
    world: World
    ready: Callable[[], Awaitable[bool]]
    child: Child | None = None
    wanted: bool = False

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    async def start(self) -> float:
        """Start, wait until it is ready, and return how many seconds that took."""
        clock = self.world.clock
        started = clock.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.child = await Child.start(
            self.world,
            self.name,
            [*shem_command(), *self.arguments],
            cwd=self.directory,
            env=self.env,
            log=self.log,
        )
        self.wanted = True
        while not await self.ready():
            self.child.check()
            if clock.monotonic() - started > READY_TIMEOUT_S:
                late = f"{self.name} was not ready within {READY_TIMEOUT_S:g} s"
                raise DevnetError(f"{late}; {tail_of(self.log)}")
            await clock.sleep(POLL_S)
        return clock.monotonic() - started

    async def kill(self) -> None:
        """End it as a crash would; until it is started again, its absence is no failure."""
        if self.child is not None:
            self.wanted = False
            await self.child.kill()

    async def stop(self) -> None:
        if self.child is not None:
            self.wanted = False
            await self.child.stop()

    def check(self) -> None:
        """Raise DevnetError when it should run and does not."""
        if self.wanted and self.child is not None:
            self.child.check()


@dataclass(slots=True)
class Node:
    """A node daemon and how to reach it."""

    program: Program
    api_url: str
    app_key: str = field(repr=False)
    gsb_url: str

    async def start(self) -> float:
        return await self.program.start()

    async def kill(self) -> None:
        await self.program.kill()

    def rest(self) -> RestClient:
        return RestClient(self.api_url, self.app_key)

    def client_env(self) -> dict[str, str]:
        """Return the settings of a program that uses this node."""
        return {
            "YAGNA_API_URL": self.api_url,
            "YAGNA_APPKEY": self.app_key,
            "YAGNA_SUBNET": SUBNET,
            "GSB_URL": self.gsb_url,
        }


class Devnet:
    """The network; `async with` starts and ends it."""

    requestor: Node
    provider: Node
    relay: Program
    agent: Program
    package: WasmPackage
    relay_address: tuple[str, int]

    def __init__(self, directory: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory.absolute()
        self.world = World()
        self.mark = secrets.token_hex(8)
        self._env = {**clean_environment(), **(env or {}), MARK_VARIABLE: self.mark}
        self._stack = AsyncExitStack()
        self.killed_at_end = 0
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

    def check(self) -> None:
        """Raise DevnetError when a daemon that should run has ended."""
        for program in self._programs():
            program.check()

    def _programs(self) -> tuple[Program, ...]:
        return (self.relay, self.requestor.program, self.provider.program, self.agent)

    def exe_units(self) -> list[int]:
        """Return the process ids of the ExeUnits that run now."""
        return [
            process.pid
            for process in left_behind(self.mark, self.directory)
            if is_exe_unit(process)
        ]

    def program_env(self) -> dict[str, str]:
        """Return the environment of a requestor's program."""
        return {**self._env, **self.requestor.client_env()}

    async def _start(self) -> None:
        package_dir = self.directory / "package"
        package_dir.mkdir(exist_ok=True)
        self.package = await self._stack.enter_async_context(serve_package(package_dir))
        relay_port = free_port(socket.SOCK_DGRAM)
        self.relay_address = ("127.0.0.1", relay_port)
        self.relay = self._relay(relay_port)
        await self.relay.start()
        self.requestor = self._node("requestor", relay_port)
        self.provider = self._node("provider", relay_port)
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
            await spares_ended(self.mark, self.directory, self.world)
        finally:
            self.killed_at_end = await sweep(self.mark, self.directory, self.world)
            await self._stack.aclose()

    def _nodes(self) -> list[Node]:
        return [node for name in ("requestor", "provider") if (node := getattr(self, name, None))]

    def _relay(self, port: int) -> Program:
        directory = self.directory / "relay"

        async def ready() -> bool:
            log = directory / "relay.log"
            return log.exists() and RELAY_GREETING in log.read_text(errors="replace")

        arguments = ("relay", "run", "--listen", f"127.0.0.1:{port}", "--state-dir", str(directory))
        return Program("relay", arguments, directory, self._env, self.world, ready)

    def _node(self, name: str, relay_port: int) -> Node:
        directory = self.directory / name
        api_url = f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        app_key = secrets.token_hex(16)
        gsb_url = f"unix:{directory / 'gsb.sock'}"
        env = {
            **self._env,
            "YAGNA_DATADIR": str(directory / "data"),
            "YAGNA_API_URL": api_url,
            "YAGNA_AUTOCONF_APPKEY": app_key,
            "YA_NET_RELAY_HOST": f"127.0.0.1:{relay_port}",
            "YA_NET_BIND_URL": f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}",
            "GSB_URL": gsb_url,
        }

        async def ready() -> bool:
            return await _answers(api_url, app_key, _has_session)

        program = Program(name, ("node", "run"), directory, env, self.world, ready)
        return Node(program, api_url, app_key, gsb_url)

    def _agent(self) -> Program:
        directory = self.directory / "agent"
        env = {
            **self._env,
            **self.provider.client_env(),
            "DATA_DIR": str(directory / "data"),
            "NODE_NAME": "devnet-provider",
            "SUBNET": SUBNET,
            "SHEM_PRIVATE_TRANSFERS": "yes",  # the package is served on loopback
        }

        async def ready() -> bool:
            return await _answers(self.provider.api_url, self.provider.app_key, _has_offer)

        return Program("agent", ("provider", "run"), directory, env, self.world, ready)


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
