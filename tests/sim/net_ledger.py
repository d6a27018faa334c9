"""What was said in a simulated net, and the judge of what arrives.

Whatever the network does, a message arrives only at whom it was meant for, as from whom it came,
whole, on a stream at most once and in order. A stream's message may be missed only when its sender
was told, or has died; it is then not asked for again.
"""

from collections import defaultdict
from dataclasses import dataclass

from shem.kernel.config import Encryption
from shem.kernel.errors import PeerError
from shem.net.types import Channel
from shem.wire import gsb
from shem.wire.forward import UNRELIABLE, encode_unreliable
from tests.sim.net_world import Heard

MARK = b"said "
STREAMS = (Channel.RELIABLE, Channel.TRANSFER)


class Unsafe(AssertionError):
    """Something happened that must never happen."""


@dataclass(slots=True, eq=False)
class _Said:
    number: int
    at: float
    process: object
    arrived: int = 0


class Ledger:
    """Keeps the book of one life.

    `may_double` tells between whom datagrams may arrive twice, `may_talk` who talks at all.
    """

    def __init__(self, network, may_double, may_talk):
        self._network = network
        self._may_double = may_double
        self._may_talk = may_talk
        self._said = defaultdict(dict)
        self._newest = {}
        self._told = defaultdict(float)
        self._count = 0

    def new_message(self, size):
        """Return a message that is like no other."""
        self._count += 1
        return MARK + f"{self._count} ".encode() + bytes([self._count % 251]) * size

    def said(self, process, target, channel, message):
        """Note a message that is on its way."""
        said = _Said(self._count, self._network.now, process)
        self._said[process.node_id, target, channel][message] = said

    def unsay(self, process, target, channel, message):
        """It was not taken: nobody need wait for it."""
        del self._said[process.node_id, target, channel][message]

    def arrived(self, sender, receiver, channel, message):
        """Judge a message."""
        said = self._said[sender, receiver, channel].get(message)
        where = f"on {channel} from {sender} to {receiver}"
        if said is None:
            raise Unsafe(f"{len(message)} bytes {where} that nobody said: {message[:20]!r}")
        if not self._may_talk(sender, receiver):
            raise Unsafe(f"message {said.number} {where}, which is against a policy")
        said.arrived += 1
        if said.arrived > 1 and (channel in STREAMS or not self._may_double(sender, receiver)):
            raise Unsafe(f"message {said.number} {where} arrived twice")
        if channel in STREAMS:
            lane = (said.process, receiver, channel)
            if self._newest.get(lane, 0) > said.number:
                raise Unsafe(f"message {said.number} {where} came after a later one")
            self._newest[lane] = said.number

    def told(self, process, peer, channel):
        """Note that a process knows of losses on a stream."""
        self._told[process, peer, channel] = self._network.now

    def has_heard(self, sender, receiver, channel, since):
        """Tell whether something said since then has arrived."""
        said = self._said[sender, receiver, channel].values()
        return any(each.arrived and each.at >= since for each in reversed(said))

    def missed(self, processes):
        """Return what these processes believe to have sent, and nobody has got."""
        return [
            f"message {said.number} on {channel} from {sender} to {receiver}, said at {said.at:.3f}"
            for (sender, receiver, channel), book in self._said.items()
            if channel in STREAMS and self._may_talk(sender, receiver)
            for said in book.values()
            if not said.arrived
            and said.process in processes
            and self._told[said.process, receiver, channel] < said.at
        ]


class Ear(Heard):
    """What a node's owner hears is judged at once; one that speaks no encryption refuses offers."""

    def __init__(self, ledger, node_id):
        super().__init__()
        self.process = None
        """The process that runs for this owner now."""
        self._ledger = ledger
        self._node_id = node_id

    def message(self, sender, channel, message):
        if message.startswith(MARK) or channel in STREAMS or not self._is_offer(sender, message):
            self._ledger.arrived(sender, self._node_id, channel, message)

    def _is_offer(self, sender, message):
        """Treat a call as the bus of a node without encryption does."""
        is_legacy = self.process.settings["encryption"] is Encryption.OFF
        try:
            packet = gsb.decode_packet(message)
        except PeerError:
            return False
        if not is_legacy or not isinstance(packet, gsb.CallRequest):
            return isinstance(packet, gsb.CallReply)
        refusal = gsb.CallReply(packet.request_id, gsb.Code.BAD_REQUEST, data=b"not found")
        payload = encode_unreliable(gsb.encode_packet(refusal))
        self.process.core.send(sender, UNRELIABLE, payload, self.process.network.now)
        return True

    def stream_lost(self, peer, channel, reason):
        self._ledger.told(self.process, peer, channel)
