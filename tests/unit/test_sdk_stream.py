"""Output while commands run: best effort, ends with the batch or with the stream."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

import shem
from tests.rented import (
    ACTIVITY_ID,
    AGREEMENT_ID,
    HERE,
    MARKET,
    REQUESTOR,
    agreement,
    batch_row,
    golem,
)

BATCH = "1" * 32


def event(index: int, **kind: object) -> bytes:
    data = {"batch_id": BATCH, "index": index, "timestamp": "2026-11-23T20:00:00", "kind": kind}
    return b"event: runtime\ndata: " + json.dumps(data).encode() + b"\nid: 0\n\n"


@asynccontextmanager
async def node(*parts: bytes, commands: int | None = 2, status: int = 200) -> AsyncIterator[str]:
    """A node whose batch is told by `parts`, and whose stream then stays open for a while."""

    async def answer(request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.endswith(f"/exec/{BATCH}") and request.headers["Accept"] == "text/event-stream":
            if status != 200:
                return web.json_response(
                    {"message": "gone", "code": "activity-ended"}, status=status
                )
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for part in parts:
                await response.write(part)
            return response
        if path.endswith("/exec"):
            if commands is None:
                return web.Response(status=404)
            return web.json_response([batch_row(BATCH, commands=commands)])
        known: dict[str, object] = {
            "/me": {"identity": REQUESTOR, "name": "x", "role": "manager"},
            f"{HERE}/{ACTIVITY_ID}/agreement": AGREEMENT_ID,
            f"{HERE}/{ACTIVITY_ID}/state": {"state": ["Ready", None]},
            f"{MARKET}/agreements/{AGREEMENT_ID}": agreement(),
            f"{HERE}/{ACTIVITY_ID}/exec/{BATCH}": [],
        }
        if path not in known:
            return web.Response(status=404)
        return web.json_response(known[path])

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Url:
    def __init__(self, url: str) -> None:
        self.url = url


async def told(url: str) -> list[tuple[int, str, str]]:
    async with golem(Url(url)) as session, session.attach(ACTIVITY_ID) as activity:  # type: ignore[arg-type]
        stream = activity.batch(BATCH).stream()
        return [(output.index, output.stream, output.text) async for output in stream]


async def test_output_comes_in_pieces_and_ends_with_the_batch() -> None:
    parts = (
        event(0, started={"command": {"run": {}}}),
        event(0, stdout="a"),
        b":ping\n",
        event(0, stderr=[104, 105]),
        event(0, finished={"return_code": 0, "message": None}),
        event(1, stdout="b"),
        event(1, finished={"return_code": 0, "message": None}),
        event(1, stdout="never read"),
    )
    async with node(*parts) as url:
        assert await told(url) == [(0, "stdout", "a"), (0, "stderr", "hi"), (1, "stdout", "b")]


async def test_it_ends_with_a_command_that_fails() -> None:
    parts = (event(0, finished={"return_code": 3, "message": "x"}), event(1, stdout="never"))
    async with node(*parts) as url:
        assert await told(url) == []


async def test_at_a_yagna_the_first_ping_is_the_end() -> None:
    parts = (event(0, stdout="a"), b":ping\n", event(1, stdout="never"))
    async with node(*parts, commands=None) as url:
        assert await told(url) == [(0, "stdout", "a")]


@pytest.mark.parametrize(
    "broken", [b"", b"event: runtime\n", event(0, progress={"step": [1, 2]}), b"id: 7\n\n"]
)
async def test_a_stream_that_ends_early_ends(broken: bytes) -> None:
    async with node(event(0, stdout="a"), broken) as url:
        assert await told(url) == [(0, "stdout", "a")]


async def test_nonsense_is_an_error_of_the_node() -> None:
    async with node(b"data: {nonsense\n\n") as url:
        with pytest.raises(shem.GolemError, match="unexpected form"):
            await told(url)


async def test_a_stream_that_is_refused_says_why() -> None:
    async with node(status=500) as url:
        with pytest.raises(shem.GolemError, match="gone"):
            await told(url)
