"""Transfers of an ExeUnit process: told as they go, cut short, and gone with a killed process."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shem.bus.types import Call
from shem.exeunit.core import INTERRUPTED
from shem.gftp.protocol import CHUNK_SIZE, chunk, ok, parse_span
from shem.wire.flexbuffers import unpack
from tests.crash.exeunit_site import ENDLESS, SCENE, SETUP, Daemon, Site, run, until

NODE = "0x" + "cd" * 20
DATA = os.urandom(100 * CHUNK_SIZE)
URL = f"gftp://{NODE}/{hashlib.sha3_256(DATA).hexdigest()}"
PROGRESS = {"updateInterval": "0ms"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    made.write_agreement(offer={"golem.inf.storage.gib": 1.0})
    yield made
    await made.kill_all()


class Source:
    """A publisher somewhere in the net, which can stop answering."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked = 0
        self.stops_after: int | None = None
        self.goes_on = asyncio.Event()

    async def serve(self, call: Call) -> bytes:
        if call.address.endswith("GetMetadata"):
            return ok({"fileSize": len(self._data)})
        self.asked += 1
        if self.stops_after is not None and self.asked > self.stops_after:
            await self.goes_on.wait()
        span = parse_span(unpack(call.data))
        return ok(chunk(span.offset, self._data[span.offset : span.offset + span.size]))


@asynccontextmanager
async def publishing(daemon: Daemon, data: bytes = DATA) -> AsyncIterator[Source]:
    source = Source(data)
    with daemon.bus.bind(f"/transfer/net/{NODE}/gftp", source.serve):
        yield source


def transfer(source: str, target: str, **fields: Any) -> dict[str, Any]:
    return {"transfer": {"from": source, "to": target, **fields}}


def received(site: Site) -> Path:
    [volume] = site.work_dir.glob("vol-*")
    return volume / "data"


async def test_progress_is_told_while_a_file_comes(site: Site) -> None:
    async with site.daemon() as daemon, publishing(daemon) as source:
        source.stops_after = 20
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("setup", *SETUP)
        await daemon.exec("b", transfer(URL, "container:/work/data", progress=PROGRESS))

        kinds = []
        async for item in daemon.events("b"):
            source.goes_on.set()
            kinds.append(_kind(item))

        told = [kind["progress"] for kind in kinds if "progress" in kind]
        assert told[0]["progress"] == [0, len(DATA)]
        assert told[-1] == {
            "step": [0, 1],
            "message": None,
            "progress": [len(DATA), len(DATA)],
            "unit": "Bytes",
        }
        assert kinds[-1]["finished"] == {"return_code": 0, "message": None}
        assert received(site).read_bytes() == DATA


async def test_programs_use_what_came(site: Site) -> None:
    async with site.daemon() as daemon, publishing(daemon, SCENE.encode()):
        await site.start()
        await daemon.unit_is_bound()
        name = hashlib.sha3_256(SCENE.encode()).hexdigest()

        results = await daemon.run(
            "b",
            *SETUP,
            transfer(f"gftp://{NODE}/{name}", "container:/work/scene.txt"),
            run("zoom", "1", "1"),
        )

        assert [result["result"] for result in results] == ["Ok"] * 4, results


async def test_a_failed_transfer_ends_its_batch_with_the_reason(site: Site) -> None:
    async with site.daemon() as daemon, publishing(daemon, b"something else"):
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("setup", *SETUP)

        results = await daemon.run("b", transfer(URL, "container:/work/data"), run("note", "never"))

        assert [result["result"] for result in results] == ["Error"]
        assert "SHA3-256" in results[0]["message"]
        assert not received(site).exists()


async def test_terminate_cuts_a_transfer_short(site: Site) -> None:
    async with site.daemon() as daemon, publishing(daemon) as source:
        source.stops_after = 20
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("setup", *SETUP)
        await daemon.exec("b", transfer(URL, "container:/work/data"))
        await until(lambda: source.asked > 20)

        [ended] = await daemon.run("stop", {"terminate": {}})

        assert ended["result"] == "Ok"
        [stopped] = await daemon.results("b")
        assert stopped["message"] == "the command was stopped"
        assert list((site.work_dir / "transfer").iterdir()) == []


async def test_a_killed_exe_unit_leaves_no_part_of_a_file(site: Site) -> None:
    async with site.daemon() as daemon, publishing(daemon) as source:
        source.stops_after = 20
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.run("setup", *SETUP)
        await daemon.exec("b", transfer(URL, "container:/work/data"))
        await until(lambda: source.asked > 20)
        assert len(list((site.work_dir / "transfer").iterdir())) == 1
        process.send_signal(signal.SIGKILL)
        await process.wait()
        source.stops_after = None

        await site.start()
        await daemon.unit_is_bound()

        [interrupted] = await daemon.results("b")
        assert interrupted["message"] == INTERRUPTED
        assert not (site.work_dir / "transfer").exists()
        assert not received(site).exists()
        [again] = await daemon.run("c", transfer(URL, "container:/work/data"))
        assert again["result"] == "Ok"
        assert received(site).read_bytes() == DATA


async def test_a_node_that_restarts_under_a_transfer_does_not_end_it(site: Site) -> None:
    async with site.daemon() as daemon, publishing(daemon) as source:
        source.stops_after = 20
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("setup", *SETUP)
        await daemon.exec("b", transfer(URL, "container:/work/data"))
        await until(lambda: source.asked > 20)

    async with site.daemon() as daemon, publishing(daemon) as source:
        await daemon.unit_is_bound()

        [result] = await daemon.results("b")

        assert result["result"] == "Ok"
        assert received(site).read_bytes() == DATA
        assert source.asked <= 80 + 8


async def test_an_image_comes_over_gftp_and_its_coming_is_told(site: Site) -> None:
    package = site.package.path.read_bytes()
    name = hashlib.sha3_256(package).hexdigest()
    site.write_agreement(task_package=f"hash:sha3:{name}:gftp://{NODE}/{name}")
    async with site.daemon() as daemon, publishing(daemon, package):
        await site.start()
        await daemon.unit_is_bound()
        endless = [run("scene", ENDLESS), run("zoom", "1", "1")]
        deploy = {"deploy": {"progress": PROGRESS}}

        for batch_id, expected in (("b", len(package)), ("c", "Deployed image from cache")):
            await daemon.exec(batch_id, {"terminate": {}}, deploy, SETUP[1], *endless)
            told: list[Any] = []
            async for item in daemon.events(batch_id):
                progress = _kind(item).get("progress")
                told += [] if progress is None else [progress["message"] or progress["progress"][0]]
                if "finished" in _kind(item) and expected in told:
                    break
            assert told[-1] == expected
            await daemon.run(f"stop {batch_id}".replace(" ", "-"), {"terminate": {}})


def _kind(item: bytes) -> dict[str, Any]:
    answer: Any = unpack(item)
    kind: dict[str, Any] = answer["Ok"]["kind"]
    return kind
