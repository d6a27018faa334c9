"""A container whose agreement grants a way out: to these places, and to no others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.busybox_image import requires_container
from tests.certified import reaching
from tests.crash.exeunit_site import Daemon
from tests.e2e.container_site import ContainerSite, sh

pytestmark = requires_container()
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"


@asynccontextmanager
async def web_server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve one page on loopback; yield the port, and what was asked for."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(PAGE)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def out(daemon: Daemon, batch: str, script: str) -> str:
    [result] = await daemon.run(batch, sh(script))
    return str(result["stdout"] or "") + str(result["stderr"] or "")


@asynccontextmanager
async def site(directory: Path, manifest: str | None, **env: str) -> AsyncIterator[ContainerSite]:
    found = ContainerSite(directory)
    if manifest is not None:
        package = f"hash:sha3:{found.image.sha3_256}:{found.image.path.as_uri()}"
        found.write_agreement(task_package=package, payload=manifest)
    try:
        yield found
    finally:
        await found.kill_all()


@pytest.mark.parametrize("allowed", [True, False])
async def test_what_is_granted_is_reached_and_nothing_else(short_dir: Path, allowed: bool) -> None:
    async with web_server() as (port, asked), web_server() as (other_port, other_asked):
        granted = f"http://localhost:{port}"
        async with site(short_dir, reaching(granted)) as found, found.daemon() as daemon:
            env = {"SHEM_PRIVATE_TRANSFERS": "yes"} if allowed else {}
            await found.start("--runtime", "container", **env)
            await daemon.unit_is_bound()
            await daemon.run("setup", {"deploy": {}}, {"start": {"args": []}})

            fetch = "unset no_proxy NO_PROXY; wget -q -O - "
            answer = await out(daemon, "granted", f"{fetch} {granted}/page 2>&1")
            if allowed:
                assert answer == "hello\n"
                assert asked[0].startswith(b"GET /page HTTP/1.")
                assert f"Host: localhost:{port}\r\n".encode() in asked[0]
            else:
                assert "403" in answer
            elsewhere = f"{fetch} http://localhost:{other_port}/ 2>&1"
            assert "403" in await out(daemon, "elsewhere", elsewhere)
            around = f"nc 127.0.0.1 {port} < /dev/null || true"
            assert "refused" in await out(daemon, "around", around)
            assert "lo" in await out(daemon, "links", "ip link")

            connect = (
                f"printf 'CONNECT localhost:{port} HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.1\\r\\n\\r\\n'"
                " | nc $(echo ${https_proxy#http://} | tr : ' ')"
            )
            answer = await out(daemon, "connect", connect)
            assert answer.startswith(
                "HTTP/1.1 200 Connection established" if allowed else "HTTP/1.1 403"
            )
            assert answer.endswith("hello\n") is allowed
            assert other_asked == []
            log = found.log.read_text()
            assert ("outbound.connected" in log) is allowed
            assert "outbound.refused" in log


async def test_without_a_manifest_nothing_is_reached(short_dir: Path) -> None:
    async with (
        web_server() as (port, asked),
        site(short_dir, None) as found,
        found.daemon() as daemon,
    ):
        await found.set_up(daemon)

        look = f"env | grep -i proxy; nc 127.0.0.1 {port} < /dev/null; ip link | grep -c mtu"
        answer = await out(daemon, "env", look)

        assert "proxy" not in answer
        assert answer.startswith("1\n")
        assert "Connection refused" in answer
        assert asked == []


async def test_the_way_out_is_there_again_after_the_exeunit_was_killed(short_dir: Path) -> None:
    async with web_server() as (port, _):
        manifest = reaching(f"http://localhost:{port}")
        async with site(short_dir, manifest) as found, found.daemon() as daemon:
            fetch = f"unset no_proxy NO_PROXY; wget -q -O - http://localhost:{port}/"
            for batch in ("first", "second"):
                process = await found.start("--runtime", "container", SHEM_PRIVATE_TRANSFERS="yes")
                await daemon.unit_is_bound()
                if batch == "first":
                    await daemon.run("setup", {"deploy": {}}, {"start": {"args": []}})
                assert await out(daemon, batch, fetch) == "hello\n"
                process.kill()
                await process.wait()


async def test_a_flood_of_connections_meets_a_limit_and_harms_nobody(short_dir: Path) -> None:
    async with web_server() as (port, _):
        place = f"http://localhost:{port}"
        async with site(short_dir, reaching(place)) as found, found.daemon() as daemon:
            process = await found.start("--runtime", "container", SHEM_PRIVATE_TRANSFERS="yes")
            await daemon.unit_is_bound()
            await daemon.run("setup", {"deploy": {}}, {"start": {"args": []}})
            hold = "(sleep 60; echo) | nc $(echo ${https_proxy#http://} | tr : ' ') &"
            flood = f"for i in $(seq 1 80); do {hold} done; sleep 2"
            fetch = f"unset no_proxy NO_PROXY; wget -q -O - {place}/ 2>&1 || true"

            assert "503" in await out(daemon, "flood", f"{flood}; {fetch}")

            assert process.returncode is None
            [ended] = await daemon.run("end", {"terminate": {}})
            assert ended["result"] == "Ok"
            await daemon.run("again", {"deploy": {}}, {"start": {"args": []}})
            assert await out(daemon, "after", fetch) == "hello\n"
