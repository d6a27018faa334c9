"""The proxy for programs: what it reads, where it leads, and what it refuses."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from shem.exeunit.addresses import PrivateAddress, require_public
from shem.exeunit.outbound import gateway as gateway_module
from shem.exeunit.outbound import proxy as proxy_module
from shem.exeunit.outbound.gateway import COUNTER, Gateway
from shem.exeunit.outbound.grants import Grants
from shem.exeunit.outbound.heads import END, HEADERS_MAX, Asked, parse_head
from shem.exeunit.outbound.proxy import CONNECTED, Proxy
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.runtimes.container.way_out import connected, hand_over, proxy_environment
from shem.kernel.errors import UsageError
from shem.kernel.world import World
from shem.rest.manifest import decode_manifest
from tests.certified import reaching


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        (["CONNECT a.com:443 HTTP/1.1", "Host: a.com:443"], Asked("a.com", 443)),
        (["CONNECT A.COM.:22 HTTP/1.0"], Asked("a.com", 22)),
        (["CONNECT [2001:DB8::1]:443 HTTP/1.1"], Asked("2001:db8::1", 443)),
        (
            ["GET http://a.com/x?y=1 HTTP/1.1", "Host: evil.com", "Accept: */*"],
            Asked(
                "a.com",
                80,
                b"GET /x?y=1 HTTP/1.1\r\nHost: a.com\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            ),
        ),
        (
            [
                "POST HTTP://A.com:8080 HTTP/1.0",
                "Proxy-Authorization: Basic x",
                "Proxy-Connection: keep-alive",
                "Connection: keep-alive",
                "Content-Length: 3",
            ],
            Asked(
                "a.com",
                8080,
                b"POST / HTTP/1.0\r\nHost: a.com:8080\r\nContent-Length: 3\r\n"
                b"Connection: close\r\n\r\n",
            ),
        ),
    ],
)
def test_what_a_program_asks(lines: list[str], asked: Asked) -> None:
    assert parse_head("\r\n".join(lines).encode() + END) == asked


@pytest.mark.parametrize(
    "lines",
    [
        [""],
        ["GET / HTTP/1.1", "Host: a.com"],
        ["GET https://a.com/ HTTP/1.1"],
        ["GET ftp://a.com/ HTTP/1.1"],
        ["GET http:///x HTTP/1.1"],
        ["GET http://user:word@a.com/ HTTP/1.1"],
        ["GET http://a.com/ HTTP/2"],
        ["GET http://a.com/ x HTTP/1.1"],
        ["GET http://a.com/"],
        ["G\tT http://a.com/ HTTP/1.1"],
        ["CONNECT a.com HTTP/1.1"],
        ["CONNECT a.com:0 HTTP/1.1"],
        ["CONNECT a.com:70000 HTTP/1.1"],
        ["CONNECT a.com:١ HTTP/1.1"],
        ["CONNECT a.com:+1 HTTP/1.1"],
        ["CONNECT :443 HTTP/1.1"],
        ["CONNECT ::1:443 HTTP/1.1"],
        ["CONNECT a b:443 HTTP/1.1"],
        ["CONNECT http://a.com/ HTTP/1.1"],
        ["GET http://a.com/ HTTP/1.1", "no colon"],
        ["GET http://a.com/ HTTP/1.1", " folded: x"],
        ["GET http://a.com/ HTTP/1.1", "Space : x"],
        ["GET http://a.com/ HTTP/1.1", ": x"],
        ["GET http://a.com/ HTTP/1.1", "X: a\nHost: b"],
        ["GET http://a.com/ HTTP/1.1", "X: a\rHost: b"],
        ["GET http://a.com/ HTTP/1.1", "X: é"],
        ["GET http://a.com/ HTTP/1.1", *["X: y"] * (HEADERS_MAX + 1)],
    ],
)
def test_what_is_no_request_to_a_proxy_is_refused(lines: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_head("\r\n".join(lines).encode() + END)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.9.9", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
        *("2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1", "ff02::1", "::ffff:224.0.0.1"),
    ],
)
def test_the_own_network_is_not_for_requestors(address: str) -> None:
    with pytest.raises(PrivateAddress):
        require_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_internet_is(address: str) -> None:
    require_public(address)


def place(family: int, address: str, netmask: str | None) -> SimpleNamespace:
    """Return one address of an interface, as psutil tells it."""
    return SimpleNamespace(family=family, address=address, netmask=netmask)


def test_an_address_of_the_internet_on_our_own_link_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    link = place(socket.AF_INET6, "2001:db9::5%eth0", "ffff:ffff:ffff:ffff::")
    other = place(socket.AF_INET, "8.8.4.4", "255.255.255.0")
    hardware = place(socket.AF_PACKET, "00:00:00:00:00:00", None)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [hardware, link, other]})

    for near in ("2001:db9::77", "8.8.4.9"):
        with pytest.raises(PrivateAddress, match="own network"):
            require_public(near)
    for far in ("2001:db9:0:1::77", "8.8.8.8"):
        require_public(far)


def test_grants_are_hosts_and_ports() -> None:
    wanted = reaching("https://A.com/x", "http://b.com:81", "udp://c.com:53", "tcp://1.2.3.4:5")
    grants = Grants.of(decode_manifest(wanted).outbound)

    for place in (("a.com", 443), ("b.com", 81), ("1.2.3.4", 5)):
        assert grants.permit(*place)
    for place in (("a.com", 80), ("b.com", 80), ("c.com", 53), ("www.a.com", 443), ("", 443)):
        assert not grants.permit(*place)
    assert Grants.of(decode_manifest(reaching()).outbound).permit("anything", 1)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[int]:
    async with await asyncio.start_server(handler, "127.0.0.1", 0) as found:
        yield found.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write(b"end")
    writer.close()


async def say(port: int, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes to a port; return all that comes back until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHEM_PRIVATE_TRANSFERS", "yes")


def proxy_to(*places: tuple[str, int], silence_s: float = 60.0) -> Proxy:
    return Proxy(Grants(frozenset(places)), World().clock.monotonic, silence_s=silence_s)


def connect_to(port: int, host: str = "localhost") -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.usefixtures("private")
async def test_a_granted_place_is_reached_and_what_moves_is_counted() -> None:
    async with server(echo) as there:
        proxy = proxy_to(("localhost", there))
        async with server(proxy.serve) as port:
            body = bytes(300_000)
            assert await say(port, connect_to(there) + body) == CONNECTED + body + b"end"

        assert (proxy.traffic.sent, proxy.traffic.received) == (len(body), len(body) + 3)
        assert (proxy.traffic.connections, proxy.traffic.refused) == (1, 0)


@pytest.mark.usefixtures("private")
async def test_requests_are_passed_on_with_the_host_that_was_checked() -> None:
    async with server(echo) as there:
        proxy = proxy_to(("localhost", there))
        async with server(proxy.serve) as port:
            request = f"GET http://localhost:{there}/a HTTP/1.1\r\nHost: other\r\n\r\nbody"
            answer = await say(port, request.encode())

    assert (
        answer
        == (
            f"GET /a HTTP/1.1\r\nHost: localhost:{there}\r\nConnection: close\r\n\r\nbodyend"
        ).encode()
    )


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (lambda there: connect_to(there, "127.0.0.1"), 403),
        (lambda there: connect_to(there + 1), 403),
        (lambda there: b"GET http://localhost/ HTTP/1.1\r\n\r\n", 403),
        (lambda there: b"GET / HTTP/1.1\r\n\r\n", 400),
        (lambda there: b"\x16\x03\x01 hello\r\n\r\n", 400),
        (lambda there: b"GET http://a.com/ HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (lambda there: connect_to(1, "nowhere.invalid"), 502),
        (lambda there: connect_to(1), 502),
    ],
)
async def test_everything_else_is_refused_with_a_status(
    request_of: Callable[[int], bytes], status: int
) -> None:
    async with server(echo) as there:
        proxy = proxy_to(("localhost", there), ("localhost", 1), ("nowhere.invalid", 1))
        async with server(proxy.serve) as port:
            answer = await say(port, request_of(there))

    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert proxy.traffic.refused == 1
    assert proxy.traffic.connections == 0


async def test_a_granted_name_does_not_lead_into_the_own_network() -> None:
    async with server(echo) as there:
        for grants in (Grants(frozenset({("localhost", there)})), Grants(unrestricted=True)):
            proxy = Proxy(grants, World().clock.monotonic)
            async with server(proxy.serve) as port:
                answer = await say(port, connect_to(there))
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b"localhost is not on the internet" in answer


async def test_who_asks_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "HEAD_TIMEOUT_S", 0.05)
    async with server(proxy_to().serve) as port:
        assert (await say(port, b"GET", end=False)).startswith(b"HTTP/1.1 408 ")
        assert await say(port, b"GET") == b""


@pytest.mark.usefixtures("private")
async def test_a_connection_on_which_nothing_moves_is_cut() -> None:
    async with server(echo) as there:
        proxy = proxy_to(("localhost", there), silence_s=0.2)
        async with server(proxy.serve) as port:
            assert (await say(port, connect_to(there) + b"x", end=False)).startswith(CONNECTED)


@pytest.mark.usefixtures("private")
async def test_connections_and_traffic_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(proxy_module, "TRAFFIC_MAX", 1_000_000)
    async with server(echo) as there:
        proxy = proxy_to(("localhost", there))
        async with server(proxy.serve) as port:
            _, first = await asyncio.open_connection("127.0.0.1", port)
            first.write(b"CONNECT")
            await first.drain()
            async with asyncio.timeout(10):
                while proxy._open == 0:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            assert (await say(port, connect_to(there))).startswith(b"HTTP/1.1 503 ")
            first.close()
            async with asyncio.timeout(10):
                while proxy._open > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

            cut = await say(port, connect_to(there) + bytes(3_000_000))
            assert len(cut) < 2_000_000
            assert (await say(port, connect_to(there))).startswith(b"HTTP/1.1 403 ")


@pytest.mark.usefixtures("private")
async def test_a_gateway_takes_the_socket_that_a_keeper_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_dir = tmp_path / ("long" * 30)
    work_dir.mkdir()
    monkeypatch.chdir(work_dir)
    async with server(echo) as there:
        gateway = Gateway(Grants(frozenset({("localhost", there)})), work_dir, World())
        for _ in range(2):  # as often as the container is started
            await gateway.prepare()
            port = await asyncio.to_thread(keep, gateway.options()[1])
            await gateway.open()

            assert (await say(port, connect_to(there) + b"x")) == CONNECTED + b"xend"

        assert 0 < gateway.counters()[COUNTER] < 1e-6
        await gateway.close()
        with pytest.raises(ConnectionRefusedError):
            await say(port, b"")


def keep(path: str) -> int:
    with connected(path) as supervisor:
        assert supervisor is not None
        return hand_over(supervisor)


async def test_a_keeper_that_hands_nothing_over_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gateway_module, "HANDOVER_TIMEOUT_S", 0.2)
    gateway = Gateway(Grants(), tmp_path, World())
    await gateway.prepare()
    with connected(gateway.options()[1]):
        pass
    with pytest.raises(RuntimeFault, match="no way out"):
        await gateway.open()

    await gateway.prepare()
    with pytest.raises(RuntimeFault, match="no way out"):
        await gateway.open()


def test_programs_are_told_of_the_proxy() -> None:
    told = proxy_environment(4711)

    assert told["http_proxy"] == told["https_proxy"] == "http://127.0.0.1:4711"
    assert "HTTP_PROXY" not in told  # a CGI program would take a header for it
