"""Runs our node as a process; it and a `RealYagna` can take each other's place."""

import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shem.kernel.errors import ShemError
from shem.rest.client import RestClient
from tests.interop.daemon import Daemon, running

SHEM = Path(sys.executable).with_name("shem")


@dataclass
class OurNode(Daemon):
    """One node of ours."""

    @property
    def program(self) -> Path:
        return SHEM

    @property
    def run_arguments(self) -> tuple[str, ...]:
        return ("node", "run")

    async def is_up(self) -> bool:
        try:
            async with RestClient(self.api_url, self.app_key) as rest:
                return (await rest.net.status()).sessions > 0
        except ShemError:
            return False


def our_node(
    datadir: Path, relay: tuple[str, int], **settings: Any
) -> AbstractAsyncContextManager[OurNode]:
    """Run a node for the block; its log is printed when the block fails."""
    return running(OurNode(datadir, relay, **settings))
