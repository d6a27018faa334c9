"""Files to an activity and back between two nodes, with the command that SDKs use for it."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET
from shem.devnet.image import write_image
from tests.busybox_image import requires_container
from tests.crash.exeunit_site import until

pytestmark = requires_container()
SIZE = 12 << 20
GFTP = Path(sys.executable).with_name("gftp")


class Gftp:
    """`gftp server` beside a requestor's program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, method: str, **params: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = json.loads(await asyncio.wait_for(self._process.stdout.readline(), 60))
        assert "result" in answer, answer
        return answer["result"]


@asynccontextmanager
async def gftp(net: Devnet) -> AsyncIterator[Gftp]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        str(GFTP), "server", stdin=pipe, stdout=pipe, env=net.program_env()
    )
    try:
        yield Gftp(process)
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def rented(net: Devnet) -> AsyncIterator[shem.Activity]:
    """Rent a container whose image comes over the web."""
    image = write_image(net.directory / "package")
    url = f"{net.package.url.rpartition('/')[0]}/{image.path.name}"
    payload = shem.ContainerImage.of_file(image.path, url=url)
    node = net.requestor
    golem = shem.Golem("e2e", api_url=node.api_url, app_key=node.app_key, subnet=SUBNET)
    async with golem as session, session.rent(payload) as activity:
        yield activity


async def submit(net: Devnet, activity: shem.Activity, *commands: dict[str, Any]) -> str:
    async with net.requestor.rest() as rest:
        return await rest.activity.exec(activity.id, json.dumps(commands))


async def results(activity: shem.Activity, batch_id: str) -> list[str | None]:
    """Return the error texts of a batch's commands, None where there is none."""
    found = await activity.batch(batch_id).wait(120)
    return [None if result.ok else result.message for result in found]


def transfer(source: str, target: str, **options: Any) -> dict[str, Any]:
    return {"transfer": {"from": source, "to": target, **options}}


def sh(script: str) -> dict[str, Any]:
    return {"run": {"entry_point": "/bin/sh", "args": ["-c", script], "capture": {}}}


def sha3(path: Path) -> str:
    return hashlib.sha3_256(path.read_bytes()).hexdigest()


async def test_a_file_goes_to_the_activity_and_its_result_comes_back(short_dir: Path) -> None:
    source = short_dir / "source"
    source.write_bytes(os.urandom(1_000_000))
    async with Devnet(short_dir) as net, gftp(net) as files, rented(net) as activity:
        [published] = await files.ask("publish", files=[str(source)])
        slot = await files.ask("receive", output_file=str(short_dir / "result"))
        packed = await files.ask("receive", output_file=str(short_dir / "result.tar.gz"))

        batch = await submit(
            net,
            activity,
            transfer(published["url"], "container:/data/in/source"),
            sh("cd /data; tr 'a-z' 'A-Z' < in/source > out; mkdir d; echo x > d/x; echo y > d/y"),
            transfer("container:/data/out", slot["url"]),
            transfer("container:/data/d", packed["url"], format="tar.gz", fileset="x"),
        )

        assert await results(activity, batch) == [None] * 4
        assert (short_dir / "result").read_bytes() == source.read_bytes().upper()
        names = await asyncio.create_subprocess_exec(
            *("tar", "tzf", str(short_dir / "result.tar.gz")), stdout=asyncio.subprocess.PIPE
        )
        assert (await names.communicate())[0] == b"x\n"


async def test_a_cut_in_the_middle_of_a_transfer_is_sat_out_both_ways(short_dir: Path) -> None:
    source = short_dir / "source"
    source.write_bytes(os.urandom(SIZE))

    def arrived(pattern: str) -> bool:
        """Say whether a part of the file is there."""
        return any(path.stat().st_size > SIZE // 10 for path in short_dir.glob(pattern))

    async with Devnet(short_dir) as net, gftp(net) as files, rented(net) as activity:
        [published] = await files.ask("publish", files=[str(source)])
        slot = await files.ask("receive", output_file=str(short_dir / "result"))

        down = await submit(net, activity, transfer(published["url"], "container:/data/file"))
        await until(lambda: arrived("agent/data/exe-unit/work/*/*/transfer/*"))
        await net.requestor.kill()
        await asyncio.sleep(0.5)
        await net.requestor.start()
        assert await results(activity, down) == [None]
        [volume] = net.directory.glob("agent/data/exe-unit/work/*/*/vol-*")
        assert sha3(volume / "file") == sha3(source)

        up = await submit(net, activity, transfer("container:/data/file", slot["url"]))
        await until(lambda: arrived(".result.*.part"))
        await net.provider.kill()
        await asyncio.sleep(0.5)
        await net.provider.start()
        assert await results(activity, up) == [None]
        assert sha3(short_dir / "result") == sha3(source)
