"""The seam for the machine's own network: when something about links, addresses or routes changes.

The kernel tells by netlink (Linux; elsewhere nothing is told, and probing has to do). What has
changed is not read from its messages: whoever is told asks `source_towards` for what matters to it.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from shem.kernel.datagrams import Address

SETTLE_S: Final = 0.05
"""A change comes as several messages; they are told once, so long after the first."""
MESSAGE_MAX: Final = 65_536
MESSAGES_AT_ONCE_MAX: Final = 256
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, and RTMGRP_*_IFADDR and _ROUTE for IPv4 and IPv6 (linux/rtnetlink.h)."""

log = structlog.get_logger()


class LinkWatch:
    """Calls `on_change` shortly after something has changed, until it is closed."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._socket = _subscribe()
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._timer is not None:
            self._timer.cancel()

    def _read(self) -> None:
        assert self._socket is not None
        for _ in range(MESSAGES_AT_ONCE_MAX):
            try:
                self._socket.recv(MESSAGE_MAX)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # some messages did not fit: all the more has changed
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._on_change()


def source_towards(address: Address) -> str | None:
    """Return the own address that packets to `address` have; None when there is no way there."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(address)  # sends nothing
        except OSError:
            return None
        return str(asking.getsockname()[0])


def _subscribe() -> socket.socket | None:
    try:
        family, protocol = socket.AF_NETLINK, socket.NETLINK_ROUTE
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    except (AttributeError, OSError) as error:
        log.info("links.unwatched", reason=str(error))
        return None
    try:
        opened.bind((0, _GROUPS))
    except OSError as error:
        opened.close()
        log.info("links.unwatched", reason=str(error))
        return None
    return opened
