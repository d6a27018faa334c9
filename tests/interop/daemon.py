"""A node daemon as a process of its own, whichever program it is.

`start` and `kill` may alternate; data directory, keys and ports stay.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shem.devnet.daemons import free_port
from shem.identity.keys import PrivateKey
from shem.kernel.ids import NodeId
from shem.kernel.world import SystemRng

START_S = 120
CLI_S = 40
STOP_S = 15
PASSED_ON = ("PATH", "LANG", "TERM", "PYTHONPATH", "SHEM_LOG_LEVEL")


def environment(names: Iterable[str]) -> dict[str, str]:
    """Return those of our own variables that a child may have."""
    return {name: os.environ[name] for name in names if name in os.environ}


@dataclass
class Daemon(ABC):
    """One daemon, at a relay or (None) at none."""

    datadir: Path
    relay: tuple[str, int] | None
    key: PrivateKey = field(default_factory=lambda: PrivateKey.generate(SystemRng()))
    app_key: str = "interop0000app0key"
    extra_env: dict[str, str] = field(default_factory=dict)
    enter: tuple[str, ...] = ()
    """What comes before the program, to run it elsewhere."""
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

    def __post_init__(self) -> None:
        self.datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A unix socket's path must be short.
        self.gsb_dir = Path(tempfile.mkdtemp(prefix="gsb", dir="/tmp"))
        self.api_port = free_port()
        self.api_url = f"http://127.0.0.1:{self.api_port}"
        self.gsb_url = f"unix:{self.gsb_dir}/gsb.sock"
        self.bind = ("127.0.0.1", free_port(socket.SOCK_DGRAM))

    @property
    @abstractmethod
    def program(self) -> Path: ...

    @property
    @abstractmethod
    def run_arguments(self) -> tuple[str, ...]:
        """What makes the program a daemon."""

    @abstractmethod
    async def is_up(self) -> bool: ...

    @property
    def node_id(self) -> NodeId:
        return self.key.node_id

    @property
    def env(self) -> dict[str, str]:
        env = environment(PASSED_ON) | {
            "HOME": str(self.datadir),
            "YAGNA_DATADIR": str(self.datadir),
            "YAGNA_API_URL": self.api_url,
            "GSB_URL": self.gsb_url,
            "YA_NET_BIND_URL": f"udp://{self.bind[0]}:{self.bind[1]}",
            "YAGNA_AUTOCONF_APPKEY": self.app_key,
            "YAGNA_AUTOCONF_ID_SECRET": self.key.secret_bytes().hex(),
        }
        if self.relay is not None:
            env["YA_NET_RELAY_HOST"] = f"{self.relay[0]}:{self.relay[1]}"
        return env | self.extra_env

    @property
    def log_path(self) -> Path:
        return self.datadir / "daemon.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    async def start(self) -> None:
        """Start and wait until its REST server is up, which comes last."""
        self.starts += 1
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.enter,
                self.program,
                *self.run_arguments,
                env=self.env,
                cwd=self.datadir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(START_S):
            while not await self.is_up():
                if self.process.returncode is not None:
                    raise AssertionError(f"{self.program} ended: {self.log[-3000:]}")
                await asyncio.sleep(0.05)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.is_running:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM, which a yagna needs more than 15 s to follow, then SIGKILL."""
        if self.process is None or not self.is_running:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            await self.kill()

    async def cli(self, *arguments: str) -> object:
        """Run a command of the program against the daemon; return its JSON."""
        code, stdout, stderr = await self.run(*arguments, "--json")
        assert code == 0, f"{self.program.name} {' '.join(arguments)}: {stderr}"
        return json.loads(stdout) if stdout.strip() else None

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        command = await asyncio.create_subprocess_exec(
            *self.enter,
            self.program,
            *arguments,
            env=self.env,
            cwd=self.datadir,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(CLI_S):
                stdout, stderr = await command.communicate()
        except TimeoutError:
            command.kill()
            await command.wait()
            raise
        return command.returncode or 0, stdout.decode(), stderr.decode()


AnyDaemon = TypeVar("AnyDaemon", bound=Daemon)


@asynccontextmanager
async def running(daemon: AnyDaemon) -> AsyncIterator[AnyDaemon]:
    """Run a daemon for the block; its log is printed when the block fails."""
    try:
        await daemon.start()
        yield daemon
    except BaseException:
        print(daemon.log[-8000:])  # noqa: T201
        raise
    finally:
        await daemon.kill()
        shutil.rmtree(daemon.gsb_dir, ignore_errors=True)
