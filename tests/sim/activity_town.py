"""Two nodes' activity parts on virtual time: a requestor, a provider with an agent and ExeUnits.

Everything between REST and ExeUnit is the real thing: service, store (SQLite on disk), outbox, bus,
calls between nodes. The net is the in-memory fabric with a filter that loses chosen messages; the
market is reduced to rows; agent and ExeUnit are clients of the provider's bus, and outlive it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shem.activity.messages import FEATURES
from shem.activity.records import Role
from shem.activity.script import script_digest
from shem.activity.service import ActivityService
from shem.bus.features import Features
from shem.bus.remote import RemoteBus
from shem.bus.router import Binding, Bus
from shem.bus.typed import typed, typed_stream
from shem.bus.types import LOCAL_CALLER, Call, NoSuchEndpoint
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import NotFound, ShemError, TimedOut, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.times import to_rfc3339
from shem.kernel.world import SeededRng, World
from shem.net.memory import MemoryFabric, MemoryNet
from shem.net.types import Channel, Peer
from shem.store.committer import InlineCommitter
from shem.store.open import open_store
from shem.store.outbox import Outbox
from shem.store.unit import Store
from shem.wire.flexbuffers import as_bytes
from shem.wire.gsb import CallReply, CallRequest, decode_packet
from tests.sim.virtual_time import EPOCH_NS, VirtualClock, run_virtually

REQUESTOR = NodeId("0x" + "a" * 40)
PROVIDER = NodeId("0x" + "b" * 40)
STRANGER = NodeId("0x" + "c" * 40)
AGREEMENT = "ab" * 32
RUN = '[{"run": {"entry_point": "/bin/x", "args": ["1"]}}]'
THREE = '[{"deploy": {}}, {"start": {}}, {"run": {"entry_point": "/bin/x"}}]'

DEMAND = f'{{"golem.srv.comp.expiration":{EPOCH_NS // 1_000_000 + 36_000_000}}}'
"""Agreements expire ten hours after the beginning."""
OFFER = (
    '{"golem.com.usage.vector":["golem.usage.cpu_sec","golem.usage.duration_sec"],'
    '"golem.com.pricing.model.linear.coeffs":[0.0,0.0,0.0],"golem.runtime.name":"wasmtime",'
    '"golem.com.payment.debit-notes.accept-timeout?":240}'
)

Drops = Callable[[CallRequest | CallReply, str], bool]
"""`(packet, message name of the call) -> lose it?`"""


@dataclass(frozen=True)
class AgreementRow:
    agreement_id: str
    identity: NodeId
    role: str
    requestor: NodeId
    provider: NodeId
    state: str = "Approved"
    app_session_id: str | None = None
    demand_properties: str = DEMAND
    offer_properties: str = OFFER


@dataclass(frozen=True)
class AgreementEnd:
    """How an agreement ended."""

    kind: str
    terminator: str
    reason: str
    event_ns: int


class RowMarket:
    """The market of one node, as far as activities see it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], AgreementRow] = {}
        self._listeners: list[Callable[[str], None]] = []
        self.ending: AgreementEnd | None = None

    def add(self, identity: NodeId, role: Role, session: str | None) -> None:
        row = AgreementRow(AGREEMENT, identity, role, REQUESTOR, PROVIDER, app_session_id=session)
        self.rows[AGREEMENT, role] = row

    async def ending_of(self, agreement_id: str, role: str) -> AgreementEnd | None:
        del agreement_id, role
        return self.ending

    def end(self, *, tell: bool = True, by: str = "Provider", code: str = "NoActivity") -> None:
        reason = f'{{"message":"so be it","golem.provider.code":"{code}"}}'
        now_ns = EPOCH_NS + int(asyncio.get_running_loop().time() * 1e9)
        self.ending = AgreementEnd("Terminated", by, reason, now_ns)
        self.rows = {key: replace(row, state="Terminated") for key, row in self.rows.items()}
        for fn in self._listeners if tell else ():
            fn(AGREEMENT)

    async def agreement(self, agreement_id: str, role: str | None = None) -> AgreementRow | None:
        assert role is not None
        return self.rows.get((agreement_id, role))

    async def take_up(self, who: Caller, agreement_id: str, provider: NodeId) -> AgreementRow:
        row = self.rows[agreement_id, Role.REQUESTOR]
        if (who.node_id, provider) != (row.requestor, row.provider):
            raise NotFound(f"Agreement [{agreement_id}] not found.")
        return row

    def on_agreement_end(self, fn: Callable[[str], None]) -> None:
        self._listeners = [fn]


class LossyNet:
    """A node's net whose outgoing calls and replies can be lost without anybody noticing."""

    def __init__(self, net: MemoryNet) -> None:
        self.net = net
        self.drops: Drops = lambda _packet, _name: False
        self.lost: list[str] = []
        self._names: dict[str, str] = {}
        net.on_message(self._note)

    def _note(self, _peer: Peer, _channel: Channel, message: bytes) -> None:
        packet = decode_packet(message)
        if isinstance(packet, CallRequest):
            self._names[packet.request_id] = packet.address.rpartition("/")[2]

    def on_message(self, fn: Callable[[Peer, Channel, bytes], None]) -> None:
        self.net.on_message(fn)

    def on_lost(self, fn: Callable[[NodeId, Channel], None]) -> None:
        self.net.on_lost(fn)

    def on_peer_up(self, fn: Callable[[NodeId], None]) -> None:
        self.net.on_peer_up(fn)

    def default_of(self, node_id: NodeId) -> NodeId:
        return self.net.default_of(node_id)

    async def broadcast_targets(self) -> list[NodeId]:
        return []

    async def send(
        self,
        target: NodeId,
        channel: Channel,
        message: bytes,
        *,
        timeout_s: float,
        sender: NodeId | None = None,
    ) -> None:
        packet = decode_packet(message)
        if isinstance(packet, CallRequest):
            name = packet.address.rpartition("/")[2]
        else:
            assert isinstance(packet, CallReply)
            name = self._names.get(packet.request_id, "")
        if self.drops(packet, name):
            self.lost.append(name)
            return
        await self.net.send(target, channel, message, timeout_s=timeout_s, sender=sender)


def requests(*names: str, times: int = 1_000) -> Drops:
    """Lose requests of these messages, at most so many."""
    return _drop(CallRequest, names, times)


def replies(*names: str, times: int = 1_000) -> Drops:
    """Lose replies to these messages, at most so many."""
    return _drop(CallReply, names, times)


def _drop(kind: type, names: tuple[str, ...], times: int) -> Drops:
    left = [times]

    def drops(packet: CallRequest | CallReply, name: str) -> bool:
        if not isinstance(packet, kind) or name not in names or left[0] == 0:
            return False
        left[0] -= 1
        return True

    return drops


class Node:
    """One node; `start` and `stop` any number of times on the same data."""

    def __init__(
        self, town: "Town", node_id: NodeId, role: Role | None, features: frozenset[str]
    ) -> None:
        self.node_id = node_id
        self.caller = Caller(node_id, Assurance.LOCAL)
        self.features = features
        self.market = RowMarket()
        self._town = town
        self._path = town.directory / f"{node_id[2:6]}.db"
        self._stack: AsyncExitStack | None = None
        if role is not None:
            self.market.add(node_id, role, "session-1")

    async def start(self) -> None:
        self._stack = stack = AsyncExitStack()
        world = self._town.world
        self.store: Store = await open_store(self._path, world=world, committer=InlineCommitter())
        stack.push_async_callback(self.store.close)
        self.bus = Bus()
        self.net = LossyNet(self._town.fabric.node(self.node_id))
        remote = RemoteBus(self.bus, self.net, (self.node_id,), rng=world.rng)
        features = Features(self.bus, self.net, self.features, clock=world.clock)
        if not self.features:
            self.bus._bindings.pop("/public/shem/Hello")
        outbox = Outbox(self.store, world)
        self.service = ActivityService(
            store=self.store,
            bus=self.bus,
            outbox=outbox,
            market=self.market,
            features=features.features,
            world=world,
        )
        self.net.on_peer_up(outbox.peer_alive)
        self.net.on_peer_up(self.service.peer_alive)
        self.net.on_lost(lambda node_id, _channel: self.service.peer_lost(node_id))
        await stack.enter_async_context(remote)
        await stack.enter_async_context(self.service)
        await stack.enter_async_context(self.net.net)
        scope = await stack.enter_async_context(TaskScope())
        scope.spawn(outbox.run(), "outbox")

    async def stop(self) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def restart_empty(self) -> None:
        """Start again with another, empty database, as a new machine does."""
        await self.stop()
        self._path = self._path.with_name(f"new-{self._path.name}")
        await self.start()


@dataclass
class RunningBatch:
    script: list[Any]
    results: list[dict[str, Any]] = field(default_factory=list)


class ExeUnit:
    """An ExeUnit that journals in memory: it survives the daemon, and counts what it ran."""

    def __init__(self, town: "Town", activity_id: str, *, legacy: bool = False) -> None:
        self.activity_id = activity_id
        self.batches: dict[str, RunningBatch] = {}
        self.never: set[str] = set()
        self.ran: list[str] = []
        self.calls: list[str] = []
        self.http: list[dict[str, Any]] = []
        self.http_reply: object = None
        self.has_enclave = False
        self.stream_pause_s = 0.0
        self.auto = True
        self.alive = True
        self.refuses: str | None = None
        """Why nothing new is accepted."""
        self._legacy = legacy
        self._town = town
        self._changed = asyncio.Event()
        self._bindings: list[Binding] = []

    @property
    def _bus(self) -> Bus:
        return self._town.provider.bus

    def bind(self) -> None:
        prefix = f"/public/exeunit/{self.activity_id}"
        served = {
            "Exec": self._exec,
            "GetExecBatchResults": self._results,
            "GetRunningCommand": self._running,
            "GsbHttpCallMessage": self._http,
            **({"CallEncryptedService": self._sealed} if self.has_enclave else {}),
        }
        if not self._legacy:
            served |= {"ResolveBatch": self._resolve, "ListBatches": self._list}
        handlers = {name: typed(fn, _payload) for name, fn in served.items()}

        async def dispatch(call: Call) -> bytes:
            name = call.address.rpartition("/")[2]
            self.calls.append(name)
            if name not in handlers:
                raise NoSuchEndpoint
            return await handlers[name](call)

        stream = typed_stream(self._stream, _payload)
        http_stream = typed_stream(self._http_stream, _payload)
        self._bindings = [
            self._bus.bind(prefix, dispatch),
            self._bus.bind_stream(f"{prefix}/StreamExecBatchResults", stream),
            self._bus.bind_stream(f"{prefix}/GsbHttpCallStreamingMessage", http_stream),
        ]

    def unbind(self) -> None:
        while self._bindings:
            self._bindings.pop().close()

    async def report_state(self, *state: str | None, reason: str | None = None) -> None:
        body = {
            "activityId": self.activity_id,
            "state": {"state": list(state), "reason": reason},
            "timeout": None,
        }
        await self._tell("SetActivityState", body)

    async def report_usage(self, *usage: float) -> None:
        body = {
            "activityId": self.activity_id,
            "usage": {"currentUsage": list(usage), "timestamp": 1},
        }
        await self._tell("SetActivityUsage", body)

    async def _tell(self, name: str, body: object) -> None:
        address = f"/local/activity/{name}"
        await self._bus.request(LOCAL_CALLER, address, body, timeout_s=5)

    def finish(self, batch_id: str, *, ok: bool = True, stdout: str = "out") -> None:
        """Let the next command of a batch end."""
        batch = self.batches[batch_id]
        index = len(batch.results)
        self.ran.append(f"{batch_id}:{index}")
        batch.results.append(
            {
                "index": index,
                "result": "Ok" if ok else "Error",
                "stdout": f"{stdout}{index}\n",
                "stderr": None,
                "message": None if ok else "ExeScript command exited with code 1",
                "isBatchFinished": index == len(batch.script) - 1 or not ok,
                "eventDate": to_rfc3339(EPOCH_NS),
            }
        )
        self._changed.set()
        self._changed = asyncio.Event()

    def finish_all(self, batch_id: str) -> None:
        while len(self.batches[batch_id].results) < len(self.batches[batch_id].script):
            self.finish(batch_id)

    async def _exec(self, _call: Call, body: Any) -> object:
        batch_id, script = body["batchId"], body["exeScript"]
        known = self.batches.get(batch_id)
        if known is not None:
            same = script_digest(known.script) == script_digest(script)
            if same and not self._legacy:
                return batch_id
            raise UsageError(f"Batch {batch_id} already exists")
        if batch_id in self.never:
            raise UsageError(f"Batch {batch_id} was resolved as never accepted")
        if self.refuses is not None:
            raise UsageError(self.refuses)
        self.batches[batch_id] = RunningBatch(script)
        if self.auto:
            self.finish_all(batch_id)
        return batch_id

    async def _results(self, _call: Call, body: Any) -> object:
        batch = self.batches.get(body["batchId"])
        if batch is None:
            raise NotFound(f"batch_id = {body['batchId']}")
        index = body.get("commandIndex")
        last = len(batch.script) - 1 if index is None else index
        try:
            async with asyncio.timeout(body.get("timeout") or 0):
                while len(batch.results) <= last:
                    await self._changed.wait()
        except TimeoutError:
            if index is not None:
                raise TimedOut("Timeout") from None
        found = batch.results[: last + 1]
        if index is None:
            return found
        muted = [{**entry, "stdout": None, "stderr": None} for entry in found[:-1]]
        return [*muted, *({**entry, "isBatchFinished": True} for entry in found[-1:])]

    async def _resolve(self, _call: Call, body: Any) -> object:
        batch_id = body["batchId"]
        if batch_id not in self.batches:
            self.never.add(batch_id)
        return {"accepted": batch_id in self.batches}

    async def _list(self, _call: Call, body: Any) -> object:
        """Name two batches at a time."""
        first = body["from"]
        page = [
            {"batchId": name, "script": batch.script, "acceptedNs": EPOCH_NS + number}
            for number, (name, batch) in enumerate(self.batches.items())
        ][first : first + 2]
        return {"batches": page, "total": len(self.batches)}

    async def _list(self, _call: Call, body: Any) -> object:
        listed = [
            {
                "batchId": batch_id,
                "script": batch.script,
                "acceptedNs": EPOCH_NS + position,
                "results": len(batch.results),
            }
            for position, (batch_id, batch) in enumerate(self.batches.items())
        ]
        return {"batches": listed[body.get("from") or 0 :], "total": len(listed)}

    async def _running(self, _call: Call, _body: object) -> object:
        return [{"command": "Run", "progress": None, "params": []}]

    async def _stream(self, _call: Call, body: Any) -> AsyncIterator[object]:
        for index, kind in enumerate(({"stdout": "hi\n"}, {"finished": {"return_code": 0}})):
            await asyncio.sleep(self.stream_pause_s if index else 0)
            yield {
                "kind": kind,
                "batch_id": body["batch_id"],
                "timestamp": "2026-11-23T20:00:00.123456",
                "index": index,
            }

    async def _sealed(self, _call: Call, body: Any) -> object:
        """Be an enclave: nobody else can read what it is told."""
        return list(as_bytes(body["bytes"])[::-1])

    async def _http(self, _call: Call, body: Any) -> object:
        """Be a service that echoes: status 201, what it was asked as its body."""
        self.http.append(body)
        if self.http_reply is not None:
            return self.http_reply
        headers = {"x-service": ["one", "two"], "content-type": ["text/x"], "connection": ["close"]}
        return {
            "header": {"response_headers": headers, "status_code": 201},
            "body": {"msg_bytes": b"\xff" + as_bytes(body.get("body") or b"")},
        }

    async def _http_stream(self, _call: Call, body: Any) -> AsyncIterator[object]:
        self.http.append(body)
        yield {"Header": {"response_headers": {"x-service": ["s"]}, "status_code": 200}}
        for part in (b"data: 1\n\n", b"data: 2\n\n"):
            yield {"Body": {"msg_bytes": part}}


def _payload(error: ShemError) -> object:
    if isinstance(error, TimedOut):
        return "timeout"
    return {"notFound" if isinstance(error, NotFound) else "badRequest": error.message}


class Agent:
    """The provider agent: starts and ends ExeUnits as the events say, and reports their usage."""

    def __init__(self, town: "Town", *, legacy: bool = False) -> None:
        self.units: dict[str, ExeUnit] = {}
        self.events: list[str] = []
        self.starts = True
        self.ends = True
        self._legacy = legacy
        self._town = town
        self._after_ns = 0

    async def run(self) -> None:
        while True:
            node = self._town.provider
            if node._stack is not None:
                await self._step(node)
            await asyncio.sleep(0.5)

    async def _step(self, node: Node) -> None:
        for event in await node.service.events(node.caller, self._after_ns, "session-1", 10):
            self._after_ns = event.event_ns
            self.events.append(event.kind)
            if event.kind == "CreateActivity" and self.starts:
                await self._start(event.activity_id)
            if event.kind == "DestroyActivity" and self.ends:
                await self._end(event.activity_id)
        for unit in self.units.values():
            if unit.alive and node._stack is not None:
                await unit.report_usage(1.0, 2.0)

    async def _start(self, activity_id: str) -> None:
        unit = self.units[activity_id] = ExeUnit(self._town, activity_id, legacy=self._legacy)
        unit.bind()
        await unit.report_state("Initialized", None)

    async def _end(self, activity_id: str) -> None:
        unit = self.units.get(activity_id)
        if unit is not None and unit.alive:
            unit.alive = False
            unit.unbind()
            await unit.report_state("Terminated", None, reason="Finished")

    @property
    def unit(self) -> ExeUnit:
        """The only ExeUnit."""
        (unit,) = self.units.values()
        return unit


class Town:
    """Requestor, provider and a stranger."""

    def __init__(self, directory: Path, *, legacy: bool = False) -> None:
        self.directory = directory
        self.world = World(clock=VirtualClock(), rng=SeededRng(1))
        self.fabric = MemoryFabric()
        features = frozenset() if legacy else FEATURES
        self.requestor = Node(self, REQUESTOR, Role.REQUESTOR, FEATURES)
        self.provider = Node(self, PROVIDER, Role.PROVIDER, features)
        self.stranger = Node(self, STRANGER, None, FEATURES)
        self.agent = Agent(self, legacy=legacy)
        self._scope = TaskScope()

    async def __aenter__(self) -> "Town":
        for node in (self.requestor, self.provider, self.stranger):
            await node.start()
        await self._scope.__aenter__()
        self._scope.spawn(self.agent.run(), "agent")
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._scope.__aexit__(None, None, None)
        for node in (self.requestor, self.provider, self.stranger):
            await node.stop()

    def cut(self) -> None:
        self.fabric.cut(REQUESTOR, PROVIDER)

    def join(self) -> None:
        self.fabric.join(REQUESTOR, PROVIDER)

    async def create(self, timeout_s: float = 10) -> str:
        service, caller = self.requestor.service, self.requestor.caller
        return await service.create(caller, AGREEMENT, timeout_s=timeout_s)

    async def exec(self, activity_id: str, text: str = RUN, **options: Any) -> str:
        service, caller = self.requestor.service, self.requestor.caller
        options = {"batch_id": None, "timeout_s": 5, **options}
        return await service.execute(caller, activity_id, text, **options)

    async def results(
        self, activity_id: str, batch_id: str, timeout_s: float = 5, index: int | None = None
    ) -> list[dict[str, Any]]:
        service, caller = self.requestor.service, self.requestor.caller
        return await service.results(
            caller, activity_id, batch_id, timeout_s=timeout_s, command_index=index
        )

    async def batches(self, activity_id: str) -> dict[str, dict[str, Any]]:
        rows = await self.requestor.service.batches(self.requestor.caller, activity_id)
        return {str(row["batchId"]): row for row in rows}

    async def state(self, activity_id: str, node: Node | None = None) -> Any:
        asked = node or self.requestor
        state = await asked.service.state(asked.caller, activity_id, 5)
        return state.wire()["state"]

    async def destroy(self, activity_id: str, timeout_s: float = 5) -> None:
        await self.requestor.service.destroy(self.requestor.caller, activity_id, timeout_s)


Story = Callable[[Town], Awaitable[None]]
Play = Callable[[Story], None]


def players(directory: Path, *, legacy: bool) -> Play:
    """Return what plays a story, on virtual time, in a town of its own."""

    async def told(story: Story) -> None:
        async with Town(directory, legacy=legacy) as town:
            await story(town)

    return lambda story: run_virtually(told(story))
