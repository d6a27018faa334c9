"""The GFTP command: JSON-RPC as SDKs speak it, and single commands."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shem.kernel.version import shem_version
from tests.gftp_town import NODE, Town, town

COMMAND = [sys.executable, "-c", "from shem.cli.gftp import script; script()"]
DATA = bytes(range(256)) * 700
HASH = hashlib.sha3_256(DATA).hexdigest()


def call(method: str, id: float = 1, **params: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})


class Server:
    """`gftp server` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def say(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        assert line.endswith(b"\r\n"), line
        answer: dict[str, Any] = json.loads(line)
        assert answer.pop("jsonrpc") == "2.0"
        return answer

    async def ask(self, method: str, **params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        answer = await self.say(json.dumps(request))
        assert answer["id"] == 7
        return answer["result"] if "result" in answer else answer["error"]


@asynccontextmanager
async def process(here: Town, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    env = {**os.environ, "GSB_URL": f"unix:{here.socket}"}
    started = await asyncio.create_subprocess_exec(
        *COMMAND, *words, stdin=pipe, stdout=pipe, stderr=pipe, env=env
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Town]:
    async with town(tmp_path) as made:
        yield made


@pytest.fixture
async def server(here: Town) -> AsyncIterator[Server]:
    async with process(here, "server") as started:
        yield Server(started)


async def test_a_whole_exchange_as_an_sdk_has_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    spoken, _, ours = (await server.ask("version")).partition(" ")
    assert tuple(map(int, spoken.split("."))) >= (0, 7, 3), "SDKs would not use `close`"
    assert ours == f"(shem {shem_version()})"

    [published] = await server.ask("publish", files=[str(tmp_path / "in")])
    assert published == {"file": str(tmp_path / "in"), "url": f"gftp://{NODE}/{HASH}"}
    copy = str(tmp_path / "copy")
    assert await server.ask("download", url=published["url"], output_file=copy) == {
        "file": copy,
        "url": published["url"],
    }
    slot = await server.ask("receive", output_file=str(tmp_path / "out"))
    assert slot["file"] == str(tmp_path / "out")
    uploaded = await server.ask("upload", url=slot["url"], file=copy)
    assert uploaded == {"file": copy, "url": slot["url"]}

    assert (tmp_path / "copy").read_bytes() == DATA
    assert (tmp_path / "out").read_bytes() == DATA
    assert await server.ask("close", urls=[published["url"], published["url"], "x"]) == [
        "ok",
        "error",
        "error",
    ]
    assert await server.ask("shutdown") == "ok"
    assert await asyncio.wait_for(server.process.wait(), 10) == 0


async def test_files_are_served_until_the_process_is_killed(
    here: Town, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(DATA)
    await server.ask("publish", files=[str(tmp_path / "in")])
    assert here.bus.is_bound(f"/public/gftp/{HASH}")

    server.process.kill()
    await server.process.wait()

    async with asyncio.timeout(10):
        while here.bus.is_bound(f"/public/gftp/{HASH}"):  # noqa: ASYNC110 - the router notices
            await asyncio.sleep(0.01)


async def test_requests_are_answered_as_they_are_done(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    [published] = await server.ask("publish", files=[str(tmp_path / "in")])
    lines = [
        {"jsonrpc": "2.0", "id": number, "method": "download", "params": params}
        for number in range(20)
        for params in [{"url": published["url"], "output_file": str(tmp_path / f"c{number}")}]
    ]
    assert server.process.stdin is not None
    server.process.stdin.write("\n".join(json.dumps(line) for line in lines).encode() + b"\n")

    answers = [await server.hear() for _ in lines]

    assert sorted(answer["id"] for answer in answers) == list(range(20))
    assert all((tmp_path / f"c{number}").read_bytes() == DATA for number in range(20))


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        ("{", -32_700, None),
        ("[]", -32_600, None),
        ('{"jsonrpc": "1.0", "id": 1, "method": "version"}', -32_600, 1),
        ('{"jsonrpc": "2.0", "id": 1}', -32_600, 1),
        ('{"jsonrpc": "2.0", "id": [], "method": "version"}', -32_600, None),
        ('{"jsonrpc": "2.0", "id": "a", "method": "version", "params": []}', -32_600, "a"),
        (call("bogus", id=1.5), -32_000, 1.5),
        (call("publish", files=[]), -32_000, 1),
        (call("publish"), -32_000, 1),
        (call("publish", files=["/nowhere"]), -32_000, 1),
        (call("receive", output_file="/no/no"), -32_000, 1),
        (call("upload", url="x", file="/"), -32_000, 1),
        (call("download", url="gftp://x", output_file="y"), -32_000, 1),
    ],
)
async def test_what_cannot_be_done_has_its_code(
    server: Server, line: str, code: int, request_id: object
) -> None:
    answer = await server.say(line)

    assert (answer["id"], answer["error"]["code"]) == (request_id, code)
    assert answer["error"]["message"]
    assert shem_version() in await server.ask("version")


async def test_the_end_of_the_input_is_the_end(server: Server) -> None:
    assert server.process.stdin is not None
    server.process.stdin.close()

    assert await asyncio.wait_for(server.process.wait(), 10) == 0


async def test_single_commands_print_their_result(here: Town, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    async with process(here, "publish", str(tmp_path / "in")) as publishing:
        assert publishing.stdout is not None
        told = json.loads(await asyncio.wait_for(publishing.stdout.readline(), 20))
        [published] = told["result"]
        copy = str(tmp_path / "copy")
        async with process(here, "-v", "download", published["url"], copy) as downloading:
            out, _ = await downloading.communicate()
        assert json.loads(out) == {
            "jsonrpc": "2.0",
            "id": None,
            "result": {"file": copy, "url": published["url"]},
        }
        publishing.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(publishing.wait(), 10) == 130
    assert (tmp_path / "copy").read_bytes() == DATA


async def test_a_single_receive_ends_when_the_file_is_there(here: Town, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    async with process(here, "receive", str(tmp_path / "out")) as receiving:
        assert receiving.stdout is not None
        told = json.loads(await asyncio.wait_for(receiving.stdout.readline(), 20))
        async with process(here, "upload", told["result"]["url"], str(tmp_path / "in")) as bringing:
            await bringing.communicate()
            assert bringing.returncode == 0

        assert await asyncio.wait_for(receiving.wait(), 10) == 0
    assert (tmp_path / "out").read_bytes() == DATA


async def test_a_file_that_is_not_there_is_told(here: Town, tmp_path: Path) -> None:
    async with process(here, "upload", f"gftp://{NODE}/x", str(tmp_path / "none")) as uploading:
        _, error = await uploading.communicate()

    assert uploading.returncode == 2
    assert error.decode() == f"Error: {tmp_path / 'none'}: No such file or directory\n"


async def test_without_a_node_it_says_so(here: Town, tmp_path: Path) -> None:
    here.socket = tmp_path / "none.sock"
    async with process(here, "download", f"gftp://{NODE}/x", str(tmp_path / "y")) as downloading:
        _, error = await downloading.communicate()

    assert downloading.returncode == 3
    assert b"no node serves the bus" in error
