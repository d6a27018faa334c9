"""A live view of the net for whoever watches it, and no cost when nobody does.

The net's driver tells what it carries while `is_on`; each watcher has a bounded queue of rows, of
which the oldest are dropped and counted when it is slow. Layers, from the top:

    event     routes, the relay, encrypted channels, streams
    message   what services send and get
    packet    segments of the virtual network
    control   control packets of sessions, also those inside encrypted channels
    datagram  Forwards as they are on the wire
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypedDict

from shem.kernel.errors import Conflict
from shem.kernel.ids import ZERO_NODE, NodeId
from shem.kernel.world import Clock
from shem.net import outputs as out
from shem.net import streams as st
from shem.net.trace_text import datagram_text, is_forward, message_text, packet_text
from shem.net.types import Channel
from shem.wire.forward import STREAM

WATCHERS_MAX: Final = 8
ROWS_MAX: Final = 2_048
"""Rows that wait for one watcher."""
BATCH_MAX: Final = 256

Address = tuple[str, int]
Who = Callable[[bytes, Address], NodeId | None]
"""Whose datagram this is, or whom it goes to."""


class Layer(StrEnum):
    """What a row is about; see the module."""

    EVENT = "event"
    MESSAGE = "message"
    PACKET = "packet"
    CONTROL = "control"
    DATAGRAM = "datagram"


USUAL: Final = (Layer.EVENT, Layer.MESSAGE, Layer.CONTROL)


class Row(TypedDict):
    """One thing that happened."""

    at: float
    """Unix seconds."""
    layer: str
    direction: str
    """`in`, `out`, or nothing."""
    peer: str | None
    """Node id; all zeros for the relay; None while it is not known who it is."""
    address: str | None
    text: str


@dataclass(slots=True, eq=False)
class Watch:
    """One watcher's rows."""

    layers: frozenset[Layer]
    peer: NodeId | None
    lost: int = 0
    _rows: deque[Row] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, row: Row) -> None:
        if len(self._rows) >= ROWS_MAX:
            self._rows.popleft()
            self.lost += 1
        self._rows.append(row)
        self._arrived.set()

    async def batches(self, interval_s: float) -> AsyncGenerator[list[Row], None]:
        """Yield rows as they come, and an empty list when none has come for so long."""
        while True:
            try:
                async with asyncio.timeout(interval_s):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            yield [self._rows.popleft() for _ in range(min(BATCH_MAX, len(self._rows)))]
            if not self._rows:
                self._arrived.clear()


class Trace:
    """Tells watchers what the net does; `on_change` hears whether there are any."""

    def __init__(self, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self.is_on = False
        self._clock = clock
        self._on_change = on_change
        self._watches: list[Watch] = []

    @contextmanager
    def watch(
        self, layers: Collection[Layer] = USUAL, peer: NodeId | None = None
    ) -> Iterator[Watch]:
        """Watch for the duration of the block; Conflict when too many do."""
        if len(self._watches) >= WATCHERS_MAX:
            raise Conflict(f"the net has {WATCHERS_MAX} watchers already")
        watch = Watch(frozenset(layers), peer)
        self._watches.append(watch)
        self._count()
        try:
            yield watch
        finally:
            self._watches.remove(watch)
            self._count()

    def _count(self) -> None:
        self.is_on = bool(self._watches)
        self._on_change(self.is_on)

    # --- what the driver tells

    def datagram_in(self, data: bytes, source: Address, peer: NodeId | None) -> None:
        self._datagram("in", data, source, peer)

    def message(self, direction: str, peer: NodeId, channel: Channel, message: bytes) -> None:
        self._put(Layer.MESSAGE, direction, peer, lambda: f"{channel} {message_text(message)}")

    def core_output(self, output: out.Output, who: Who) -> None:
        """Tell what the session layer asked for."""
        match output:
            case out.SendDatagram(data, address) | out.SendOneShot(data, address):
                self._datagram("out", data, address, who(data, address))
            case out.ControlSealed(data, address, is_inward):
                direction = "in" if is_inward else "out"
                self._datagram(direction, data, address, who(data, address), ", encrypted")
            case out.DeliverPacket(peer, flags, payload):
                self._packet("in", peer.node_id, flags, payload)
            case out.RelayUp(public):
                where = f"public at {_text(public)}" if public else "not public"
                self._event(ZERO_NODE, f"registered at the relay, {where}")
            case out.RelayDown(reason):
                self._event(ZERO_NODE, f"relay lost: {reason}")
            case out.RouteFailed(node_id, reason):
                self._event(node_id, f"no route: {reason}")
            case out.PeerUp() | out.RouteUp() | out.RouteShaken() | out.ChannelUp():
                self._event(output.node_id, _EVENTS[type(output)])
            case out.StreamsTainted(node_id):
                self._event(node_id, _EVENTS[out.StreamsTainted])
            case out.NodeFound(node_id, None, reason):
                self._event(node_id, f"not found: {reason}")

    def stream_output(self, output: st.Output) -> None:
        """Tell what the streams asked for."""
        match output:
            case st.SendPacket(peer, packet):
                self._packet("out", peer, STREAM, packet)
            case st.DeliverMessage(peer, channel, message):
                self.message("in", peer, channel, message)
            case st.StreamUp(peer, channel):
                self._event(peer, f"{channel} stream up")
            case st.StreamLost(peer, channel, reason):
                self._event(peer, f"{channel} stream lost: {reason}")

    # --- rows

    def _datagram(
        self,
        direction: str,
        data: bytes,
        address: Address,
        peer: NodeId | None,
        suffix: str = "",
    ) -> None:
        layer = Layer.DATAGRAM if is_forward(data) else Layer.CONTROL
        self._put(layer, direction, peer, lambda: datagram_text(data) + suffix, _text(address))

    def _packet(self, direction: str, peer: NodeId, flags: int, payload: bytes) -> None:
        self._put(Layer.PACKET, direction, peer, lambda: packet_text(flags, payload))

    def _event(self, peer: NodeId, text: str) -> None:
        self._put(Layer.EVENT, "", peer, lambda: text)

    def _put(
        self,
        layer: Layer,
        direction: str,
        peer: NodeId | None,
        text: Callable[[], str],
        address: str | None = None,
    ) -> None:
        row: Row | None = None
        for watch in self._watches:
            if layer not in watch.layers or watch.peer not in (None, peer):
                continue
            row = row or Row(
                at=self._clock.wall_ns() / 1e9,
                layer=layer.value,
                direction=direction,
                peer=peer,
                address=address,
                text=text(),
            )
            watch.put(row)


def _text(address: Address) -> str:
    return "{}:{}".format(*address)


_EVENTS: Final[dict[type, str]] = {
    out.PeerUp: "sign of life",
    out.RouteUp: "route up",
    out.RouteShaken: "route in doubt",
    out.ChannelUp: "encrypted channel up",
    out.StreamsTainted: "streams begin anew, encrypted from now on",
}
