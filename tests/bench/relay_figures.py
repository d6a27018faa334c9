"""The relay alone: what a datagram, a handshake and an idle session cost it, and its restarts.

`python -m tests.bench.relay_figures` (also a part of `python -m tests.bench`). The relay has a
process of its own, whose CPU time is the honest measure on a machine that does other things too.
"""

import os
import signal
import socket
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from shem.kernel.datagrams import BATCH_MAX
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.relay import limits
from shem.relay.core import RelayCore
from shem.relay.directory import RelaySession
from shem.wire.forward import encode_forward
from tests.bench.lone_relay import LoneRelay
from tests.bench.net_visitors import PING_S, Crowd, Visitor, busiest_second
from tests.bench.pair import show_one

PEERS = (1, 100, 10_000)
SENDERS = 8
"""As many as it takes to stay below what one session or host may send."""
SMALL = 64
"""Payload bytes: a GSB ping is about as long."""
FULL = 1_398
DATAGRAMS = 150_000
RETURNING = 2_000
BUFFER_BYTES = 4 << 20

Figures = dict[str, float]


def measure_relay() -> Figures:
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder, LoneRelay(Path(folder)) as relay:
        _forward(relay, SMALL, figures)
        _forward(relay, FULL, figures)
    with tempfile.TemporaryDirectory() as folder, LoneRelay(Path(folder)) as relay:
        _crowd(relay, figures)
    _core_alone(figures)
    with tempfile.TemporaryDirectory() as folder, LoneRelay(Path(folder)) as relay:
        _restarts(relay, figures)
    return figures


def _forward(relay: LoneRelay, size: int, figures: Figures) -> None:
    """Some senders in one process, a receiver in another, the relay in a third."""
    crowd = Crowd(relay.address, SENDERS + 1)
    crowd.register()
    *senders, receiver = crowd.visitors
    receiver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    before_s, before = relay.cpu_s, relay.status()["forwardedDatagrams"]
    child = _blaster(senders, [receiver] * SENDERS, size, DATAGRAMS)
    got, seconds = _count(receiver)
    os.waitpid(child, 0)
    crowd.close()
    forwarded = relay.status()["forwardedDatagrams"] - before
    cpu_s = relay.cpu_s - before_s
    what = f"relay, forwarding {size} B"
    figures[f"{what}: datagrams per second of its CPU"] = forwarded / cpu_s
    figures[f"{what}: datagrams delivered per second here"] = got / seconds


def _blaster(senders: list[Visitor], receivers: list[Visitor], size: int, count: int) -> int:
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            _blast(senders, receivers, size, count)
        os._exit(0)
    return child


def _blast(senders: list[Visitor], receivers: list[Visitor], size: int, count: int) -> None:
    """Send as fast as it goes, within what the relay lets a session send."""
    pairs = [
        (one.socket, encode_forward(one.session_id, other.slot, 1, bytes(size)), one.relay)
        for one, other in zip(senders, receivers, strict=True)
    ]
    for one in senders:
        one.socket.setblocking(True)
    for _ in range(max(1, count // len(pairs))):
        for sock, datagram, relay in pairs:
            sock.sendto(datagram, relay)


def _count(receiver: Visitor) -> tuple[int, float]:
    sock, buffer = receiver.socket, bytearray(4096)
    sock.settimeout(1.0)
    got = 0
    first = last = time.perf_counter()
    with suppress(TimeoutError):
        while True:
            sock.recv_into(buffer)
            got += 1
            if got == 1:
                first = time.perf_counter()
            elif got % 128 == 0:
                last = time.perf_counter()
    return got, max(last - first, 1e-9)


def _core_alone(figures: Figures) -> None:
    """The same without sockets: what of it is the relay's own work."""
    for peers in PEERS:
        core = RelayCore(SeededRng(1))
        for number in range(1, peers + 2):
            address = (f"10.0.{number // 200}.1", 1_000 + number)
            identity = (NodeId(f"0x{number:040x}"), bytes(64))
            session = RelaySession(number.to_bytes(16, "big"), address, (identity,), number, 0.0)
            core.directory.add(session)
            core.directory.register(session)
        sessions = tuple(core.directory.sessions.values())
        datagrams = [
            (encode_forward(one.session_id, other.slot, 1, bytes(SMALL)), one.address)
            for one, other in pairwise(sessions)
        ]
        datagrams *= -(-BATCH_MAX // peers)
        batches = [datagrams[at : at + BATCH_MAX] for at in range(0, len(datagrams), BATCH_MAX)]
        for batch in batches:
            core.receive_batch(batch, 1.0)
        rounds = max(1, DATAGRAMS // len(datagrams))
        begun = time.process_time()
        for number in range(rounds):
            for batch in batches:
                core.receive_batch(batch, 2.0 + number)
        cost = (time.process_time() - begun) / (rounds * len(datagrams))
        figures[f"relay, its own part of that at {peers} peers [µs]"] = cost * 1e6


def _crowd(relay: LoneRelay, figures: Figures) -> None:
    """Costs that could grow with the number of nodes."""
    Crowd(relay.address, 64).register()  # what the first visitors bring is not theirs
    bytes_before, cpu_before = relay.resident_bytes, relay.cpu_s
    crowd = Crowd(relay.address, PEERS[-1])
    crowd.register()
    cpu_s = relay.cpu_s - cpu_before
    per_session = (relay.resident_bytes - bytes_before) / PEERS[-1]
    figures[f"relay, memory per idle session at {PEERS[-1]} [KiB]"] = per_session / 1024
    figures["relay, handshakes per second of its CPU"] = PEERS[-1] / cpu_s
    for peers in PEERS:
        senders = crowd.visitors[:peers]
        receivers = senders[1:] + crowd.visitors[-1:]
        _blast(senders, receivers, SMALL, peers)  # the first one of each pair is remembered
        before_s, before = relay.cpu_s, relay.status()["forwardedDatagrams"]
        children = [
            _blaster(senders[part::2], receivers[part::2], SMALL, DATAGRAMS // 2)
            for part in range(min(peers, 2))
        ]
        for child in children:
            os.waitpid(child, 0)
        forwarded = relay.status()["forwardedDatagrams"] - before
        cost = (relay.cpu_s - before_s) / forwarded
        figures[f"relay, CPU per datagram at {peers} peers [µs]"] = cost * 1e6
    crowd.close()


def _restarts(relay: LoneRelay, figures: Figures) -> None:
    """What happens to the nodes when the relay is stopped, and when it crashes."""
    crowd = Crowd(relay.address, RETURNING)
    crowd.register()
    for number, what in ((signal.SIGTERM, "stopped"), (signal.SIGKILL, "killed")):
        for visitor in crowd.visitors:
            visitor.handshakes.clear()
        begun = time.monotonic()
        relay.stop(number)
        relay.start()
        up = time.monotonic()

        def all_are_back(since: float = up) -> bool:
            return all(v.slot and v.heard_at > since for v in crowd.visitors)

        crowd.live(2 * PING_S, until=all_are_back)
        back = time.monotonic()
        times = [at for visitor in crowd.visitors for at in visitor.handshakes]
        title = f"relay {what} under {RETURNING} nodes"
        figures[f"{title}: away [s]"] = up - begun
        figures[f"{title}: handshakes made anew"] = len(times)
        figures[f"{title}: of them in the busiest second"] = busiest_second(times)
        figures[f"{title}: until all were heard again [s]"] = back - up
    crowd.close()


if __name__ == "__main__":
    limits_text = f"a session may forward {limits.FORWARD_RATE_PER_S:.0f} datagrams/s"
    print(f"({limits_text}, a host {limits.HOST_FORWARD_RATE_PER_S:.0f})")  # noqa: T201
    show_one(measure_relay())
