"""Runs the real yagna 0.17.6 as a subprocess with a data directory of its own.

async with real_yagna(tmp_path, relay.address) as yagna:
    rows = await yagna.cli("net", "ping", node_id)
"""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.daemon import Daemon, running

NOWHERE = "http://127.0.0.1:9"
NO_RELAY = {"YA_NET_RELAY_HOST": "127.0.0.1:9"}
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


@dataclass
class RealYagna(Daemon):
    """One yagna."""

    @property
    def program(self) -> Path:
        return yagna_binary()

    @property
    def run_arguments(self) -> tuple[str, ...]:
        return ("service", "run", "--disable-metrics-push")

    @property
    def env(self) -> dict[str, str]:
        env = {f"{chain}_GETH_ADDR": NOWHERE for chain in CHAINS} | NO_RELAY
        return env | {
            "YA_CONSENT_STATS": "deny",
            "PAYMENT_SHUTDOWN_TIMEOUT_SECS": "1",
            "RUST_LOG": "info,trust_dns=off",
            **super().env,
        }

    async def is_up(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.api_port)
        except OSError:
            return False
        writer.close()
        return True


def real_yagna(
    datadir: Path, relay: tuple[str, int] | None, **settings: Any
) -> AbstractAsyncContextManager[RealYagna]:
    """Run a yagna for the block; its log is printed when the block fails."""
    return running(RealYagna(datadir, relay, **settings))
