"""A place where ExeUnit processes run: the bus of a node, an agreement, the real package."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.bus.types import LOCAL_CALLER, Call
from shem.devnet import payload
from shem.kernel.config import GsbAddress
from shem.kernel.world import World
from shem.provider.descriptor import BUILT_IN
from shem.wire.flexbuffers import pack

ACTIVITY = "5efdcc4dfab3466dbc50af9cbb69bc42"
SCENE = "centre -0.7436 0.1318\nwidth 3 0.001\nsize 40 30\niterations 200\n"
ENDLESS = "centre 0 0\nwidth 0.1 0.1\nsize 1000 1000\niterations 10000000\n"
SETUP: list[dict[str, Any]] = [{"deploy": {}}, {"start": {"args": []}}]


def run(*args: str, stream: bool = False) -> dict[str, Any]:
    mode: dict[str, Any] = {"stream": {}} if stream else {"atEnd": {}}
    capture = {"stdout": mode, "stderr": {"atEnd": {}}}
    return {"run": {"entry_point": "mandel", "args": list(args), "capture": capture}}


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


@dataclass
class Daemon:
    """The node's side: a real bus socket, and a record of what was reported."""

    bus: Bus
    states: list[list[str | None]] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    usages: list[list[float]] = field(default_factory=list)

    async def set_state(self, _: Call, body: Any) -> None:
        self.states.append(body["state"]["state"])
        self.reasons.append(body["state"].get("reason"))

    async def set_usage(self, _: Call, body: Any) -> None:
        self.usages.append(body["usage"]["currentUsage"])

    async def request(self, method: str, **fields: Any) -> Any:
        address = f"/public/exeunit/{ACTIVITY}/{method}"
        body = {"activityId": ACTIVITY, **fields}
        return await self.bus.request(LOCAL_CALLER, address, body, timeout_s=30)

    async def exec(self, batch_id: str, *commands: dict[str, Any]) -> Any:
        return await self.request("Exec", batchId=batch_id, exeScript=list(commands), timeout=5.0)

    async def results(self, batch_id: str, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        found = await self.request(
            "GetExecBatchResults", batchId=batch_id, timeout=timeout_s, commandIndex=None
        )
        assert isinstance(found, list)
        return found

    async def run(self, batch_id: str, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        await self.exec(batch_id, *commands)
        return await self.results(batch_id)

    def events(self, batch_id: str) -> AsyncIterator[bytes]:
        address = f"/public/exeunit/{ACTIVITY}/StreamExecBatchResults"
        body = pack({"activity_id": ACTIVITY, "batch_id": batch_id})
        return self.bus.stream(LOCAL_CALLER, address, body, timeout_s=30)

    async def unit_is_bound(self) -> None:
        await until(lambda: self.bus.is_bound(f"/public/exeunit/{ACTIVITY}"))


class Site:
    """One directory with everything an ExeUnit needs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "bus.sock"
        self.work_dir = directory / "work"
        self.log = directory / "exe-unit.log"
        self.package = payload.write_package(directory)
        self.agreement = directory / "agreement.json"
        self._processes: list[asyncio.subprocess.Process] = []

    def write_agreement(
        self,
        *,
        lives_s: float = 3_600.0,
        counters: tuple[str, ...] = (),
        offer: dict[str, Any] | None = None,
        terms: dict[str, Any] | None = None,
        **demand: Any,
    ) -> None:
        expires_ms = World().clock.wall_ns() // 1_000_000 + int(lives_s * 1_000)
        comp = {
            "task_package": self.package.task_package,
            "expiration": expires_ms,
            **demand,
        }
        usage = ["golem.usage.cpu_sec", "golem.usage.duration_sec", *counters]
        offered = {"golem.com.usage.vector": usage, "golem.inf.mem.gib": 1.0, **(offer or {})}
        body = {
            "agreementId": "a" * 64,
            "demand": {"properties": {"golem": {"srv": {"comp": comp}}, **(terms or {})}},
            "offer": {"properties": offered},
        }
        self.agreement.write_text(json.dumps(body))

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Daemon]:
        bus = Bus()
        daemon = Daemon(bus)
        bus.serve("/local/activity/SetActivityState", daemon.set_state)
        bus.serve("/local/activity/SetActivityUsage", daemon.set_usage)
        async with SocketServer(bus, GsbAddress(path=self.socket), world=World()):
            yield daemon

    async def start(self, *options: str, **extra_env: str) -> asyncio.subprocess.Process:
        command = [*BUILT_IN.command, *options, "service-bus", ACTIVITY]
        command += ["/local/activity", "-a", str(self.agreement), "-w", str(self.work_dir)]
        command += ["-c", str(self.directory / "cache")]
        env = {**os.environ, "GSB_URL": f"unix:{self.socket}"}
        env |= {"SHEM_IMAGE_DIRS": str(self.directory), **extra_env}
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=env, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)
        return process

    async def kill_all(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    def ledger(self) -> list[str]:
        lines: list[str] = []
        for path in self.work_dir.glob("vol-*/ledger.txt"):
            lines += path.read_text().splitlines()
        return lines
