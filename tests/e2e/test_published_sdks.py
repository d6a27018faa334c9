"""golem-core, yapapi and golem-js, as published: they sit out outages, and watch batches live."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

import shem
from shem.devnet.compose import Devnet
from tests.sdks.published import sdk_node, sdk_python

HERE = Path(__file__).parents[1] / "sdks"
PYTHON_PROGRAMS = ("with_golem_core.py", "with_yapapi.py")
JS_PROGRAM = "with_golem_js.mjs"
FRAMES = 6
OUTAGE_S = 60.0
TIMEOUT_S = 120.0
SCENE = "centre -0.743643887 0.131825904\nwidth 0.02 0.01\nsize 480 360\niterations 2500\n"


class Program:
    """One SDK's program as it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    @classmethod
    async def start(cls, net: Devnet, name: str, activity_id: str, *more: str) -> "Program":
        is_js = name == JS_PROGRAM
        home = {**os.environ, "SDK_HOME": str(sdk_node())} if is_js else {}
        process = await asyncio.create_subprocess_exec(
            "node" if is_js else str(sdk_python()),
            str(HERE / name),
            activity_id,
            str(FRAMES),
            *more,
            env={**home, **net.program_env()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def until(self, word: str) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            while not (self.lines and self.lines[-1].startswith(word)):
                line = (await self._process.stdout.readline()).decode()
                assert line, "".join(self.lines)
                self.lines.append(line)

    async def end(self) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            rest = await self._process.stdout.read()
            self.lines += rest.decode().splitlines(keepends=True)
            await self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def results(self) -> list[tuple[int, str]]:
        found = [line.split(" ", 3) for line in self.lines if line.startswith("result ")]
        return [(int(index), result) for _, index, result, _ in found]

    def streamed(self) -> dict[int, str]:
        """Return what each command has printed, put together."""
        found: defaultdict[int, str] = defaultdict(str)
        for line in self.lines:
            if line.startswith("stdout "):
                _, index, text = line.split(" ", 2)
                found[int(index)] += json.loads(text)
        return dict(found)


def session(net: Devnet) -> shem.Golem:
    env = net.program_env()
    return shem.Golem(
        "interop",
        api_url=env["YAGNA_API_URL"],
        app_key=env["YAGNA_APPKEY"],
        subnet=env["YAGNA_SUBNET"],
    )


async def rented(net: Devnet) -> str:
    async with session(net) as golem, golem.rent(net.package) as activity:
        await activity.run("mandel", "scene", SCENE, check=True)
        return (await activity.detach()).activity_id


@pytest.mark.parametrize("name", ["with_yapapi.py", JS_PROGRAM])
async def test_they_watch_a_batch_live_and_see_all_it_prints(short_dir: Path, name: str) -> None:
    sdk_node() if name == JS_PROGRAM else sdk_python()
    async with Devnet(short_dir) as net:
        activity_id = await rented(net)
        program = await Program.start(net, name, activity_id, "stream")
        await program.end()
        async with session(net) as golem, golem.attach(activity_id) as activity:
            batch = (await activity.batches())[-1].batch
            printed = [result.stdout async for result in batch.results()]

    assert program.lines[-1] == "complete\n", program.lines
    assert len(printed) == FRAMES
    assert all(printed)
    assert program.streamed() == dict(enumerate(printed))


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_those_in_python_sit_out_a_minute_without_the_provider(short_dir: Path) -> None:
    sdk_python()
    await sit_it_out(short_dir, PYTHON_PROGRAMS)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_golem_js_sits_out_a_minute_without_the_provider(short_dir: Path) -> None:
    sdk_node()
    await sit_it_out(short_dir, [JS_PROGRAM])


async def sit_it_out(directory: Path, names: Sequence[str]) -> None:
    """Have each program wait for its batch's results while the provider's node is gone."""
    async with Devnet(directory) as net:
        activities = [await rented(net) for _ in names]
        programs = [
            await Program.start(net, name, activity_id)
            for name, activity_id in zip(names, activities, strict=True)
        ]
        for program in programs:
            await program.until("submitted")
        await net.provider.kill()
        await asyncio.sleep(OUTAGE_S)
        assert all(program.alive for program in programs), [p.lines for p in programs]
        before = [program.results() for program in programs]
        await net.provider.start()
        for program in programs:
            await program.end()

    wanted = [(index, "Ok") for index in range(FRAMES)]
    found = [program.results() for program in programs]
    assert found == [wanted] * len(names), [program.lines for program in programs]
    assert any(len(results) < FRAMES for results in before), "the outage came while they waited"
