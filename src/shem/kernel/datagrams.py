"""The seam for datagrams: a UDP socket that hands over what arrived, in batches.

`asyncio.DatagramProtocol` costs four times as much per packet (docs/protocol/net.md §12), hence a
non-blocking socket under `add_reader`. Losing a datagram is normal: nothing here raises for one.
Who wants to know is told of addresses that refused one (by ICMP, which anybody can forge).
"""

import asyncio
import contextlib
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
REFUSALS_AT_ONCE_MAX: Final = 64
PENDING_ERRORS_MAX: Final = 8
"""Tries to send a datagram, each of which may fail for an earlier one's ICMP error."""
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
"""Linux: keep ICMP errors, each with the address that it is about (linux/in.h, linux/in6.h)."""

log = structlog.get_logger()


class DatagramSocket:
    """One bound UDP socket; `on_batch` gets lists of (data, source)."""

    def __init__(
        self,
        bind: Address,
        on_batch: Callable[[Batch], None],
        on_refused: Callable[[Address], None] | None = None,
    ) -> None:
        self._on_batch = on_batch
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Address]] = deque()
        self._socket = _open(bind)
        host, port = self._socket.getsockname()[:2]
        self.address: Address = (host, port)
        if on_refused is not None:
            _keep_refusals(self._socket)
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
                    self._send_despite(data, address, error)
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
        failed = False
        recvfrom = self._socket.recvfrom
        for _ in range(BATCH_MAX):
            try:
                data, source = recvfrom(DATAGRAM_MAX)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                failed = True  # a late ICMP error of some earlier datagram
                continue
            batch.append((data, source[:2]))
        if batch:
            self._on_batch(batch)
        if self._on_refused is not None:
            self._read_refusals(self._on_refused, failed=failed)

    def _read_refusals(self, on_refused: Callable[[Address], None], *, failed: bool) -> None:
        refused: dict[Address, None] = {}
        while len(refused) < REFUSALS_AT_ONCE_MAX and self._socket.fileno() >= 0:
            try:
                _, _, _, address = self._socket.recvmsg(0, 0, socket.MSG_ERRQUEUE)
            except OSError:
                break
            failed = True
            if address:
                refused[address[:2]] = None
        if failed:
            self._arm_again()
        for address in refused:
            on_refused(address)

    def _arm_again(self) -> None:
        """Go on after an error: uvloop stops to watch a socket that has one."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._loop.add_reader(self._socket, self._read)
        if self._unsent:
            self._loop.add_writer(self._socket, self._flush)

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
            self._send_despite(data, address, error)
        return True

    def _send_despite(self, data: bytes, address: Address, error: OSError) -> None:
        """Send after an error, which may have been an ICMP error of an earlier datagram."""
        if self._on_refused is not None:
            self._loop.call_soon(self._arm_again)
            for _ in range(PENDING_ERRORS_MAX):
                try:
                    self._socket.sendto(data, address)
                except OSError as another:
                    error = another
                else:
                    return
        _note_unsent(data, address, error)


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


def _keep_refusals(opened: socket.socket) -> None:
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_RECVERR)
        if opened.family is socket.AF_INET6
        else (socket.IPPROTO_IP, _IP_RECVERR)
    )
    if hasattr(socket, "MSG_ERRQUEUE"):
        with contextlib.suppress(OSError):
            opened.setsockopt(level, option, 1)


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
