"""The long-running programs of a devnet: processes that can be killed and started again."""

import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.devnet.places import Place
from shem.devnet.processes import POLL_S, Child, DevnetError, tail_of
from shem.kernel.world import World
from shem.rest.client import RestClient

READY_TIMEOUT_S: Final = 30.0
SUBNET: Final = "devnet"
PORTS: Final = range(20_000, 32_000)
"""Not those that systems give away by themselves, between our look and our use of one."""
PORT_TRIES: Final = 100


def shem_command() -> list[str]:
    """Return the installed `shem` of this Python."""
    script = Path(sys.executable).with_name("shem")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from shem.cli.main import main; main()"]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of loopback that nobody uses, nor will by chance."""
    for _ in range(PORT_TRIES):
        port = secrets.choice(PORTS)
        with socket.socket(socket.AF_INET, kind) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DevnetError(f"{PORT_TRIES} ports between {PORTS.start} and {PORTS.stop} are all taken")


@dataclass(slots=True)
class Program:
    """A long-running command of the devnet that can be killed and started again."""

    name: str
    arguments: tuple[str, ...]
    directory: Path
    env: Mapping[str, str]
    world: World
    place: Place
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
            [*self.place.enter, *shem_command(), *self.arguments],
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

    @property
    def enter(self) -> Sequence[str]:
        """What comes before a command that is to run beside this node."""
        return self.program.place.enter

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
