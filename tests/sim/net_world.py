"""A whole hybrid net on a virtual clock: relay, nodes, and a network that loses and reorders.

Everything random comes from one seed, so that a failing seed can be run again alone.
"""

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count

from shem.identity.keys import PrivateKey
from shem.kernel.world import SeededRng
from shem.net import outputs as out
from shem.net import streams as st
from shem.net.core import NodeCore
from shem.net.streams import Streams
from shem.net.types import Channel
from shem.relay.core import RelayCore, SaveSlot, SendCheck, SendDatagram
from shem.relay.slots import slot_entry
from shem.relay.snapshot import encode_snapshot, restore_snapshot
from shem.wire.forward import UNRELIABLE, decode_unreliable, encode_unreliable

RELAY = ("10.0.0.1", 7477)
RELAY_CHECK = ("10.0.0.1", 7478)
UNREAD_MAX = 256
"""Datagrams that wait for a process that does not run: what a socket buffer holds."""
UNREAD_MAX = 256
"""Datagrams that wait for a process that does not run: what a socket buffer holds."""


@dataclass
class Weather:
    """How bad the network is, as probabilities and seconds."""

    loss: float = 0.0
    duplicates: float = 0.0
    delay_s: float = 0.01
    jitter_s: float = 0.0


class Network:
    """Virtual time, and datagrams under way."""

    def __init__(self, seed, weather=None):
        self.rng = SeededRng(seed)
        self.weather = weather or Weather()
        self.now = 1000.0
        self.hosts = {}
        self.refused = {}
        """Who is told by ICMP that nobody is at the address it sent to, by address."""
        self.cut = set()
        self.barred = set()
        """Ways between two hosts that are cut, in one direction each."""
        self.refusals = 0.0
        """How likely such a word comes back."""
        self._events = []
        self._order = count()
        self._one_shot_ports = count(40_000)

    def at(self, when, fn):
        heapq.heappush(self._events, (when, next(self._order), fn))

    def send(self, data, source, target):
        weather = self.weather
        way = (source[0], target[0])
        if source[0] in self.cut or target[0] in self.cut or way in self.barred:
            return
        copies = 1 + (self.rng.unit() < weather.duplicates)
        for _ in range(copies):
            if self.rng.unit() < weather.loss:
                continue
            delay = weather.delay_s + self.rng.unit() * weather.jitter_s
            self.at(self.now + delay, lambda: self._arrive(data, source, target))

    def send_one_shot(self, data, host, target):
        self.send(data, (host, next(self._one_shot_ports)), target)

    def run_until(self, condition, limit_s):
        """Advance until the condition holds; False when it does not in time."""
        end = self.now + limit_s
        while not condition():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return condition()
            self.now, _, fn = heapq.heappop(self._events)
            fn()
        return True

    def run_for(self, seconds):
        self.run_until(lambda: False, seconds)

    def _arrive(self, data, source, target):
        if receiver := self.hosts.get(target):
            receiver(data, source)
        elif (told := self.refused.get(source)) and self.rng.unit() < self.refusals:
            self.at(self.now + self.weather.delay_s, lambda: told(target))


class _Machine:
    """Keeps one timer event per host, and none after its death."""

    def __init__(self, network):
        self.network = network
        self.is_alive = True
        self._armed = None

    def arm(self, deadline):
        deadline = max(deadline, self.network.now)
        if self._armed is not None and self._armed <= deadline:
            return
        self._armed = deadline
        self.network.at(deadline, lambda: self._fire(deadline))

    def _fire(self, deadline):
        if not self.is_alive or self._armed != deadline:
            return
        self._armed = None
        self.tick()

    def die(self):
        self.is_alive = False


class SimRelay(_Machine):
    """The relay core on the virtual network."""

    def __init__(self, network, slots=()):
        super().__init__(network)
        self.slots = list(slots)
        self.core = RelayCore(network.rng, slots=self.slots, difficulty=1, now=network.now)
        network.hosts[RELAY] = self._receive
        network.hosts[RELAY_CHECK] = self._receive_check
        self.pump()

    def restart(self):
        """Lose everything but the slots."""
        self.die()
        return SimRelay(self.network, self.slots)

    def relieve(self, away_s):
        """Stop in good order, and start again after this time."""
        self.die()
        snapshot = encode_snapshot(self.core.directory, self.network.now, self.network.now)
        for address in (RELAY, RELAY_CHECK):
            del self.network.hosts[address]
        self.network.run_for(away_s)
        again = SimRelay(self.network, self.slots)
        again.restored = restore_snapshot(
            snapshot, again.core.directory, self.network.now, self.network.now
        )
        return again

    def tick(self):
        self.core.tick(self.network.now)
        self.pump()

    def _receive(self, data, source):
        self.core.receive(data, source, self.network.now)
        self.pump()

    def _receive_check(self, data, source):
        self.core.receive_check(data, source, self.network.now)
        self.pump()

    def pump(self):
        for output in self.core.outputs():
            match output:
                case SendDatagram(data, address):
                    self.network.send(data, RELAY, address)
                case SendCheck(data, address):
                    self.network.send(data, RELAY_CHECK, address)
                case SaveSlot(node_id):
                    self.slots.append(slot_entry(node_id))
        self.arm(self.core.next_deadline())


@dataclass
class Heard:
    """What a node's owner got to know; survives the node."""

    messages: dict = field(default_factory=lambda: defaultdict(list))
    lost: list = field(default_factory=list)
    up: list = field(default_factory=list)

    def message(self, sender, channel, message):
        self.messages[sender, channel].append(message)

    def stream_lost(self, peer, channel, reason):
        self.lost.append((peer, channel, reason))


class SimNode(_Machine):
    """The cores of a node on the virtual network."""

    def __init__(self, network, key, address, *, is_nat=False, heard=None, **settings):
        super().__init__(network)
        self.key = key
        self.address = address
        self.is_nat = is_nat
        self.heard = heard or Heard()
        self.is_paused = False
        self._spoken_to = set()
        self._unread = []
        self.settings = settings
        self.core = NodeCore(
            network.rng, [key], relay=RELAY, own_addresses=frozenset({address}), **settings
        )
        self.streams = Streams(key.node_id, network.rng)
        self._listen()
        self.core.start(network.now)
        self.pump()

    @property
    def node_id(self):
        return self.key.node_id

    def _listen(self):
        self.network.hosts[self.address] = self._receive
        self.network.refused[self.address] = self._on_refused

    def _leave(self):
        for book in (self.network.hosts, self.network.refused):
            book.pop(self.address, None)

    def die(self):
        super().die()
        self._leave()

    def restart(self, address=None):
        """Die without a word and come back empty, at the same address unless told another."""
        self.die()
        return SimNode(
            self.network,
            self.key,
            address or self.address,
            is_nat=self.is_nat,
            heard=self.heard,
            **self.settings,
        )

    def move(self, address):
        """Get another address; the process lives on."""
        self._leave()
        self.address = address
        self._spoken_to.clear()
        self._listen()

    def see_move(self, address):
        """Get another address and notice it, as `net.service` does."""
        self.move(address)
        peers = {session.address for session in self.core.router.sessions}
        self.core.on_network_changed(peers | {RELAY}, frozenset(), self.network.now)
        self.pump()

    def pause(self):
        """Stop running for a while; what arrives waits."""
        self.is_paused = True

    def go_on(self):
        self.is_paused = False
        unread, self._unread = self._unread, []
        for data, source in unread:
            self._receive(data, source)
        self.tick()

    def say(self, target, channel, message):
        """Send a message, or begin to make a route; tell whether it is on its way."""
        now = self.network.now
        is_ready = self.core.is_ready(target, now)
        if channel is Channel.UNRELIABLE:
            self.core.send(target, UNRELIABLE, encode_unreliable(message), now)
        elif is_ready:
            self.streams.send(target, channel, message, now)
        else:
            self.core.connect(target, now)
        self.pump()
        return is_ready

    def has_route(self, target):
        return self.core.is_ready(target, self.network.now)

    def tick(self):
        if self.is_paused:
            return
        self.core.tick(self.network.now)
        self.streams.tick(self.network.now)
        self.pump()

    def _receive(self, data, source):
        if not self.is_alive or (self.is_nat and source not in self._spoken_to):
            return
        if self.is_paused:
            if len(self._unread) < UNREAD_MAX:
                self._unread.append((data, source))
            return
        self.core.receive(data, source, self.network.now)
        self.pump()

    def _on_refused(self, address):
        if self.is_alive and not self.is_paused:
            self.core.on_refused(address, self.network.now)
            self.pump()

    def pump(self):
        while True:
            decisions = self.core.outputs()
            for decision in decisions:
                self._carry_out(decision)
            packets = self.streams.outputs()
            for packet in packets:
                self._carry_stream(packet)
            if not decisions and not packets:
                break
        deadline = self.core.next_deadline()
        streams = self.streams.next_deadline()
        self.arm(deadline if streams is None else min(deadline, streams))

    def _carry_out(self, output):
        network = self.network
        match output:
            case out.SendDatagram(data, address):
                self._spoken_to.add(address)
                network.send(data, self.address, address)
            case out.SendOneShot(data, address):
                network.send_one_shot(data, self.address[0], address)
            case out.DeliverPacket(peer, flags, payload):
                if flags & UNRELIABLE:
                    self.heard.message(peer.node_id, Channel.UNRELIABLE, decode_unreliable(payload))
                else:
                    self.streams.receive(peer.node_id, payload, network.now)
            case out.RouteShaken(node_id):
                self.streams.probe(node_id, network.now)
            case out.StreamsTainted(node_id):
                self.streams.drop_peer(node_id, network.now)
            case out.PeerUp(node_id):
                self.streams.resume(node_id, network.now)
                self.heard.up.append(node_id)

    def _carry_stream(self, output):
        match output:
            case st.SendPacket(peer, packet):
                self.core.send(peer, 0, packet, self.network.now)
            case st.DeliverMessage(peer, channel, message):
                self.heard.message(peer, channel, message)
            case st.StreamLost(peer, channel, reason):
                self.heard.stream_lost(peer, channel, reason)


def new_key(network):
    return PrivateKey.generate(network.rng)


def host(number):
    return (f"10.0.1.{number}", 11500)
