"""The examples run as they are written, against a devnet."""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

import shem
from shem.devnet.compose import Devnet
from shem.devnet.image import write_image
from tests.busybox_image import requires_container

UNIT_ENDS_S = 15.0
"""An ExeUnit ends by itself soon after its activity was destroyed."""

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_TIMEOUT_S = 60.0
CUT_OFF = ("power cut", "stopped", "terminated")


async def _start(
    net: Devnet, name: str, *arguments: str, **more: str
) -> asyncio.subprocess.Process:
    env = {
        **os.environ,
        **net.program_env(),
        "SHEM_PACKAGE_URL": net.package.url,
        "SHEM_PACKAGE_HASH": net.package.hash,
        "SHEM_STATE_DIR": str(net.directory / "state"),
        **more,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        env=env,
        cwd=net.directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _run(net: Devnet, name: str, *arguments: str, **more: str) -> str:
    process = await _start(net, name, *arguments, **more)
    output, _ = await asyncio.wait_for(process.communicate(), EXAMPLE_TIMEOUT_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def _run_and_kill(
    net: Devnet, lines: int, word: str, name: str, *arguments: str, **more: str
) -> str:
    """Kill a program after so many lines that begin with `word`; return what it had said."""
    process = await _start(net, name, *arguments, **more)
    assert process.stdout is not None
    said: list[str] = []
    async with asyncio.timeout(EXAMPLE_TIMEOUT_S):
        while sum(line.startswith(word) for line in said) < lines:
            line = (await process.stdout.readline()).decode()
            assert line, "".join(said)
            said.append(line)
        process.kill()
        await process.communicate()
    return "".join(said)


async def batches_sent(net: Devnet) -> Counter[str]:
    """Count the scripts that the provider accepted, by what the payload said of each."""
    found: Counter[str] = Counter()
    async with net.requestor.rest() as rest:
        for agreement in await rest.market.agreements.find():
            for activity_id in await rest.activity.of_agreement(agreement.id):
                for batch in await rest.activity.batches(activity_id):
                    results = await rest.activity.results(activity_id, batch.batch_id, timeout_s=0)
                    assert [result.result for result in results] == ["Ok"] * batch.commands
                    found.update(str(result.stdout).partition(" width")[0] for result in results)
    return found


async def test_rent_run_then_detach_then_attach(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        picture = await _run(net, "01_rent_run.py")
        activity_id = (await _run(net, "02_detach.py")).strip()
        back = await _run(net, "03_attach.py", activity_id)

    assert len(picture.strip("\n").splitlines()) == 24
    assert back.startswith("alive\n")
    assert [line.split()[0] for line in back.splitlines() if "crc32" in line] == [
        str(index) for index in range(8)
    ]


async def test_work_that_is_left_for_good_ends_by_itself_and_can_be_read(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        activity_id = (await _run(net, "07_leave.py")).strip()
        node = net.requestor
        async with (
            shem.Golem("e2e", api_url=node.api_url, app_key=node.app_key) as golem,
            asyncio.timeout(60),
        ):
            while (ended := (await golem.attach(activity_id)).report.ended) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            assert "Finished by its terms: batch-done" in ended.why
            assert sum((await batches_sent(net)).values()) == 2 + 16


async def test_a_service_is_killed_and_taken_up(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        first = await _run_and_kill(net, 2, "frame", "04_service.py", "50")
        second = await _run(net, "04_service.py", "3", "--leave")
        third = await _run(net, "04_service.py", "3")
        ran = await batches_sent(net)
        async with asyncio.timeout(UNIT_ENDS_S):
            while net.exe_units():  # noqa: ASYNC110 - another process ends
                await asyncio.sleep(0.05)

    assert "started: scene" in first and "new " in first
    assert second.startswith("resumed ") and third.startswith("resumed ")
    assert "started" not in second + third, "start is not run again"
    assert "shut down" not in second and third.endswith("shut down\n")
    frames = [line.split()[1].rstrip(":") for line in third.splitlines() if "crc32" in line]
    rendered = [line for line in ran if line.startswith("frame")]
    assert len(frames) == 3 and frames == sorted(frames, key=int)
    assert len(rendered) >= 5 and all(ran[line] == 1 for line in rendered)


@requires_container()
async def test_a_web_server_in_a_container_is_found_again(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        image = write_image(net.directory / "package")
        where = {
            "SHEM_IMAGE_URL": f"{net.package.url.rpartition('/')[0]}/{image.path.name}",
            "SHEM_IMAGE_HASH": f"sha3:{image.sha3_256}",
        }
        name = "06_container_service.py"
        first = await _run_and_kill(net, 3, "hits", name, "50", **where)
        second = await _run(net, name, "3", "--leave", **where)
        third = await _run(net, name, "3", **where)

    seen = [int(line.split()[1]) for line in third.splitlines() if line.startswith("hits")]
    assert first.count("started") == 1 and "new " in first
    assert second.startswith("resumed ") and third.startswith("resumed ")
    assert "started" not in second + third
    assert len(seen) == 3 and seen == list(range(seen[0], seen[0] + 3)) and seen[0] > 4
    assert third.endswith("hits.log\n")
    hits = (short_dir / "hits.log").read_text().splitlines()
    assert hits == ["hit"] * seen[-1]


async def test_a_map_is_killed_and_continued(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        first = await _run_and_kill(net, 3, "input", "05_map.py", "16", "2")
        second = await _run(net, "05_map.py", "16", "2")
        third = await _run(net, "05_map.py", "16", "2")
        ran = await batches_sent(net)

    assert "(kept)" not in first and third.count("(kept)") == 16
    kept = second.count("(kept)")
    assert 3 <= kept < 16 and second.count("computed by") == 16 - kept
    assert "computed again" not in second + third
    for number in range(1, 17):
        assert second.count(f"input {number}:") == 1
        assert ran[f"frame {number:3} of 16 "] == 1


async def test_a_map_outlives_the_end_of_an_agreement(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider ends a worker's agreement: another one computes what that one could not."""
    monkeypatch.setenv("SHEM_STATE_DIR", str(short_dir / "state"))
    async with Devnet(short_dir) as net:
        env = net.program_env()
        async with (
            shem.Golem(
                "e2e",
                api_url=env["YAGNA_API_URL"],
                app_key=env["YAGNA_APPKEY"],
                subnet=env["YAGNA_SUBNET"],
            ) as golem,
            golem.map(_frame, range(1, 9), payload=net.package, name="frames") as mapping,
        ):
            found = []
            async for done in mapping:
                found.append(done)
                if len(found) == 3:
                    (worker,) = mapping.workers
                    async with net.provider.rest() as provider:
                        reason = {"message": "power cut", "golem.provider.code": "Shutdown"}
                        agreements = provider.market.agreements
                        await agreements.terminate(worker.agreement.id, reason)

    assert sorted(done.input for done in found) == list(range(1, 9))
    assert [done.error or done.result.message for done in found if not done.ok] == []
    assert len(mapping.recomputed) <= 1
    whys = [again.why for again in mapping.recomputed]
    assert [why for why in whys if not any(word in why for word in CUT_OFF)] == []


def _frame(number: int) -> shem.Run:
    return shem.Run("mandel", "zoom", str(number), "8")
