"""One relay in a process of its own, with challenges that cost its visitors nothing.

`python -m tests.bench.lone_relay HOST:PORT STATE_DIR` prints where it listens and where its metrics
are, and serves until SIGTERM.
"""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from urllib.request import ProxyHandler, build_opener

import psutil

DIFFICULTY = 1

Address = tuple[str, int]


class LoneRelay:
    """The relay as its measurer sees it; it can be stopped and started again on its address."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.address: Address = ("127.0.0.1", 0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGTERM)

    def start(self) -> None:
        listen = "{}:{}".format(*self.address)
        command = [sys.executable, "-m", __spec__.name, listen, str(self._state_dir)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        host, port, metrics_host, metrics_port = self.process.stdout.readline().split()
        self.address = (host, int(port))
        self._status_url = f"http://{metrics_host}:{metrics_port}/status"
        self._seen = psutil.Process(self.process.pid)

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.communicate()

    @property
    def cpu_s(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def resident_bytes(self) -> int:
        return int(self._seen.memory_info().rss)

    def status(self) -> dict[str, Any]:
        with build_opener(ProxyHandler({})).open(self._status_url, timeout=10) as answer:
            return dict(json.load(answer))


def main() -> None:
    from shem.cli.lifetime import serve_until_stopped
    from shem.kernel import log
    from shem.kernel.config import parse_host_port
    from shem.kernel.world import World
    from shem.relay.service import Relay

    listen, state_dir = parse_host_port(sys.argv[1]), Path(sys.argv[2])

    async def serve(stop: asyncio.Event) -> None:
        relay = Relay(World(), listen, state_dir, difficulty=DIFFICULTY, metrics=("127.0.0.1", 0))
        async with relay:
            assert relay.metrics_address is not None
            print(*relay.address, *relay.metrics_address, flush=True)  # noqa: T201
            await stop.wait()

    log.configure()
    serve_until_stopped(serve)


if __name__ == "__main__":
    main()
