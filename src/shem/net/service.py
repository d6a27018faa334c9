"""The net of one node: the cores of this package on a socket and a timer.

All traffic uses one UDP socket. `core.NodeCore` makes sessions and routes, `streams.Streams` the
reliable channels inside them; this module carries datagrams, packets and messages between the
socket, the two, and whoever subscribed. Messages are whole GSB packets; what is lost is told by
`on_lost`, and nothing is repeated here. Spec: docs/protocol/net.md.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import structlog

from shem.identity.keys import PrivateKey
from shem.kernel.config import Encryption
from shem.kernel.datagrams import Address, Batch, DatagramSocket, send_once
from shem.kernel.errors import ShemError, TimedOut, UsageError
from shem.kernel.ids import ZERO_NODE, NodeId
from shem.kernel.links import LinkWatch, source_towards
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.net import outputs as out
from shem.net import streams as st
from shem.net.assurance import StreamAssurance
from shem.net.core import NodeCore
from shem.net.keyring import Keyring
from shem.net.neighbourhood import Neighbourhood
from shem.net.secure.packets import SCHEME
from shem.net.secure.pins import Pins
from shem.net.streams import Streams
from shem.net.trace import Trace
from shem.net.types import (
    DATAGRAM_MESSAGE_MAX,
    MESSAGE_SIZE_MAX,
    Channel,
    NetStatus,
    NodeInfo,
    Peer,
    SessionInfo,
    SocketInfo,
)
from shem.net.waiters import LookUps, RouteWaiters
from shem.net.whereabouts import Whereabouts
from shem.wire.errors import WireError
from shem.wire.forward import (
    STREAM,
    UNRELIABLE,
    Kind,
    decode_unreliable,
    encode_unreliable,
    kind_of,
)

CONNECT_TIMEOUT_S: Final = 25.0
ONLINE_WAIT_S: Final = 5.0
"""How long a broadcast waits for a starting node to reach its relay."""
CLOSE_TIMEOUT_S: Final = 2.0
"""For streams to finish at shutdown."""
CLOSE_PAUSE_S: Final = 0.1
"""Between the end of the streams and that of the sessions (§6.4)."""
RESOLVE_RETRY_S: Final = 2.0

log = structlog.get_logger()


class Net:
    """See the module; `keys` are the node's identities, the default one first.

    The default one is the node's name, and stays; others may come and go while the net runs.
    """

    def __init__(
        self,
        world: World,
        keys: Sequence[PrivateKey],
        bind: Address,
        relay: Address | None,
        *,
        encryption: Encryption = Encryption.PREFERRED,
        pins: Pins | None = None,
    ) -> None:
        self.default_id = keys[0].node_id
        self._world = world
        self._keys = Keyring(keys)
        self._bind = bind
        self._relay = relay
        self._encryption = encryption
        self._pins = pins
        self._on_message: list[Callable[[Peer, Channel, bytes], None]] = []
        self._on_lost: list[Callable[[NodeId, Channel], None]] = []
        self._on_peer_up: list[Callable[[NodeId], None]] = []
        self._assurance = StreamAssurance()
        self._routes = RouteWaiters(self.default_of, self._is_ready)
        self._look_ups = LookUps()
        self._neighbourhood = Neighbourhood(world)
        self._online = asyncio.Event()
        self._on_online: list[Callable[[], None]] = []
        self._whereabouts = Whereabouts(source_towards)
        self._received_bytes = self._sent_bytes = 0
        self._stack = AsyncExitStack()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self.trace = Trace(world.clock, self._watched)

    # --- running

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._socket = DatagramSocket(self._bind, self._on_batch, self._on_refused)
        self._links = LinkWatch(self._on_links_changed)
        self._core = NodeCore(
            self._world.rng,
            self._keys,
            relay=None,
            own_addresses=frozenset({self._socket.address}),
            encryption=self._encryption,
            pins=self._pins,
        )
        self._streams = Streams(self.default_id, self._world.rng)
        self._core.start(self._now())
        scope = await self._stack.enter_async_context(TaskScope())
        if self._relay is not None:
            scope.spawn(self._resolve_relay(*self._relay), "net.resolve_relay")
        self._pump()
        log.info("net.up", node=self.default_id, address=self._socket.address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._say_goodbye()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._links.close()
            self._socket.close()
            await self._stack.aclose()
            self._routes.give_up("the net is shut down")
            self._look_ups.give_up("the net is shut down")
            self._neighbourhood.answered(None)
            log.info("net.down", node=self.default_id)

    async def wait_online(self, timeout_s: float) -> None:
        """Wait for a registered relay session; TimedOut."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._online.wait()
        except TimeoutError:
            raise TimedOut(f"not registered at the relay after {timeout_s} s") from None

    # --- subscribing

    def on_message(self, fn: Callable[[Peer, Channel, bytes], None]) -> None:
        """Have `fn` called with every message that arrives."""
        self._on_message.append(fn)

    def on_lost(self, fn: Callable[[NodeId, Channel], None]) -> None:
        """Have `fn` called when messages sent to or expected from a node may be lost."""
        self._on_lost.append(fn)

    def on_peer_up(self, fn: Callable[[NodeId], None]) -> None:
        """Have `fn` called at a node's sign of life after silence."""
        self._on_peer_up.append(fn)

    def on_online(self, fn: Callable[[], None]) -> None:
        """Have `fn` called whenever the relay has registered us anew."""
        self._on_online.append(fn)

    # --- identities

    def add_key(self, key: PrivateKey) -> None:
        """Have one more identity, at once: found at the relay, and proven to whom it speaks."""
        if self._keys.add(key):
            self._on_own_changed()

    def remove_key(self, node_id: NodeId) -> None:
        """Have an identity no longer; the default one stays."""
        if self._keys.remove(node_id):
            self._on_own_changed()

    def _on_own_changed(self) -> None:
        log.info("net.identities_changed", count=len(self._keys.keys))
        self._core.on_own_changed(self._now())
        self._pump()

    # --- sending and finding

    async def send(
        self,
        target: NodeId,
        channel: Channel,
        message: bytes,
        *,
        timeout_s: float,
        sender: NodeId | None = None,
    ) -> None:
        """Send one message, over a new session if need be; Unreachable or TimedOut.

        Returning means that it is on its way, not that it has arrived. The receiver knows `sender`
        as one of our identities by then; without one it is the default.
        """
        limit = DATAGRAM_MESSAGE_MAX if channel is Channel.UNRELIABLE else MESSAGE_SIZE_MAX
        if len(message) > limit:
            raise UsageError(f"a message of {len(message)} bytes; the limit is {limit}")
        await self._ensure_route(target, timeout_s, sender)
        now = self._now()
        default = self._core.router.registry.default_of(target)
        if self.trace.is_on:
            self.trace.message("out", default, channel, message)
        if channel is Channel.UNRELIABLE:
            self._core.send(default, UNRELIABLE, encode_unreliable(message), now)
        else:
            self._streams.send(default, channel, message, now)
        self._pump()

    async def find(self, node_id: NodeId) -> NodeInfo:
        """Ask the relay for a node; NotFound, or Unreachable when the relay does not answer."""

        def ask() -> None:
            self._core.router.look_up(node_id, self._now())
            self._pump()

        info = await self._look_ups.ask(node_id, ask)
        if self._core.is_encrypted(info.node_id, self._now()):
            return replace(info, encryption=(SCHEME,))
        return info

    async def connect(self, node_id: NodeId) -> NodeInfo:
        """Make a route to a node and return what is known of it."""
        await self._ensure_route(node_id, CONNECT_TIMEOUT_S, None)
        return await self.find(node_id)

    def seek(self, node_id: NodeId) -> None:
        """Begin to make a route to a node; nobody waits for it."""
        self._core.connect(node_id, self._now())
        self._pump()

    async def disconnect(self, node_id: NodeId) -> None:
        """Drop the session with a node; its streams live on over the next one."""
        self._core.disconnect(node_id)
        self._pump()

    async def neighbours(self, count: int) -> list[NodeId]:
        """Return up to `count` nodes near to us; Unreachable when the relay does not answer."""
        waiter = self._neighbourhood.ask(self._loop)
        self._core.find_neighbours(count, self._now())
        self._pump()
        return [info.node_id for info in await waiter][:count]

    async def broadcast_targets(self) -> list[NodeId]:
        """Choose the nodes for a broadcast: peers with a session, then neighbours (§9.6)."""
        count = self._neighbourhood.fan_out(is_public=self.public_address is not None)
        peers = [s.peer.node_id for s in self._core.router.sessions if s.peer is not None]
        near = self._neighbourhood.cached(self._now())
        if near is None:
            near = await self._nearby(count)
        return self._neighbourhood.choose(peers, near, count)

    async def _nearby(self, count: int) -> list[NodeId]:
        """Ask the relay; none while it is away. A starting node waits for its first session."""
        if self._relay is None:
            return []
        try:
            await self.wait_online(ONLINE_WAIT_S)
            near = await self.neighbours(count)
        except ShemError as error:
            log.debug("net.no_neighbours", reason=error.message)
            return []
        self._neighbourhood.keep(near, self._now())
        return near

    def forget_neighbours(self) -> None:
        """Ask the relay again at the next broadcast: somebody new is there."""
        self._neighbourhood.forget()

    # --- looking at it

    def default_of(self, node_id: NodeId) -> NodeId:
        """Return the default identity of a node, as far as we know: what `on_lost` names."""
        return self._core.router.registry.default_of(node_id)

    @property
    def bind_address(self) -> Address:
        return self._socket.address

    @property
    def public_address(self) -> Address | None:
        return self._core.link.public_address if self._core.link.is_up else None

    def status(self) -> NetStatus:
        return NetStatus(
            node_id=self.default_id,
            listen_address=self._socket.address,
            public_address=self.public_address,
            sessions=len(self.sessions()),
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
        )

    def sessions(self) -> list[SessionInfo]:
        """List the relay's session, then those with peers."""
        now = self._now()
        relay = self._core.link.session
        rows = [relay.info(ZERO_NODE, "relay", now)] if relay else []
        for session in self._core.router.sessions:
            assert session.peer is not None
            rows.append(session.info(session.peer.node_id, "p2p", now))
        return rows

    def sockets(self) -> list[SocketInfo]:
        return self._streams.sockets()

    # --- socket and timer

    def _on_batch(self, batch: Batch) -> None:
        now = self._now()
        for data, source in batch:
            self._received_bytes += len(data)
            if self.trace.is_on:
                self.trace.datagram_in(data, source, self._who(data, source))
            try:
                self._core.receive(data, source, now)
            except Exception:
                log.exception("net.datagram_failed", source=source)
        self._pump()

    def _on_refused(self, address: Address) -> None:
        self._core.on_refused(address, self._now())
        self._pump()

    def _on_links_changed(self) -> None:
        peers = [session.address for session in self._core.router.sessions]
        relay = self._core.link.address
        moved, back = self._whereabouts.look([relay, *peers] if relay else peers)
        if moved or back:
            log.info("net.changed", moved=len(moved), back=len(back))
            self._core.on_network_changed(moved, back, self._now())
            self._pump()

    def _on_timer(self) -> None:
        self._timer = None
        now = self._now()
        self._core.tick(now)
        self._streams.tick(now)
        self._pump()

    def _pump(self) -> None:
        """Carry outputs until there are none, then set the timer."""
        while True:
            decisions: Sequence[out.Output] = self._core.outputs()
            for decision in decisions:
                self._carry_out(decision)
            if not self._carry_streams() and not decisions:
                break
        self._arm()

    def _arm(self) -> None:
        deadline = self._core.next_deadline()
        streams = self._streams.next_deadline()
        if streams is not None:
            deadline = min(deadline, streams)
        if self._timer is not None:
            if self._armed_for <= deadline:
                return  # it looks again then
            self._timer.cancel()
        self._armed_for = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - self._now()), self._on_timer)

    def _carry_out(self, output: out.Output) -> None:
        if self.trace.is_on:
            self.trace.core_output(output, self._who)
        match output:
            case out.SendDatagram(data, address):
                self._sent_bytes += len(data)
                self._socket.send(data, address)
            case out.DeliverPacket(peer, flags, payload):
                self._on_packet(peer, flags, payload)
            case out.SendOneShot(data, address):
                send_once(data, address)
            case out.RouteShaken(node_id):
                self._streams.probe(node_id, self._now())
            case out.StreamsTainted(node_id):
                self._streams.drop_peer(node_id, self._now(), "encrypted from now on")
            case out.PeerUp(node_id):
                if session := self._core.router.sessions.find(node_id):
                    self._whereabouts.note(session.address)
                self._streams.resume(node_id, self._now())
                self._call(self._on_peer_up, node_id)
            case _:
                self._wake(output)

    def _wake(self, output: out.Output) -> None:
        match output:
            case out.RouteUp(node_id):
                self._routes.on_up(node_id)
            case out.RouteFailed(node_id, reason):
                self._routes.on_failed(node_id, reason)
            case out.NodeFound():
                self._look_ups.on_found(output)
            case out.NeighboursFound(nodes):
                self._neighbourhood.answered(nodes)
            case out.RelayUp():
                self._neighbourhood.forget()
                self._online.set()
                if self._core.link.address:
                    self._whereabouts.note(self._core.link.address)
                self._call(self._on_online)
                self._routes.look_again()
            case out.RelayDown():
                self._online.clear()

    def _carry_streams(self, sender: Peer | None = None) -> bool:
        """Do what the streams decided; `sender` sent the packet that they have just got."""
        decisions: Sequence[st.Output] = self._streams.outputs()
        for decision in decisions:
            if self.trace.is_on:
                self.trace.stream_output(decision)
            match decision:
                case st.SendPacket(receiver, packet):
                    self._core.send(receiver, STREAM, packet, self._now())
                case st.DeliverMessage(_, channel, message):
                    assert sender is not None
                    self._call(self._on_message, sender, channel, message)
                case st.StreamLost(node_id, channel, _):
                    self._call(self._on_lost, node_id, channel)
        return bool(decisions)

    def _on_packet(self, peer: Peer, flags: int, payload: bytes) -> None:
        if not flags & UNRELIABLE:
            self._streams.receive(peer.node_id, payload, self._now())
            self._carry_streams(self._assurance.of(peer, payload))
            return
        try:
            message = decode_unreliable(payload)
        except WireError:
            return
        if self.trace.is_on:
            self.trace.message("in", peer.node_id, Channel.UNRELIABLE, message)
        self._call(self._on_message, peer, Channel.UNRELIABLE, message)

    def _who(self, data: bytes, address: Address) -> NodeId | None:
        """Return whose datagram this is, or whom it goes to; all zeros for the relay itself."""
        router = self._core.router
        if address != self._core.link.address:
            return router.peer_at(address)
        slot = int.from_bytes(data[17:21]) if kind_of(data) is Kind.FORWARD else 0
        info = router.registry.by_slot(slot)
        return info.node_id if info else ZERO_NODE

    def _watched(self, is_on: bool) -> None:
        self._core.is_watched = is_on

    def _call(self, subscribers: Sequence[Callable[..., None]], *arguments: object) -> None:
        for fn in subscribers:
            try:
                fn(*arguments)
            except Exception:
                log.exception("net.subscriber_failed")

    async def _ensure_route(self, target: NodeId, timeout_s: float, sender: NodeId | None) -> None:
        if sender is not None and sender not in self._keys:
            raise UsageError(f"{sender} is not an identity of this node")
        if self._is_ready(target, sender):
            return
        if target in self._keys:
            raise UsageError("a node sends nothing to itself over the net")

        def connect() -> None:
            self._core.connect(target, self._now(), sender)
            self._pump()

        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_ready(target, sender):
                    await self._routes.wait(target, connect)
        except TimeoutError:
            raise TimedOut(f"no route to {target} after {timeout_s} s") from None

    def _is_ready(self, target: NodeId, sender: NodeId | None = None) -> bool:
        return self._core.is_ready(target, self._now(), sender)

    # --- beginning and end

    async def _resolve_relay(self, host: str, port: int) -> None:
        """Look the relay's name up, once, as often as that takes."""
        family = socket.AF_INET6 if ":" in self._bind[0] else socket.AF_INET
        while True:
            try:
                found = await self._loop.getaddrinfo(
                    host, port, family=family, type=socket.SOCK_DGRAM
                )
                break
            except OSError as error:
                log.warning("relay.unresolved", host=host, reason=str(error))
                await self._world.clock.sleep(RESOLVE_RETRY_S)
        address = found[0][4]
        self._core.start(self._now(), (str(address[0]), int(address[1])))
        self._pump()

    async def _say_goodbye(self) -> None:
        now = self._now()
        self._streams.shutdown(now)
        self._pump()
        give_up = now + CLOSE_TIMEOUT_S
        while not self._streams.closed and self._now() < give_up:
            await self._world.clock.sleep(0.02)
        await self._world.clock.sleep(CLOSE_PAUSE_S)
        self._core.shutdown()
        self._pump()

    def _now(self) -> float:
        return self._world.clock.monotonic()
