"""Runs the real yagna 0.17.6 as a subprocess with a data directory of its own.

async with real_yagna(tmp_path, relay.address) as yagna:
    rows = await yagna.cli("net", "ping", node_id)
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.ids import NodeId
from shem.kernel.world import SystemRng

START_S = 90
CLI_S = 40
STOP_S = 15
NOWHERE = "http://127.0.0.1:9"
NO_RELAY = ("127.0.0.1", 9)
"""Without a relay's address a yagna searches the DNS for one, for ever."""
CHAINS = (
    "MAINNET",
    "HOODI",
    "SEPOLIA",
    "HOLESKY",
    "GOERLI",
    "RINKEBY",
    "POLYGON",
    "POLYGON_MAINNET",
    "MUMBAI",
    "AMOY",
)


def yagna_binary() -> Path:
    found = Path(sys.executable).parent / "yagna"
    if not found.exists():
        pytest.skip("yagna is not installed: pip install golem-node==0.17.6")
    return found


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class RealYagna:
    """One daemon; `start` and `kill` may alternate, its data and its ports stay."""

    datadir: Path
    relay: tuple[str, int] | None
    key: PrivateKey = field(default_factory=lambda: PrivateKey.generate(SystemRng()))
    app_key: str = "interop0000app0key"
    extra_env: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        self.datadir.mkdir(parents=True, exist_ok=True)
        # A unix socket's path must be short.
        self.gsb_dir = Path(tempfile.mkdtemp(prefix="gsb", dir="/tmp"))
        self.api_port = free_port()
        self.api_url = f"http://127.0.0.1:{self.api_port}"
        self.gsb_url = f"unix:{self.gsb_dir}/gsb.sock"
        self.bind = ("127.0.0.1", free_port(socket.SOCK_DGRAM))

    @property
    def node_id(self) -> NodeId:
        return self.key.node_id

    @property
    def env(self) -> dict[str, str]:
        env = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
        env |= {f"{chain}_GETH_ADDR": NOWHERE for chain in CHAINS}
        env |= {
            "HOME": str(self.datadir),
            "YAGNA_DATADIR": str(self.datadir),
            "YAGNA_API_URL": self.api_url,
            "GSB_URL": self.gsb_url,
            "YA_NET_BIND_URL": f"udp://{self.bind[0]}:{self.bind[1]}",
            "YAGNA_AUTOCONF_APPKEY": self.app_key,
            "YAGNA_AUTOCONF_ID_SECRET": self.key.secret_bytes().hex(),
            "YA_CONSENT_STATS": "deny",
            "PAYMENT_SHUTDOWN_TIMEOUT_SECS": "1",
            "RUST_LOG": "info,trust_dns=off",
        }
        host, port = self.relay or NO_RELAY
        return env | {"YA_NET_RELAY_HOST": f"{host}:{port}"} | self.extra_env

    @property
    def log(self) -> str:
        return (self.datadir / "yagna.log").read_text(errors="replace")

    async def start(self) -> None:
        """Start and wait until its REST server is up, which comes last."""
        with (self.datadir / "yagna.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                yagna_binary(),
                "service",
                "run",
                "--disable-metrics-push",
                env=self.env,
                cwd=self.datadir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(START_S):
            while not await self._answers():
                if self.process.returncode is not None:
                    raise AssertionError(f"yagna ended: {self.log[-3000:]}")
                await asyncio.sleep(0.2)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM, which a yagna needs more than 15 s to follow, then SIGKILL."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            await self.kill()

    async def cli(self, *arguments: str) -> object:
        """Run a yagna command against the daemon; return its JSON."""
        code, stdout, stderr = await self._run(*arguments, "--json")
        assert code == 0, f"yagna {' '.join(arguments)}: {stderr}"
        return json.loads(stdout) if stdout.strip() else None

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.api_port)
        except OSError:
            return False
        writer.close()
        return True

    async def _run(self, *arguments: str) -> tuple[int, str, str]:
        command = await asyncio.create_subprocess_exec(
            yagna_binary(),
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


@asynccontextmanager
async def real_yagna(datadir: Path, relay: tuple[str, int] | None, **settings: object):
    """Run a yagna for the block; its log is printed when the block fails."""
    yagna = RealYagna(datadir, relay, **settings)
    try:
        await yagna.start()
        yield yagna
    except BaseException:
        print(yagna.log[-8000:])  # noqa: T201
        raise
    finally:
        await yagna.kill()
        shutil.rmtree(yagna.gsb_dir, ignore_errors=True)
