"""The SDK at a real yagna 0.17.6: what its REST cannot do is said, and never guessed."""

import os

import pytest

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET
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


async def test_files_through_a_real_yagna(tmp_path, short_dir):
    """Our `gftp` at a yagna's bus serves a file, and takes one, for our provider's ExeUnit."""
    there, back = short_dir / "there", short_dir / "back"
    there.write_bytes(os.urandom(3_000_000))
    told = []
    async with (
        Devnet(short_dir) as net,
        real_yagna(tmp_path, net.relay_address) as yagna,
        golem_at(yagna) as golem,
        golem.rent(net.package, timeout=60) as activity,
    ):
        await activity.upload(there, "/work/file", progress=told.append)
        await activity.download("/work/file", back)
        with pytest.raises(shem.CommandFailed, match="path not found"):
            await activity.upload(there, "/outside")

    assert back.read_bytes() == there.read_bytes()
    assert told[-1].done == told[-1].total == 3_000_000


async def test_services_and_maps_through_a_real_yagna(tmp_path, short_dir, monkeypatch):
    """What a yagna does not know is kept in our notes, or computed from the agreement."""
    monkeypatch.setenv("SHEM_STATE_DIR", str(tmp_path / "state"))
    async with (
        Devnet(short_dir) as net,
        real_yagna(tmp_path, net.relay_address) as yagna,
    ):
        package = net.package
        async with golem_at(yagna) as golem:
            first = Notes()
            async with golem.service(first, name="notes", payload=package, timeout=60) as running:
                report = (await golem.attach(running.activity.id)).report
                ticket = await running.suspend()
        async with golem_at(yagna) as golem:
            second = Notes()
            async with golem.service(second, name="notes", payload=package) as running:
                assert running.resumed and running.activity.id == ticket.activity_id
                await running.wait()

        assert first.seen[0] == "started" and "started" not in second.seen
        assert second.seen == ["one", "ledger 2"]
        assert report.absence.limited_by == "agreement-expiration"
        assert report.absence.seconds is not None and report.absence.seconds > 3000
        assert report.due is not None and report.due.amount == 0

        async with golem_at(yagna) as golem:
            options = {"payload": package, "name": "frames", "timeout": 60.0}
            async with golem.map(frame, range(1, 5), **options, on_exit="detach") as mapping:
                async for _ in mapping:
                    break
            async with golem.map(frame, range(1, 5), **options) as mapping:
                found = sorted([done async for done in mapping], key=lambda done: done.input)

        assert [done.ok for done in found] == [True] * 4
        assert any(done.kept for done in found)
        assert len(mapping.recomputed) <= 1


class Notes(shem.Service):
    """Writes a note in `start`, and one in each `run`."""

    def __init__(self):
        self.seen = []

    async def start(self):
        yield shem.Run("mandel", "note", "started")
        self.seen.append("started")

    async def run(self):
        yield shem.Run("mandel", "note", "one")
        self.seen.append("one")
        (ledger,) = yield shem.Run("mandel", "ledger")
        self.seen.append(f"ledger {len(set(ledger.stdout.split()))}")


def frame(number):
    return shem.Run("mandel", "zoom", str(number), "4")


def golem_at(yagna):
    return shem.Golem(
        "interop",
        api_url=yagna.api_url,
        app_key=yagna.app_key,
        gsb_url=yagna.gsb_url,
        subnet=SUBNET,
        patience=60.0,
    )
