"""The seam for datagrams: a UDP socket that hands over what arrived, in batches.

`asyncio.DatagramProtocol` costs four times as much per packet (docs/protocol/net.md §12), hence a
non-blocking socket under `add_reader`. Losing a datagram is normal: nothing here raises for one.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

import structlog

from shem.kernel.errors import UsageError

Address = tuple[str, int]
Batch = list[tuple[bytes, Address]]

BATCH_MAX: Final = 64
"""Datagrams read per wake-up, so that timers and other sockets get their turn."""
DATAGRAM_MAX: Final = 65_535
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Asked of the kernel in both directions: a yagna bursts 128 KiB without pacing."""
UNSENT_MAX: Final = 1024
"""Datagrams kept while the kernel's buffer is full; the next ones are dropped."""

log = structlog.get_logger()


class DatagramSocket:
    """One bound UDP socket; `on_batch` gets lists of (data, source)."""

    def __init__(self, bind: Address, on_batch: Callable[[Batch], None]) -> None:
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Address]] = deque()
        self._socket = _open(bind)
        host, port = self._socket.getsockname()[:2]
        self.address: Address = (host, port)
        self._loop.add_reader(self._socket, self._read)

    def send(self, data: bytes, address: Address) -> None:
        """Send now, or when the kernel has room again; drop when that is too long a queue."""
        self.send_all(((data, address),))

    def send_all(self, datagrams: Iterable[tuple[bytes, Address]]) -> None:
        """Send several in their order, as `send` would."""
        if self._socket.fileno() < 0:
            return
        waiting = iter(datagrams)
        if not self._unsent:
            sendto = self._socket.sendto
            for data, address in waiting:
                try:
                    sendto(data, address)
                except (BlockingIOError, InterruptedError):
                    self._unsent.append((data, address))
                    self._loop.add_writer(self._socket, self._flush)
                    break
                except OSError as error:
                    _note_unsent(data, address, error)
        self._unsent.extend(islice(waiting, max(0, UNSENT_MAX - len(self._unsent))))

    def close(self) -> None:
        """Stop reading and close; what is still unsent is lost."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _read(self) -> None:
        batch: Batch = []
        recvfrom = self._socket.recvfrom
        for _ in range(BATCH_MAX):
            try:
                data, source = recvfrom(DATAGRAM_MAX)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # a late ICMP error of some earlier datagram
            batch.append((data, source[:2]))
        if batch:
            self._on_batch(batch)

    def _flush(self) -> None:
        while self._unsent:
            if not self._try_send(*self._unsent[0]):
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._socket)

    def _try_send(self, data: bytes, address: Address) -> bool:
        """Return False only when it is worth trying again."""
        try:
            self._socket.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            _note_unsent(data, address, error)
        return True


def send_once(data: bytes, address: Address) -> None:
    """Send one datagram from a port of its own."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one_shot:
        one_shot.setblocking(False)
        try:
            one_shot.sendto(data, address)
        except OSError as error:
            _note_unsent(data, address, error)


def _note_unsent(data: bytes, address: Address, error: OSError) -> None:
    log.debug("datagram.unsent", to=address, size=len(data), reason=str(error))


def _open(bind: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        opened.bind(bind)
    except OSError as error:
        opened.close()
        raise UsageError(f"cannot listen on UDP {bind[0]}:{bind[1]}: {error}") from error
    return opened
