"""GFTP through two real yagnas: our publisher, our ExeUnit, and our command at their buses."""

import json
import os
from pathlib import Path

import shem
from shem.bus.client import BusClient
from shem.devnet import payload
from shem.gftp.rpc import open_gftp
from shem.kernel.config import parse_gsb_url
from shem.kernel.world import World
from shem.relay.service import Relay
from shem.rest.client import RestClient
from tests.interop.real_yagna import real_yagna
from tests.interop.test_provider_yagna import SUBNET, agent_at

SIZE = 300_000


async def test_files_travel_through_two_real_yagnas(tmp_path: Path) -> None:
    world = World()
    data = os.urandom(SIZE)
    (tmp_path / "source").write_bytes(data)
    packed = payload.write_package(tmp_path)
    package = shem.WasmPackage.of_file(packed.path, url=packed.path.as_uri())
    async with (
        Relay(world, ("127.0.0.1", 0)) as relay,
        real_yagna(tmp_path / "p", relay.address) as provider,
        real_yagna(tmp_path / "r", relay.address) as requestor,
        agent_at(provider, tmp_path / "agent", tmp_path),
        BusClient(parse_gsb_url(requestor.gsb_url), world=world) as here,
        BusClient(parse_gsb_url(provider.gsb_url), world=world) as there,
    ):
        near, far = await open_gftp(here, world), await open_gftp(there, world)
        url = str(await near.publisher.publish(tmp_path / "source"))
        back = str(await near.publisher.receive(tmp_path / "back"))
        result = str(await near.publisher.receive(tmp_path / "result"))

        copy = str(tmp_path / "copy")
        await far.do("download", {"url": url, "output_file": copy})
        await far.do("upload", {"url": back, "file": copy})
        assert (tmp_path / "back").read_bytes() == data

        async with shem.Golem(
            "interop",
            api_url=requestor.api_url,
            app_key=requestor.app_key,
            subnet=SUBNET,
            network="holesky",
        ) as golem:
            activity = await golem.rent(package, timeout=60.0)
            script = [
                {"transfer": {"from": url, "to": "container:/work/data"}},
                {"transfer": {"from": "container:/work/data", "to": result}},
            ]
            async with RestClient(requestor.api_url, requestor.app_key) as rest:
                batch = await rest.activity.exec(activity.id, json.dumps(script))
            found = await activity.batch(batch).wait(60)
            assert [entry.ok for entry in found] == [True, True], found
            await activity.end()
        assert (tmp_path / "result").read_bytes() == data
        await near.publisher.close_all()
