"""A userland internet: hosts are network namespaces, and one thread carries their packets.

    with internet(World()) as net:
        one, two = net.host("one"), net.host("two", behind_nat=True)
        net.weather = Weather(loss=0.1, duplicates=0.02, delay_s=(0.02, 0.06))
        net.cut(one); net.heal(one)
        one.move()                     # another address
        two.nat.rebind()               # other ports at its router

Every host has a TUN device `net0` whose other end is here. There is no way out: packets to
addresses nobody has are dropped, and hosts have no route to anything but `198.18.0.0/15`, or
`fd00:18::/32` when they are of the IPv6 kind. Draws may be seeded, but the order of packets is
real, so that runs repeat only statistically. Needs what `namespace.obstacle` asks for.
"""

import contextlib
import heapq
import os
import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from shem.devnet.namespace import DEVICE, Namespace, name_of
from shem.devnet.packets import Nat, destination_of, source_of
from shem.kernel.world import World

NETWORK: Final = "198.18.0.0/15"
NETWORK_6: Final = "fd00:18::/32"
PACKET_MAX: Final = 65_535
READ_AT_ONCE: Final = 64
TICK_S: Final = 0.5


@dataclass(slots=True)
class Weather:
    """What happens to packets between any two hosts."""

    loss: float = 0.0
    duplicates: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)


@dataclass(slots=True)
class Traffic:
    """What a host's packets came to."""

    sent: int = 0
    received: int = 0
    lost: int = 0


class Host:
    """One machine; `address` is how others see it."""

    def __init__(
        self, internet: "Internet", name: str, number: int, *, behind_nat: bool, ipv6: bool
    ) -> None:
        self.name = name
        self.space = Namespace(name_of(name))
        self.tun = -1
        self.is_cut = False
        self.is_deaf = False
        """Nothing reaches it; what it sends arrives."""
        self.is_mute = False
        """Nothing that it sends arrives; what is sent to it does."""
        self._is_up = True
        self.traffic = Traffic()
        self._internet = internet
        self._number = number
        self._moves = 0
        self.is_ipv6 = ipv6
        self.inner = self._nth_address()
        self.nat = Nat(f"198.19.{number}.1") if behind_nat else None
        try:
            self.tun = self.space.open_tun()
            self.space.ip(*self._raise())
        except BaseException:
            self.delete()
            raise

    @property
    def address(self) -> str:
        return self.nat.address if self.nat else self.inner

    def move(self) -> str:
        """Get another address as from another network: the old one goes first."""
        before = self.inner
        self._moves += 1
        self.inner = self._nth_address()
        self._internet.readdress()
        self.space.ip(f"address delete {before}/{self._bits} dev {DEVICE}", *self._raise())
        return self.address

    def link_down(self) -> None:
        """Pull the plug: the host sees it."""
        self._is_up = False
        self.space.ip(f"link set {DEVICE} down")

    def link_up(self) -> None:
        self._is_up = True
        self.space.ip(f"link set {DEVICE} up", self._route())

    def delete(self) -> None:
        if self.tun >= 0:
            os.close(self.tun)
        self.space.delete()

    def _nth_address(self) -> str:
        if self.is_ipv6:
            return f"fd00:18:{self._number:x}::{self._moves + 1:x}"
        return f"198.18.{self._number}.{self._moves + 1}"

    @property
    def _bits(self) -> int:
        return 128 if self.is_ipv6 else 32

    def _raise(self) -> tuple[str, ...]:
        at_once = " nodad" if self.is_ipv6 else ""
        address = f"address add {self.inner}/{self._bits} dev {DEVICE}{at_once}"
        return (address, self._route()) if self._is_up else (address,)

    def _route(self) -> str:
        network = NETWORK_6 if self.is_ipv6 else NETWORK
        return f"route replace {network} dev {DEVICE} src {self.inner}"


class Internet:
    """See the module; `internet()` makes one."""

    def __init__(self, world: World) -> None:
        self.weather = Weather()
        self._clock = world.clock
        self._rng = world.rng
        self.hosts: dict[str, Host] = {}
        self._by_address: dict[str, Host] = {}
        self._partitions: set[frozenset[str]] = set()
        self._later: list[tuple[float, int, Host, bytes]] = []
        self._order = count()
        self._poll = select.epoll()
        self._by_tun: dict[int, Host] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="internet", daemon=True)
        self.failure: Exception | None = None

    def host(self, name: str, *, behind_nat: bool = False, ipv6: bool = False) -> Host:
        """Add a host; a name is used once. Hosts of IPv6 and of IPv4 do not reach each other."""
        number = len(self.hosts) + 1
        host = Host(self, name, number, behind_nat=behind_nat, ipv6=ipv6)
        self.hosts[name] = host
        self.readdress()
        self._by_tun[host.tun] = host
        self._poll.register(host.tun, select.EPOLLIN)
        return host

    def cut(self, *hosts: Host) -> None:
        """Lose everything to and from these hosts; they see nothing of it."""
        for host in hosts:
            host.is_cut = True

    def heal(self, *hosts: Host) -> None:
        for host in hosts:
            host.is_cut = False

    def part(self, one: Host, other: Host) -> None:
        """Lose everything between these two alone."""
        self._partitions = self._partitions | {frozenset((one.name, other.name))}

    def join(self, one: Host, other: Host) -> None:
        self._partitions = self._partitions - {frozenset((one.name, other.name))}

    def readdress(self) -> None:
        self._by_address = {host.address: host for host in self.hosts.values()}

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop, and delete all hosts."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._poll.close()
        with contextlib.ExitStack() as stack:
            for host in self.hosts.values():
                stack.callback(host.delete)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                due = self._later[0][0] - self._clock.monotonic() if self._later else TICK_S
                for tun, _ in self._poll.poll(min(max(due, 0.0), TICK_S)):
                    self._read(self._by_tun[tun])
                self._deliver_due()
        except Exception as error:  # told by `internet`, which nobody can overlook
            self.failure = error

    def _read(self, sender: Host) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                packet = os.read(sender.tun, PACKET_MAX)
            except BlockingIOError:
                return
            except OSError:  # its link is down
                return
            self._carry(sender, packet)

    def _carry(self, sender: Host, packet: bytes) -> None:
        if source_of(packet) != sender.inner:
            return  # of an address it had
        sender.traffic.sent += 1
        if sender.nat:
            translated = sender.nat.outward(packet)
            if translated is None:
                return
            packet = translated
        receiver = self._by_address.get(destination_of(packet))
        if receiver is None or self._is_lost(sender, receiver):
            sender.traffic.lost += 1
            return
        self._launch(receiver, packet)
        if self._rng.unit() < self.weather.duplicates:
            self._launch(receiver, packet)

    def _is_lost(self, sender: Host, receiver: Host) -> bool:
        return (
            sender.is_cut
            or receiver.is_cut
            or sender.is_mute
            or receiver.is_deaf
            or frozenset((sender.name, receiver.name)) in self._partitions
            or self._rng.unit() < self.weather.loss
        )

    def _launch(self, receiver: Host, packet: bytes) -> None:
        shortest, longest = self.weather.delay_s
        if longest == 0:
            self._deliver(receiver, packet)
            return
        delay = shortest + (longest - shortest) * self._rng.unit()
        due = self._clock.monotonic() + delay
        heapq.heappush(self._later, (due, next(self._order), receiver, packet))

    def _deliver_due(self) -> None:
        now = self._clock.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, receiver, packet = heapq.heappop(self._later)
            if not receiver.is_cut:
                self._deliver(receiver, packet)

    def _deliver(self, receiver: Host, packet: bytes) -> None:
        if receiver.nat:
            translated = receiver.nat.inward(packet)
            if translated is None:
                return
            packet = translated
        try:
            os.write(receiver.tun, packet)
            receiver.traffic.received += 1
        except OSError:  # its link is down, or its queue is full
            receiver.traffic.lost += 1


@contextlib.contextmanager
def internet(world: World) -> Iterator[Internet]:
    """Have an internet for the block."""
    net = Internet(world)
    try:
        net.start()
        yield net
    finally:
        net.end()
    if net.failure is not None:
        raise net.failure
