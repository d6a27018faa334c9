"""The life of a small net, drawn from one seed: bad times, then calm.

In bad times nodes talk while datagrams get lost, doubled and reordered, ways are cut, nodes and the
relay stop, crash, sleep and move, and in some lives somebody forges packets. The ledger judges what
arrives. Then all faults end, and everybody has to be reached by everybody within `CALM_S`, and all
that was sent on streams to arrive, unless the sender knows of a loss.
"""

from dataclasses import dataclass

from shem.kernel.config import Encryption
from shem.kernel.world import SeededRng
from shem.net.types import Channel
from tests.sim.net_foe import Foe, WatchedNetwork
from tests.sim.net_ledger import STREAMS, Ear, Ledger
from tests.sim.net_world import RELAY, SimNode, SimRelay, Weather, host, new_key

CALM_S = 20.0
"""How soon after the last fault everybody hears everybody."""
DRAIN_S = 30.0
"""How soon after that nothing is on its way."""
ASK_AGAIN_S = 0.5
GIVEN_S = 1.0
"""In a new life, before the first fault."""

OFF, PREFERRED, REQUIRED = Encryption.OFF, Encryption.PREFERRED, Encryption.REQUIRED
ALIKE = ((OFF,), (PREFERRED,), (PREFERRED,), (REQUIRED,))
MIXED = ((OFF, PREFERRED), (PREFERRED, REQUIRED), (OFF, PREFERRED, REQUIRED))
CLEAR = Weather(delay_s=0.01, jitter_s=0.01)


@dataclass(frozen=True)
class Shape:
    """One kind of life."""

    nodes: int = 2
    policies: tuple = ALIKE
    """Of which one is drawn; nodes take its entries in turns."""
    steps: int = 5
    sizes: tuple = (0, 0, 40, 400, 3_000)
    is_hostile: bool = False
    weight: int = 1


SHAPES = {
    "pair": Shape(weight=7),
    "crowd": Shape(nodes=3, steps=3, weight=1),
    "mixed": Shape(nodes=3, policies=MIXED, steps=3, weight=1),
    "bulk": Shape(steps=3, sizes=(400, 3_000, 30_000), weight=1),
    "hostile": Shape(policies=((REQUIRED,),), is_hostile=True, steps=4, weight=2),
}


LONG_FROM = 1_000_000
"""Lives of seeds from here on, which no test run has, are longer by this factor:"""
LONG = 4


class Unreached(AssertionError):
    """All faults have ended, and something still does not work."""


class Life:
    """One life; `live` raises when a promise is broken."""

    def __init__(self, seed):
        self.choice = SeededRng(seed)
        self.length = LONG if seed >= LONG_FROM else 1
        self.shape_name = self._weighted([(each.weight, n) for n, each in SHAPES.items()])
        self.shape = SHAPES[self.shape_name]
        self.network = WatchedNetwork(seed + 1, self._weather())
        self.tell = lambda text: None
        """Gets what happens, as text."""
        self.foe = None

    def live(self):
        self._begin()
        for _ in range(self.shape.steps * self.length):
            self._step()
        self._calm()
        self._drain()

    # --- the beginning

    def _begin(self):
        network, choice, shape = self.network, self.choice, self.shape
        policies = self._any(shape.policies)
        self.policies = {}
        self.ledger = Ledger(network, self._may_double, self._may_talk)
        network.refusals = self._any((0.0, 0.0, 0.5))
        self.relay = SimRelay(network)
        self.nodes = [
            self._born(number, policies[number % len(policies)]) for number in range(shape.nodes)
        ]
        self.addresses = shape.nodes
        if shape.is_hostile:
            self.nodes.append(self._born(200, REQUIRED))
            self.foe = Foe(network, SeededRng(choice.below(1 << 30)), self.nodes[-1], self.nodes)
        self.tell(f"{self.shape_name}: {[str(node.node_id) for node in self.nodes]}")
        network.run_for(GIVEN_S * choice.unit())

    def _born(self, number, policy):
        key = new_key(self.network)
        self.policies[key.node_id] = policy
        is_nat = self.choice.below(3) == 0
        ear = Ear(self.ledger, key.node_id)
        return self._run(
            SimNode(self.network, key, host(number), is_nat=is_nat, heard=ear, encryption=policy)
        )

    @staticmethod
    def _run(node):
        node.heard.process = node
        return node

    def _may_double(self, sender, receiver):
        return REQUIRED not in (self.policies[sender], self.policies[receiver])

    def _weather(self):
        return Weather(
            loss=self._any((0.0, 0.0, 0.02, 0.1, 0.3)),
            duplicates=self._any((0.0, 0.0, 0.05, 0.2)),
            delay_s=self._any((0.001, 0.01, 0.05)),
            jitter_s=self._any((0.0, 0.01, 0.05, 0.3)),
        )

    # --- bad times

    def _step(self):
        network = self.network
        for _ in range(1 + self.choice.below(3)):
            self._weighted(EVENTS)(self)
        if self.foe:
            for _ in range(self.choice.below(12)):
                network.at(network.now + 2 * self.choice.unit(), self._be_wicked)
        network.run_for(self._any((0.0, 0.02, 0.3, 1.0, 3.0, 8.0)) * self.choice.unit())

    def _be_wicked(self):
        if self.foe:
            self.foe.act()

    def _talk(self):
        sender, receiver = self._two()
        channel = self._any(tuple(Channel))
        for _ in range(self._any((1, 1, 3, 10))):
            self._say(sender, receiver, channel)

    def _say(self, sender, receiver, channel):
        if not sender.is_alive or sender.is_paused:
            return
        size = self._any(self.shape.sizes)
        if channel is Channel.UNRELIABLE:
            size = min(size, 400)
        message = self.ledger.new_message(size)
        # Noted first: it may arrive while it is said.
        self.ledger.said(sender, receiver.node_id, channel, message)
        if not sender.say(receiver.node_id, channel, message) and channel in STREAMS:
            self.ledger.unsay(sender, receiver.node_id, channel, message)

    def _restart(self):
        number = self.choice.below(len(self.nodes))
        node = self.nodes[number]
        if not node.is_alive:
            return
        node.die()
        self.tell(f"{node.node_id} dies")
        self._later(self._any((0.0, 0.0, 0.5, 4.0)), lambda: self._revive(number))

    def _revive(self, number):
        node = self.nodes[number]
        if not node.is_alive:
            address = self._any((node.address, self._new_address()))
            self.tell(f"{node.node_id} starts at {address}")
            self.nodes[number] = self._run(node.restart(address))

    def _move(self):
        node, address = self._any(self.nodes), self._new_address()
        if not node.is_alive:
            return
        self.tell(f"{node.node_id} moves to {address}")
        if self.choice.below(2) and not node.is_paused:
            node.see_move(address)
        else:
            node.move(address)

    def _pause(self):
        node = self._any(self.nodes)
        if node.is_alive and not node.is_paused:
            self.tell(f"{node.node_id} sleeps")
            node.pause()
            self._later(self._any((0.3, 3.0, 12.0)), lambda: self._wake(node))

    def _wake(self, node):
        if node.is_alive and node.is_paused:
            self.tell(f"{node.node_id} wakes up")
            node.go_on()

    def _leave_peer(self):
        one, two = self._two()
        if one.is_alive and not one.is_paused:
            self.tell(f"{one.node_id} disconnects from {two.node_id}")
            one.core.disconnect(two.node_id)
            one.pump()

    def _replace_relay(self):
        self.tell("the relay crashes")
        self.relay = self.relay.restart()

    def _relieve_relay(self):
        self.tell("the relay is relieved")
        self.relay = self.relay.relieve(self._any((0.0, 0.3, 3.0)) * self.choice.unit())

    def _cut(self):
        network = self.network
        one, two = (node.address[0] for node in self._two())
        ways = self._any(
            (
                {(one, two)},
                {(one, two), (two, one)},
                {(one, RELAY[0]), (RELAY[0], one)},
                {(one, RELAY[0])},
                {(one, any_) for any_ in (two, RELAY[0])}
                | {(any_, one) for any_ in (two, RELAY[0])},
            )
        )
        self.tell(f"cut: {sorted(ways)}")
        network.barred |= ways
        self._later(self._any((0.5, 4.0, 15.0)), lambda: network.barred.difference_update(ways))

    def _forget_ways(self):
        """The router before a node forgets whom it has spoken to."""
        self._any(self.nodes)._spoken_to.clear()

    def _change_weather(self):
        self.network.weather = self._weather()
        self.tell(f"{self.network.weather}")

    # --- calm

    def _calm(self):
        network = self.network
        self.tell("calm")
        if self.foe:
            self.foe.stop()
            self.foe = None
        network.weather = CLEAR
        network.barred.clear()
        for number, node in enumerate(self.nodes):
            self._wake(node)
            self._revive(number)
        self.calm_at = network.now
        wanted = [
            (one, two, channel)
            for one in self.nodes
            for two in self.nodes
            if one is not two and self._may_talk(one.node_id, two.node_id)
            for channel in (Channel.UNRELIABLE, self._any(STREAMS))
        ]
        while wanted := [each for each in wanted if not self._has_heard(*each)]:
            if network.now - self.calm_at >= CALM_S:
                missing = [f"{c} {one.node_id} to {two.node_id}" for one, two, c in wanted]
                raise Unreached(f"after {CALM_S} s of calm: {'; '.join(missing)}")
            for one, two, channel in wanted:
                self._say(one, two, channel)
            network.run_until(lambda w=wanted: all(self._has_heard(*e) for e in w), ASK_AGAIN_S)
        self.calm_s = network.now - self.calm_at

    def _has_heard(self, one, two, channel):
        return self.ledger.has_heard(one.node_id, two.node_id, channel, self.calm_at)

    def _may_talk(self, one, two):
        return {self.policies[one], self.policies[two]} != {OFF, REQUIRED}

    def _drain(self):
        """All that somebody believes to have sent arrives."""
        missed = self.ledger.missed(self.nodes)
        end = self.network.now + DRAIN_S
        while missed and self.network.now < end:
            self.network.run_for(ASK_AGAIN_S)
            missed = self.ledger.missed(self.nodes)
        if missed:
            raise Unreached(f"lost without a word: {missed[:3]}")

    # --- choosing

    def _two(self):
        one = self.choice.below(len(self.nodes))
        two = self.choice.below(len(self.nodes) - 1)
        return self.nodes[one], self.nodes[two + (two >= one)]

    def _new_address(self):
        self.addresses += 1
        return host(self.addresses)

    def _later(self, after_s, fn):
        self.network.at(self.network.now + after_s * self.choice.unit(), fn)

    def _any(self, things):
        return things[self.choice.below(len(things))]

    def _weighted(self, weighted):
        at = self.choice.below(sum(weight for weight, _ in weighted))
        for weight, thing in weighted:
            at -= weight
            if at < 0:
                return thing
        raise AssertionError


EVENTS = [
    (12, Life._talk),
    (3, Life._restart),
    (3, Life._move),
    (2, Life._pause),
    (1, Life._leave_peer),
    (1, Life._replace_relay),
    (1, Life._relieve_relay),
    (3, Life._cut),
    (1, Life._forget_ways),
    (1, Life._change_weather),
]
