"""The SDK at a real yagna 0.17.6: what its REST cannot do is said, and never guessed."""

import pytest

import shem
from shem.devnet.compose import SUBNET, Devnet
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


async def test_the_sdk_rents_through_a_real_yagna_from_our_provider(tmp_path, short_dir):
    async with (
        Devnet(short_dir) as net,
        real_yagna(tmp_path, net.relay_address) as yagna,
    ):
        async with golem_at(yagna) as golem, golem.rent(net.package, timeout=60) as activity:
            batch = await activity.submit([shem.Run("mandel", "note", str(n)) for n in range(3)])
            results = await batch.wait(check=True)
            with pytest.raises(shem.NotSupported, match="yagna has none"):
                await activity.batches()
            ticket = await activity.detach()

        await yagna.kill()
        await yagna.start()
        async with golem_at(yagna) as golem, golem.attach(ticket) as attached:
            again = await attached.batch(batch.id).wait()
            ledger = await attached.run("mandel", "ledger", check=True)
            failed = await attached.run("mandel", "no-such-command")
            await attached.agreement.terminate("done")
            ended = await attached.agreement.ended()

        # A yagna that was just restarted may need ten seconds to be heard again.
        assert attached.report.liveness in {"alive", "unreachable"}
        assert attached.report.ended is None and not attached.report.batches_listed
        assert [r.index for r in results] == [r.index for r in again] == [0, 1, 2]
        assert ledger.stdout == "0\n1\n2\n"
        assert not failed.ok and "no-such-command" not in failed.stdout
        assert ended is not None and (ended.by, ended.why) == ("Requestor", "done")


def golem_at(yagna):
    return shem.Golem(
        "interop", api_url=yagna.api_url, app_key=yagna.app_key, subnet=SUBNET, patience=60.0
    )
