"""`/local/net`: what the command line asks about the hybrid net; and the ping that peers answer.

Messages: docs/protocol/gsb-identity.md §4.9; the fields of the rows, which the real command line
reads, stand in docs/protocol/net.md §10.2. Times are `{secs, nanos}`, addresses
`{"V4": [[a, b, c, d], port]}`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from ipaddress import ip_address
from typing import Final, Protocol

from shem.bus.router import Binding, Bus
from shem.bus.types import LOCAL_CALLER, Call
from shem.kernel.errors import NotSupported, ShemError, UsageError
from shem.kernel.ids import ZERO_NODE, NodeId
from shem.kernel.world import Clock
from shem.net.trace import USUAL, Layer, Trace
from shem.net.types import NetStatus, NodeInfo, SessionInfo, SocketInfo
from shem.node import bodies
from shem.wire.flexbuffers import dumps_reply_ok, unpack

BASE: Final = "/local/net"
PING: Final = "diagnostic/net/GsbRemotePing"
PING_TIMEOUT_S: Final = 10.0
TRACE_INTERVAL_S: Final = 5.0
"""How often a watcher hears from us at the least."""
NODES_MAX: Final = 256
"""Nodes of one ping or of one list of neighbours."""
_NOT_BUILT: Final = ("Subscribe", "Unsubscribe", "SendBroadcastMessage", "Shutdown")
_BARE_ERRORS: Final = frozenset(("Connect", "Disconnect", "Shutdown"))
"""Messages whose error is a bare text."""


class NetFace(Protocol):
    """What is asked of `net.service.Net`."""

    async def find(self, node_id: NodeId) -> NodeInfo: ...
    async def connect(self, node_id: NodeId) -> NodeInfo: ...
    async def disconnect(self, node_id: NodeId) -> None: ...
    async def neighbours(self, count: int) -> list[NodeId]: ...
    def status(self) -> NetStatus: ...
    def sessions(self) -> list[SessionInfo]: ...
    def sockets(self) -> list[SocketInfo]: ...
    def default_of(self, node_id: NodeId) -> NodeId: ...
    @property
    def trace(self) -> Trace: ...


async def not_supported(call: Call, _body: object) -> object:
    """Refuse a message that is known and not built."""
    raise NotSupported(f"{call.address} is not supported yet")


def bind_diagnostics(bus: Bus) -> Binding:
    """Answer the ping of other nodes, on whatever channel it comes."""

    async def ping(_call: Call, _body: object) -> object:
        return {}

    return bus.serve(f"/public/{PING}", ping)


class LocalNet:
    """Answers from the net."""

    def __init__(self, net: NetFace, clock: Clock) -> None:
        self._net = net
        self._clock = clock
        self._started_s = clock.monotonic()

    def bind(self, bus: Bus) -> list[Binding]:
        async def ping(_call: Call, body: object) -> object:
            nodes = bodies.node_ids(bodies.fields(body), "nodes", limit=NODES_MAX)
            return await _ping_all(bus, self._net, nodes, self._clock)

        served = {
            "Status": self._status,
            "Sessions": self._sessions,
            "Sockets": self._sockets,
            "FindNode": self._find_node,
            "Connect": self._connect,
            "Disconnect": self._disconnect,
            "ListNeighbours": self._list_neighbours,
            "GsbPing": ping,
            **dict.fromkeys(_NOT_BUILT, not_supported),
        }
        return [
            bus.bind_stream(f"{BASE}/Trace", self._trace),
            *(
                bus.serve(
                    f"{BASE}/{name}",
                    fn,
                    error=_bare_error if name in _BARE_ERRORS else _runtime_error,
                )
                for name, fn in served.items()
            ),
        ]

    async def _status(self, _call: Call, _body: object) -> object:
        now = self._net.status()
        return {
            "nodeId": now.node_id,
            "listenAddress": _address(now.listen_address),
            "publicAddress": _address(now.public_address) if now.public_address else None,
            "sessions": now.sessions,
            "metrics": _metrics(now.sent_bytes, now.received_bytes, self._up_s()),
        }

    async def _sessions(self, _call: Call, _body: object) -> object:
        return [_session(row) for row in self._net.sessions()]

    async def _sockets(self, _call: Call, _body: object) -> object:
        return [_socket(row, self._up_s()) for row in self._net.sockets()]

    async def _find_node(self, _call: Call, body: object) -> object:
        return _node(await self._net.find(bodies.node_id(bodies.fields(body).get("nodeId"))))

    async def _connect(self, _call: Call, body: object) -> object:
        found = bodies.fields(body)
        if bodies.flag(found, "keep", default=False):
            raise NotSupported("to keep a connection alive is not supported yet")
        return _node(await self._net.connect(bodies.node_id(found.get("node"))))

    async def _disconnect(self, _call: Call, body: object) -> object:
        await self._net.disconnect(bodies.node_id(bodies.fields(body).get("node")))
        return None

    async def _list_neighbours(self, _call: Call, body: object) -> object:
        size = bodies.number(bodies.fields(body), "size")
        if not 1 <= size <= NODES_MAX:
            raise UsageError(f"size is 1 to {NODES_MAX}")
        return await self._net.neighbours(size)

    async def _trace(self, call: Call) -> AsyncIterator[bytes]:
        """Stream what the net does, until the asker goes away; an empty answer says: still here."""
        found = bodies.fields(unpack(call.data))
        names = bodies.texts(found, "layers", limit=len(Layer)) or USUAL
        if unknown := set(names) - set(Layer):
            raise UsageError(f"no layer {', '.join(sorted(unknown))}")
        peer = bodies.node_id(found["peer"]) if found.get("peer") else None
        wanted = self._net.default_of(peer) if peer else None
        with self._net.trace.watch([Layer(name) for name in names], wanted) as watch:
            yield dumps_reply_ok({"rows": [], "lost": 0})  # from now on
            async with aclosing(watch.batches(TRACE_INTERVAL_S)) as batches:
                async for rows in batches:
                    yield dumps_reply_ok({"rows": rows, "lost": watch.lost})

    def _up_s(self) -> float:
        return max(self._clock.monotonic() - self._started_s, 1.0)


async def _ping_all(
    bus: Bus, net: NetFace, nodes: Sequence[NodeId], clock: Clock
) -> list[dict[str, object]]:
    """Ping the named nodes, or all peers in session, on both channels at once."""
    peers = [row.node_id for row in net.sessions() if row.node_id != ZERO_NODE]
    targets = list(nodes) or peers[:NODES_MAX]
    times = await asyncio.gather(
        *(
            _ping(bus, f"{prefix}/net/{target}/{PING}", clock)
            for target in targets
            for prefix in ("", "/udp")
        )
    )
    direct = {row.node_id for row in net.sessions() if row.kind == "p2p"}
    return [
        {
            "nodeId": target,
            "nodeAlias": None,
            "tcpPing": times[2 * index],
            "udpPing": times[2 * index + 1],
            "isP2p": target in direct,
        }
        for index, target in enumerate(targets)
    ]


async def _ping(bus: Bus, address: str, clock: Clock) -> dict[str, int] | None:
    """Return the time a ping took, None when no good answer came."""
    sent_s = clock.monotonic()
    try:
        await bus.request(LOCAL_CALLER, address, {}, timeout_s=PING_TIMEOUT_S)
    except ShemError:
        return None
    return _duration(clock.monotonic() - sent_s)


def _runtime_error(error: ShemError) -> object:
    return {"RuntimeException": error.message}


def _bare_error(error: ShemError) -> object:
    return error.message


def _duration(seconds: float) -> dict[str, int]:
    nanos = max(0, round(seconds * 1e9))
    return {"secs": nanos // 1_000_000_000, "nanos": nanos % 1_000_000_000}


def _address(address: tuple[str, int]) -> dict[str, object]:
    host = ip_address(address[0])
    return {f"V{host.version}": [list(host.packed), address[1]]}


def _metrics(sent: int, received: int, up_s: float) -> dict[str, object]:
    """Totals and the average since the start; the current rate is not measured."""
    return {
        "txTotal": sent,
        "txCurrent": 0.0,
        "txAvg": sent / up_s,
        "rxTotal": received,
        "rxCurrent": 0.0,
        "rxAvg": received / up_s,
    }


def _session(row: SessionInfo) -> dict[str, object]:
    return {
        "nodeId": row.node_id,
        "id": row.session_id,
        "sessionType": row.kind,
        "remoteAddress": _address(row.address),
        "seen": _duration(row.seen_s),
        "duration": _duration(row.up_s),
        "ping": _duration(row.ping_s or 0.0),
        "metrics": _metrics(row.sent_bytes, row.received_bytes, max(row.up_s, 1.0)),
    }


def _socket(row: SocketInfo, up_s: float) -> dict[str, object]:
    return {
        "protocol": "tcp",
        "state": row.state,
        "localPort": str(row.local_port),
        "remoteAddr": row.remote,
        "remotePort": str(row.remote_port) if row.remote else "",
        "metrics": _metrics(row.sent_bytes, row.received_bytes, up_s),
    }


def _node(info: NodeInfo) -> dict[str, object]:
    return {
        "identities": list(info.identities),
        "endpoints": [_address(endpoint) for endpoint in info.endpoints],
        "seen": info.seen_s,
        "slot": info.slot,
        "encryption": list(info.encryption),
    }
