"""The SDK at a real yagna 0.17.6: what its REST cannot do is said, and never guessed."""

import pytest

import shem
from shem.kernel.world import World
from shem.relay.service import Relay
from shem.rest import ApiError, RestClient
from tests.interop.real_yagna import real_yagna

WASM = shem.WasmPackage(url="http://127.0.0.1:9/x.zip", hash="sha3:" + "0" * 56)


async def test_the_sdk_at_a_yagna_without_peers(tmp_path):
    async with (
        Relay(World(), ("127.0.0.1", 0)) as relay,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        async with shem.Golem(
            "interop", api_url=yagna.api_url, app_key=yagna.app_key, patience=2.0
        ) as golem:
            assert golem.identity == yagna.node_id
            assert await golem.tickets() == []

            with pytest.raises(shem.NoProvider, match="no offer that fits"):
                await golem.rent(WASM, timeout=1.0)
            with pytest.raises(shem.GolemError, match="knows no activity"):
                await golem.attach("d" * 32)

        async with RestClient(yagna.api_url, yagna.app_key) as rest:
            with pytest.raises(ApiError) as missing:
                await rest.activity.batches("d" * 32)
            with pytest.raises(ApiError) as refused:
                await rest.activity.create("c" * 64, intent_id="1" * 32)

        assert missing.value.code == "no-such-path"
        assert refused.value.code == "not-found"

        with pytest.raises(shem.PermissionDenied, match="shem app-key list"):
            async with shem.Golem("interop", api_url=yagna.api_url, app_key="wrong"):
                pass
