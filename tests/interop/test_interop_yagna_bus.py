"""Our bus client at the socket of a real yagna 0.17.6, as an ExeUnit or agent of ours uses it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shem.bus.client import BusClient
from shem.bus.types import Call, GsbCode, GsbError, RemoteError
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import Conflict, NotFound
from tests.interop.real_yagna import real_yagna

NO_RELAY = ("127.0.0.1", 9)
"""Without an address the daemon looks for the public one before it goes on."""

pytestmark = pytest.mark.timeout(110)


async def test_our_client_calls_serves_and_streams_through_the_real_router(tmp_path: Path) -> None:
    async def double(call: Call, body: object) -> object:
        if not isinstance(body, int):
            raise NotFound("no number")
        return body * 2

    async def count(call: Call) -> AsyncIterator[bytes]:
        for number in range(3):
            yield str(number).encode()

    async with real_yagna(tmp_path, NO_RELAY) as yagna:
        address = parse_gsb_url(yagna.gsb_url)
        async with BusClient(address) as unit, BusClient(address, reconnect=False) as other:
            await unit.connected()
            await unit.serve("/public/unit/Double", double)
            await unit.bind_stream("/public/unit/Count", count)
            with pytest.raises(Conflict):
                await other.serve("/public/unit/Double", double)

            shown = await other.request("/local/identity/Get", "byDefault", timeout_s=10)
            assert shown["nodeId"] == yagna.node_id
            with pytest.raises(RemoteError) as refusal:
                await other.request("/local/identity/GetPubKey", "0x" + "1" * 40, timeout_s=10)
            assert refusal.value.payload == {"NodeNotFound": "0x" + "1" * 40}
            with pytest.raises(GsbError) as failure:
                await other.request("/local/identity/List", None, timeout_s=10)
            assert "Bad content: Serde Error" in failure.value.message
            with pytest.raises(GsbError) as unknown:
                await other.request("/nowhere", None, timeout_s=10)
            assert unknown.value.gsb_code is GsbCode.BAD_REQUEST

            assert await other.request("/public/unit/Double", 21, timeout_s=10) == 42
            looped = f"/net/{yagna.node_id}/unit/Double"
            assert await other.request(looped, 21, timeout_s=10) == 42
            with pytest.raises(RemoteError):
                await other.request("/public/unit/Double", "x", timeout_s=10)
            items = other.stream("/public/unit/Count", b"", timeout_s=10)
            assert [item async for item in items] == [b"0", b"1", b"2"]

            await unit.unbind("/public/unit/Double")
            await other.serve("/public/unit/Double", double)


async def test_our_client_comes_back_to_a_yagna_that_was_killed(tmp_path: Path) -> None:
    async def answer(call: Call, body: object) -> object:
        return body

    async with real_yagna(tmp_path, NO_RELAY) as yagna:
        address = parse_gsb_url(yagna.gsb_url)
        async with BusClient(address) as unit:
            await unit.connected()
            await unit.serve("/public/unit/Echo", answer)

            await yagna.kill()
            await yagna.start()

            async with BusClient(address, reconnect=False) as other:
                assert await other.request("/public/unit/Echo", "again", timeout_s=10) == "again"
