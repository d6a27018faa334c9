"""Files by the SDK and from a shell, to a program and to a container, through cuts and kills."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET, shem_command
from shem.devnet.image import write_image
from tests.busybox_image import requires_container
from tests.crash.exeunit_site import until

SIZE = 12 << 20
TIMEOUT_S = 90.0
RUNTIMES = [pytest.param("wasm"), pytest.param("container", marks=requires_container())]
VOLUME = {"wasm": "/work", "container": "/data"}


def golem_of(net: Devnet) -> shem.Golem:
    env = net.program_env()
    return shem.Golem(
        "e2e",
        api_url=env["YAGNA_API_URL"],
        app_key=env["YAGNA_APPKEY"],
        gsb_url=env["GSB_URL"],
        subnet=SUBNET,
    )


def payload(net: Devnet, runtime: str) -> shem.Payload:
    if runtime == "wasm":
        return net.package
    image = write_image(net.directory / "package")
    url = f"{net.package.url.rpartition('/')[0]}/{image.path.name}"
    return shem.ContainerImage.of_file(image.path, url=url)


@asynccontextmanager
async def rented(net: Devnet, runtime: str) -> AsyncIterator[shem.Activity]:
    async with golem_of(net) as golem, golem.rent(payload(net, runtime)) as activity:
        yield activity


def sha3(path: Path) -> str:
    return hashlib.sha3_256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_file_goes_there_and_comes_back(short_dir: Path, runtime: str) -> None:
    there, back, packed = short_dir / "there", short_dir / "back", short_dir / "packed.tar.gz"
    there.write_bytes(os.urandom(1_000_000))
    inside = f"{VOLUME[runtime]}/in/file"
    told: list[shem.Progress] = []
    async with Devnet(short_dir) as net, rented(net, runtime) as activity:
        await activity.upload(there, inside, progress=told.append)
        await activity.transfer(inside, f"{VOLUME[runtime]}/copy")
        await activity.download(f"{VOLUME[runtime]}/copy", back)
        await activity.download(VOLUME[runtime], packed, format="tar.gz", fileset="**/file")
        with pytest.raises(shem.CommandFailed, match="No such file"):
            await activity.download(f"{VOLUME[runtime]}/missing", short_dir / "missing")
        with pytest.raises(shem.CommandFailed, match="not found"):
            await activity.upload(there, "/outside")

    assert sha3(back) == sha3(there)
    assert (told[-1].done, told[-1].total, told[-1].unit) == (1_000_000, 1_000_000, "Bytes")
    assert packed.stat().st_size > 900_000
    assert not (short_dir / "missing").exists()


async def test_a_script_has_files_between_its_commands(short_dir: Path) -> None:
    scene, frame = short_dir / "scene", short_dir / "ledger"
    scene.write_text("centre 0 0\nwidth 3 3\nsize 8 6\niterations 10\n")
    async with Devnet(short_dir) as net, rented(net, "wasm") as activity:
        batch = await activity.submit(
            [
                shem.Upload(scene, "/work/mine"),
                shem.Run("mandel", "note", "between"),
                shem.Download("/work/mine", frame),
            ]
        )
        results = await batch.wait(check=True)

    assert [result.index for result in results] == [0, 1, 2]
    assert frame.read_text() == scene.read_text()


async def test_a_cut_is_sat_out_by_who_moves_the_file(short_dir: Path) -> None:
    """The requestor's daemon is killed in the middle of an upload, the provider's of a download."""
    there, back = short_dir / "there", short_dir / "back"
    there.write_bytes(os.urandom(SIZE))

    def arrived(pattern: str) -> bool:
        return any(path.stat().st_size > SIZE // 10 for path in short_dir.glob(pattern))

    async with Devnet(short_dir) as net, rented(net, "wasm") as activity:
        moving = asyncio.ensure_future(activity.upload(there, "/work/file"))
        await until(lambda: arrived("agent/data/exe-unit/work/*/*/transfer/*"))
        await net.requestor.kill()
        await net.requestor.start()
        await asyncio.wait_for(moving, TIMEOUT_S)

        moving = asyncio.ensure_future(activity.download("/work/file", back))
        await until(lambda: arrived(".back.*.part"))
        await net.provider.kill()
        await net.provider.start()
        await asyncio.wait_for(moving, TIMEOUT_S)
        assert [info.finished for info in await activity.batches()] == [True] * 3

    assert sha3(back) == sha3(there)


async def test_copies_in_the_shell_and_one_that_is_killed_and_taken_up(short_dir: Path) -> None:
    there, back = short_dir / "there", short_dir / "back"
    there.write_bytes(os.urandom(SIZE))

    async with Devnet(short_dir) as net:

        async def shell(*arguments: str) -> asyncio.subprocess.Process:
            pipe = asyncio.subprocess.PIPE
            command = [*shem_command(), "activity", *arguments]
            env = dict(net.program_env())
            return await asyncio.create_subprocess_exec(*command, env=env, stdout=pipe, stderr=pipe)

        async def done(*arguments: str, code: int = 0) -> str:
            process = await shell(*arguments)
            output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
            assert process.returncode == code, (output, errors)
            return output.decode() + errors.decode()

        async with rented(net, "wasm") as activity:
            target = f"{activity.id[:8]}:/work/file"
            first = await shell("cp", str(there), target)
            await until(
                lambda: any(
                    path.stat().st_size > SIZE // 10
                    for path in short_dir.glob("agent/data/exe-unit/work/*/*/transfer/*")
                )
            )
            first.kill()
            await first.communicate()
            said = await done("cp", str(there), target, "--json")
            documents = [json.loads(line) for line in said.splitlines()]
            batches = await activity.batches()
            assert "copied" in await done("cp", target, str(back))
            assert "not found" in await done("cp", f"{activity.id}:/nowhere", str(back), code=1)
            await done("cp", str(there), str(back), code=2)
            await done("cp", str(short_dir / "missing"), target, code=2)

    assert sha3(back) == sha3(there)
    assert documents[-1]["event"] == "copied" and documents[-1]["activityId"] == activity.id
    assert {document["event"] for document in documents[:-1]} == {"progress"}
    assert documents[-2]["done"] == SIZE
    assert len(batches) == 2, "the batch of the killed command was taken up"
