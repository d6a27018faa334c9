import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shem.bus.client import BusClient
from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.bus.types import LOCAL_CALLER, Call, GsbCode, GsbError, RemoteError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import GsbAddress
from shem.kernel.errors import Conflict, Denied, NotFound, TimedOut, Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.wire.gsb import (
    BroadcastReply,
    BroadcastRequest,
    CallReply,
    CallRequest,
    Code,
    FrameReader,
    Hello,
    Packet,
    Ping,
    Pong,
    RegisterReply,
    RegisterRequest,
    ReplyType,
    SubscribeReply,
    SubscribeRequest,
    UnregisterReply,
    UnregisterRequest,
    UnsubscribeReply,
    UnsubscribeRequest,
    decode_packet,
    encode_packet,
    frame,
)

ME = Caller(NodeId("0x" + "1" * 40), Assurance.LOCAL)


class Raw:
    """A client that speaks packets, as foreign ones do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._frames = FrameReader()
        self._packets: list[Packet] = []

    def write(self, *packets: Packet) -> None:
        self.writer.write(b"".join(frame(encode_packet(packet)) for packet in packets))

    async def read(self) -> Packet | None:
        while not self._packets:
            data = await asyncio.wait_for(self._reader.read(65_536), 5)
            if not data:
                return None
            self._packets += map(decode_packet, self._frames.feed(data))
        return self._packets.pop(0)

    async def ask(self, *packets: Packet) -> Packet | None:
        self.write(*packets)
        return await self.read()


class Station:
    """A bus with its socket, and clients that are closed with it."""

    def __init__(self, path: Path) -> None:
        self.address = GsbAddress(path=path)
        self.bus = Bus()
        self.stack = AsyncExitStack()
        self.server = self.new_server()

    def new_server(self, **options: float) -> SocketServer:
        return SocketServer(self.bus, self.address, world=World(), caller=ME, **options)

    async def raw(self) -> Raw:
        reader, writer = await asyncio.open_unix_connection(str(self.address.path))
        self.stack.callback(writer.close)
        raw = Raw(reader, writer)
        assert isinstance(await raw.read(), Hello)
        return raw

    async def client(self, *, reconnect: bool = True) -> BusClient:
        client = BusClient(self.address, reconnect=reconnect)
        await self.stack.enter_async_context(client)
        await client.connected()
        return client


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[Station]:
    station = Station(tmp_path / "gsb.sock")
    async with station.server, station.stack:
        yield station


async def echo(call: Call) -> bytes:
    return f"{call.caller_text} {call.address} ".encode() + call.data


async def silent(call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - there is no event for it on the outside
            await asyncio.sleep(0.005)


async def test_the_socket_is_the_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "gsb.sock"
    async with Station(path).server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert not path.exists()


async def test_a_socket_left_behind_is_replaced_a_served_one_is_not(station: Station) -> None:
    with pytest.raises(Conflict):
        await station.new_server().__aenter__()

    stale = station.address.path.with_name("stale.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    async with Station(stale).server:
        assert stale.is_socket()


async def test_a_call_of_a_client_is_a_local_one_whatever_it_says(station: Station) -> None:
    seen: list[Call] = []

    async def handler(call: Call) -> bytes:
        seen.append(call)
        return b"ok"

    station.bus.bind("/local/x", handler)
    raw = await station.raw()

    reply = await raw.ask(CallRequest("0x" + "9" * 40, "/local/x/Y", "77", b"data"))

    assert reply == CallReply("77", data=b"ok")
    assert (seen[0].caller, seen[0].caller_text) == (ME, "0x" + "9" * 40)


async def test_an_unknown_address_is_answered_as_the_real_router_does(station: Station) -> None:
    raw = await station.raw()
    reply = await raw.ask(CallRequest("local", "/nothing", "1"))

    assert reply == CallReply("1", Code.BAD_REQUEST, data=b"endpoint address not found")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (GsbError("boom"), Code.SERVICE_FAILURE, b"boom"),
        (GsbError("no", GsbCode.BAD_REQUEST), Code.BAD_REQUEST, b"no"),
        (Denied("not yours"), Code.SERVICE_FAILURE, b"not yours"),
        (ZeroDivisionError("secret"), Code.SERVICE_FAILURE, b"internal error"),
    ],
)
async def test_a_failing_service_is_a_text_and_the_connection_lives_on(
    station: Station, error: Exception, code: Code, text: bytes
) -> None:
    async def failing(call: Call) -> bytes:
        raise error

    station.bus.bind("/local/x", failing)
    raw = await station.raw()

    assert await raw.ask(CallRequest("local", "/local/x", "1")) == CallReply("1", code, data=text)
    assert await raw.ask(Ping()) == Pong()


async def test_a_push_is_never_answered(station: Station) -> None:
    raw = await station.raw()

    assert await raw.ask(CallRequest("me", "/nothing", "1", no_reply=True), Ping()) == Pong()


async def test_registering_routes_calls_to_the_client_until_it_unregisters(
    station: Station,
) -> None:
    raw = await station.raw()
    assert await raw.ask(Hello("x", "1", bytes(16)), RegisterRequest("/public/x")) == (
        RegisterReply()
    )
    assert await raw.ask(RegisterRequest("/public/x")) == RegisterReply(Code.CONFLICT)
    assert await raw.ask(RegisterRequest("")) == RegisterReply(
        Code.BAD_REQUEST, "an address prefix has 1 to 1024 characters"
    )

    call = asyncio.ensure_future(station.bus.call(ME, "/public/x/Y", b"in", timeout_s=5))
    request = await raw.read()
    assert isinstance(request, CallRequest)
    assert (request.caller, request.address, request.data) == (ME.node_id, "/public/x/Y", b"in")
    raw.write(CallReply("unknown", data=b"?"), CallReply(request.request_id, data=b"out"))
    raw.write(CallReply(request.request_id, data=b"late"))
    assert await call == b"out"

    assert await raw.ask(UnregisterRequest("/public/x")) == UnregisterReply()
    assert await raw.ask(UnregisterRequest("/public/x")) == UnregisterReply(Code.NOT_FOUND)
    with pytest.raises(GsbError, match="not found"):
        await station.bus.call(ME, "/public/x/Y", b"", timeout_s=5)


async def test_a_dead_connection_frees_its_addresses_even_without_a_hello(
    station: Station,
) -> None:
    raw = await station.raw()
    await raw.ask(RegisterRequest("/public/x"))
    call = asyncio.ensure_future(station.bus.call(ME, "/public/x", b"", timeout_s=60))
    await raw.read()

    raw.writer.close()

    with pytest.raises(Unreachable, match="lost connection"):
        await asyncio.wait_for(call, 5)
    await until(lambda: not station.bus.is_bound("/public/x"))


async def test_a_process_that_comes_back_displaces_its_old_connection(station: Station) -> None:
    old, new = await station.raw(), await station.raw()
    await old.ask(Hello("unit", "1", b"i" * 16), RegisterRequest("/public/x"))

    assert await new.ask(Hello("unit", "1", b"i" * 16), RegisterRequest("/public/x")) == (
        RegisterReply()
    )
    assert await old.read() is None


@pytest.mark.parametrize(
    "data",
    [
        bytes(4),
        bytes.fromhex("00000003820100"),
        b"\xff\xff\xff\xff",
        frame(encode_packet(Hello("a", "1", b""))) * 2,
        frame(encode_packet(RegisterReply())),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_client_that_breaks_the_protocol_is_dropped_alone(
    station: Station, data: bytes
) -> None:
    bad, good = await station.raw(), await station.raw()

    bad.writer.write(data)

    assert await bad.read() is None
    assert await good.ask(Ping()) == Pong()


async def test_a_stream_is_partial_replies_and_an_empty_full_one(station: Station) -> None:
    async def counting(call: Call) -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"

    station.bus.bind_stream("/local/n", counting)
    raw = await station.raw()
    raw.write(CallRequest("local", "/local/n", "7"))

    assert [await raw.read() for _ in range(3)] == [
        CallReply("7", reply_type=ReplyType.PARTIAL, data=b"1"),
        CallReply("7", reply_type=ReplyType.PARTIAL, data=b"2"),
        CallReply("7"),
    ]


async def test_topics_reach_their_subscribers_verbatim(station: Station) -> None:
    raw, other = await station.raw(), await station.raw()
    broadcast = BroadcastRequest("me", b"payload", "t1")

    assert await raw.ask(BroadcastRequest("me", b"unheard", "t1")) == BroadcastReply()
    for _ in range(2):
        assert await raw.ask(SubscribeRequest("t1")) == SubscribeReply()
    assert await other.ask(broadcast) == BroadcastReply()
    assert await raw.read() == broadcast
    assert await raw.ask(UnsubscribeRequest("t1")) == UnsubscribeReply()
    assert await raw.ask(UnsubscribeRequest("t1")) == UnsubscribeReply(Code.NOT_FOUND)


async def test_a_silent_client_is_pinged_and_then_dropped(tmp_path: Path) -> None:
    station = Station(tmp_path / "gsb.sock")
    async with station.new_server(ping_interval_s=0.05, ping_timeout_s=0.12), station.stack:
        raw = await station.raw()

        assert await raw.read() == Ping()
        raw.write(Pong())
        seen = []
        while (packet := await raw.read()) is not None:
            seen.append(packet)
        assert set(seen) == {Ping()}


async def test_a_client_calls_serves_and_streams(station: Station) -> None:
    async def double(call: Call, body: object) -> object:
        assert isinstance(body, int)
        if body < 0:
            raise NotFound("negative")
        return body * 2

    async def counting(call: Call) -> AsyncIterator[bytes]:
        for number in range(3):
            yield str(number).encode()

    one, other = await station.client(), await station.client(reconnect=False)
    await one.serve("/public/unit/Double", double)
    await one.bind_stream("/public/unit/Count", counting)
    station.bus.bind("/local/echo", echo)

    assert await other.request("/public/unit/Double", 21, timeout_s=5) == 42
    with pytest.raises(RemoteError) as refusal:
        await other.request("/public/unit/Double", -1, timeout_s=5)
    assert refusal.value.payload == {"message": "negative"}
    items = other.stream("/public/unit/Count", b"", timeout_s=5)
    assert [item async for item in items] == [b"0", b"1", b"2"]
    assert await other.call("/local/echo", b"x", timeout_s=5) == b"local /local/echo x"
    with pytest.raises(GsbError, match="endpoint address not found"):
        await other.call("/nowhere", b"", timeout_s=5)
    with pytest.raises(GsbError, match="streaming response"):
        await other.call("/public/unit/Count", b"", timeout_s=5)


async def test_a_call_longer_than_its_time_out_fails(station: Station) -> None:
    station.bus.bind("/local/silent", silent)
    client = await station.client()

    with pytest.raises(TimedOut):
        await client.call("/local/silent", b"", timeout_s=0.02)


async def test_an_address_is_bound_by_one_process_at_a_time(station: Station) -> None:
    one, other = await station.client(), await station.client()
    await one.bind("/public/x", echo)

    with pytest.raises(Conflict):
        await other.bind("/public/x", echo)
    with pytest.raises(Conflict):
        await one.bind("/public/x", echo)
    await one.unbind("/public/x")
    await one.unbind("/public/x")
    await other.bind("/public/x", echo)

    assert await station.bus.call(ME, "/public/x", b"", timeout_s=5)


async def test_a_client_comes_back_after_its_node_and_serves_as_before(tmp_path: Path) -> None:
    station = Station(tmp_path / "gsb.sock")
    async with station.stack:
        async with station.server:
            client = await station.client()
            connections: list[int] = []
            client.on_connected(lambda: connections.append(1))
            await client.bind("/public/unit", echo)
            await until(lambda: bool(connections))
            station.bus.bind("/local/silent", silent)
            call = asyncio.ensure_future(client.call("/local/silent", b"", timeout_s=60))
            await until(lambda: not call.done() and client.is_connected)
        with pytest.raises(Unreachable, match="lost connection"):
            await asyncio.wait_for(call, 5)
        await until(lambda: not client.is_connected)
        await client.bind("/public/unit/late", echo)
        assert not station.bus.is_bound("/public/unit")

        async with station.new_server():
            await until(lambda: station.bus.is_bound("/public/unit/late"))
            answer = await station.bus.call(ME, "/public/unit/X", b"again", timeout_s=5)
            assert answer.endswith(b"again")
            await until(lambda: connections == [1, 1])


async def test_an_address_bound_as_the_connection_breaks_is_served_over_the_next(
    station: Station,
) -> None:
    client = await station.client()
    assert client._link is not None
    client._link.close()

    await client.bind("/public/x", echo)

    await until(lambda: station.bus.is_bound("/public/x"))
    assert await station.bus.call(ME, "/public/x", b"back", timeout_s=5)


async def test_a_connection_that_ends_fails_the_registration_that_waits(tmp_path: Path) -> None:
    address = GsbAddress(path=tmp_path / "deaf.sock")

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_unix_server(deaf, str(address.path))
    async with server, BusClient(address, reconnect=False) as client:
        await client.connected()
        with pytest.raises(Unreachable):
            await client.bind("/public/x", echo)


async def test_an_address_taken_at_the_return_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.bus.client.REGISTER_AGAIN_S", 0.01)
    station = Station(tmp_path / "gsb.sock")
    async with station.stack:
        async with station.server:
            client = await station.client()
            await client.bind("/public/unit", echo)
        async with station.new_server():
            blocker = station.bus.bind("/public/unit", silent)
            await client.connected()
            blocker.close()

            await until(lambda: station.bus.is_bound("/public/unit"))


async def test_a_call_waits_for_the_node_within_its_time_out(tmp_path: Path) -> None:
    station = Station(tmp_path / "gsb.sock")
    station.bus.bind("/local/echo", echo)
    client = BusClient(station.address)
    async with client:
        with pytest.raises(Unreachable):
            await client.call("/local/echo", b"", timeout_s=0.02)
        call = asyncio.ensure_future(client.call("/local/echo", b"x", timeout_s=10))
        async with station.server:
            assert await call == b"local /local/echo x"


async def test_a_one_off_client_fails_at_once_without_a_node(station: Station) -> None:
    nowhere = GsbAddress(path=station.address.path.with_name("nothing.sock"))

    with pytest.raises(Unreachable):
        await BusClient(nowhere, reconnect=False).__aenter__()


async def test_a_one_off_client_does_not_come_back(tmp_path: Path) -> None:
    station = Station(tmp_path / "gsb.sock")
    async with station.stack:
        async with station.server:
            client = await station.client(reconnect=False)
        await until(lambda: not client.is_connected)

        with pytest.raises(Unreachable):
            await client.call("/local/x", b"", timeout_s=5)
        with pytest.raises(Unreachable):
            await client.bind("/local/x", echo)


async def test_an_error_leaves_the_blocks_of_server_and_client_as_it_is(tmp_path: Path) -> None:
    station = Station(tmp_path / "gsb.sock")
    with pytest.raises(GsbError, match="endpoint address not found"):
        async with station.server, BusClient(station.address, reconnect=False) as client:
            await client.call("/nowhere", b"", timeout_s=5)


async def test_the_bus_is_served_over_tcp_too() -> None:
    bus = Bus()
    bus.bind("/local/echo", echo)
    address = GsbAddress(host="127.0.0.1", port=0)
    async with (
        SocketServer(bus, address, world=World()) as server,
        BusClient(server.address) as client,
    ):
        big = bytes(1024 * 1024)
        assert (await client.call("/local/echo", big, timeout_s=5)).endswith(big)


async def test_a_slow_reader_does_not_stop_the_others(station: Station) -> None:
    """Replies to a client that does not read fill its buffers; another client is served."""
    station.bus.bind("/local/echo", echo)
    slow, quick = await station.raw(), await station.client()
    for number in range(50):
        slow.write(CallRequest("local", "/local/echo", str(number), bytes(200_000)))
        await slow.writer.drain()

    assert await quick.call("/local/echo", b"x", timeout_s=5) == b"local /local/echo x"


async def test_calls_in_both_directions_at_once(station: Station) -> None:
    client = await station.client()

    async def back(call: Call) -> bytes:
        return await client.call("/local/echo", call.data, timeout_s=5)

    station.bus.bind("/local/echo", echo)
    await client.bind("/public/back", back)

    answers = await asyncio.gather(
        *(
            station.bus.call(LOCAL_CALLER, "/public/back", str(n).encode(), timeout_s=5)
            for n in range(100)
        )
    )
    assert [answer.rpartition(b" ")[2] for answer in answers] == [
        str(n).encode() for n in range(100)
    ]
