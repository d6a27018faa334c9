"""`shem relay status` against a running relay, and against nothing."""

import asyncio
import json

import pytest
from aiohttp import web
from click.testing import CliRunner

from shem.cli.main import cli
from shem.kernel.errors import PeerError, Unreachable
from shem.kernel.world import World
from shem.relay.service import Relay

LOOPBACK = ("127.0.0.1", 0)


async def status(address, *options):
    command = ["relay", "status", "--metrics", "{}:{}".format(*address), *options]
    return await asyncio.to_thread(
        CliRunner().invoke, cli, command, standalone_mode=False, catch_exceptions=True
    )


async def test_status_for_people_and_for_programs():
    async with Relay(World(), LOOPBACK, metrics=LOOPBACK) as relay:
        text = await status(relay.metrics_address)
        found = json.loads((await status(relay.metrics_address, "--json")).output)

    assert "forwardedDatagrams  0" in text.output
    assert found["nodes"] == 0
    assert found["address"] == "{}:{}".format(*relay.address)


async def test_no_relay_is_unreachable():
    result = await status(("127.0.0.1", 1))

    assert isinstance(result.exception, Unreachable)
    assert "--metrics" in result.exception.message


@pytest.mark.parametrize("body", ["[]", "{}", "not JSON"])
async def test_another_server_is_not_taken_for_a_relay(body):
    async def answer(_):
        return web.Response(text=body)

    app = web.Application()
    app.add_routes([web.get("/status", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, *LOOPBACK).start()
        result = await status(runner.addresses[0])
    finally:
        await runner.cleanup()

    assert isinstance(result.exception, PeerError)
