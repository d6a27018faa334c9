"""Where a program of the devnet lives: on this machine's loopback, or on a host of the internet.

A host has an address of its own, which others reach it by, and its loopback is its own too: a REST
API there is reached from outside through a door, under the same address as inside. Unix sockets and
files are those of this machine everywhere.
"""

import contextlib
import socket
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from shem.devnet.door import Door
from shem.devnet.internet import Host, Internet

LOOPBACK_ADDRESS: Final = "127.0.0.1"
ANY_ADDRESS: Final = "0.0.0.0"


class Place(Protocol):
    """Where a program lives."""

    @property
    def address(self) -> str:
        """How others reach what listens here."""

    @property
    def bind(self) -> str:
        """Return the address to listen at, which outlives a change of `address`."""

    @property
    def enter(self) -> Sequence[str]:
        """What comes before a command that is to run here."""

    def door(self, port: int) -> AbstractAsyncContextManager[object]:
        """Make a loopback port of this place reachable at ours, for the block."""

    def listen(self) -> socket.socket:
        """Return a TCP socket that listens here."""


@dataclass(frozen=True, slots=True)
class Loopback:
    """This machine, without a network."""

    address: str = LOOPBACK_ADDRESS
    bind: str = LOOPBACK_ADDRESS
    enter: Sequence[str] = ()

    def door(self, port: int) -> AbstractAsyncContextManager[object]:
        del port
        return contextlib.nullcontext()

    def listen(self) -> socket.socket:
        return _listening(self.bind)


@dataclass(frozen=True, slots=True)
class OnHost:
    """A host of the userland internet."""

    host: Host
    bind: str = ANY_ADDRESS

    @property
    def address(self) -> str:
        return self.host.address

    @property
    def enter(self) -> Sequence[str]:
        return self.host.space.enter

    def door(self, port: int) -> AbstractAsyncContextManager[object]:
        return Door(self.host, port)

    def listen(self) -> socket.socket:
        with self.host.space.entered():
            return _listening(self.bind)


@dataclass(frozen=True, slots=True)
class Places:
    """Where each program of a devnet lives; `web` is where its package is served."""

    relay: Place = field(default_factory=Loopback)
    requestor: Place = field(default_factory=Loopback)
    provider: Place = field(default_factory=Loopback)
    web: Place = field(default_factory=Loopback)


def places_on(net: Internet | None) -> Places:
    """Give each program a host of its own; without an internet, loopback."""
    if net is None:
        return Places()
    return Places(*(OnHost(net.host(name)) for name in ("relay", "requestor", "provider", "web")))


def _listening(address: str) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.bind((address, 0))
        opened.listen()
    except OSError:
        opened.close()
        raise
    opened.setblocking(False)
    return opened
