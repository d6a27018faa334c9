"""`shem activity attach` while something runs: output as it is made, and how far transfers are."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import shem_command
from tests.busybox_image import requires_container
from tests.e2e.test_sdk_files import rented

TIMEOUT_S = 90.0
SCENE = "centre -0.743643887 0.131825904\nwidth 0.02 0.01\nsize 480 360\niterations 2500\n"
FRAMES = 4
SIZE = 60 << 20
COUNT = "for n in 1 2 3 4 5 6; do echo line $n; sleep 0.7; done"


async def attach(net: Devnet, activity_id: str, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(*shem_command(), "activity", "attach", activity_id, *options),
        env=dict(net.program_env()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 0, (output, errors)
    return output.decode()


async def documents(net: Devnet, activity_id: str) -> list[dict[str, Any]]:
    lines = (await attach(net, activity_id, "--json")).splitlines()
    return [json.loads(line) for line in lines]


def place(found: list[dict[str, Any]], event: str, **fields: Any) -> int:
    """Return where the first such document is."""
    for number, document in enumerate(found):
        if document["event"] == event and fields.items() <= document.items():
            return number
    raise AssertionError((event, fields, found))


@requires_container()
async def test_a_container_is_heard_while_it_speaks(short_dir: Path) -> None:
    async with Devnet(short_dir) as net, rented(net, "container") as activity:
        batch = await activity.submit(shem.Run("/bin/sh", "-c", COUNT))
        told, read = await asyncio.gather(
            documents(net, activity.id), attach(net, activity.id, "--follow")
        )
        await batch.wait()

    outputs = [doc["text"] for doc in told if doc["event"] == "output"]
    assert "".join(outputs) == "".join(f"line {n}\n" for n in range(1, 7))
    assert len(outputs) > 1, "in pieces"
    assert place(told, "started", index=0) < place(told, "output", index=0)
    assert place(told, "output") < place(told, "result", batchId=batch.id)
    assert [read.count(f"line {n}\n") for n in range(1, 7)] == [1] * 6


@requires_container()
async def test_the_output_of_exec_is_ours_as_it_is_made(short_dir: Path) -> None:
    script = "echo begun; sleep 3; echo out; echo err >&2; exit 4"
    async with Devnet(short_dir) as net, rented(net, "container") as activity:
        process = await asyncio.create_subprocess_exec(
            *(*shem_command(), "activity", "exec", activity.id, "--", "/bin/sh", "-c", script),
            env=dict(net.program_env()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)
        running = not (await activity.batches())[-1].finished
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)

    assert first == b"begun\n" and running
    assert output == b"out\n"
    assert errors.startswith(b"err\n") and b"exited with code 4" in errors
    assert process.returncode == 1


async def test_a_wasm_program_and_a_transfer_are_told_as_they_go(short_dir: Path) -> None:
    large = short_dir / "large"
    large.write_bytes(os.urandom(SIZE))
    async with Devnet(short_dir) as net, rented(net, "wasm") as activity:
        await activity.run("mandel", "scene", SCENE, check=True)
        frames = [shem.Run("mandel", "zoom", str(n), "9") for n in range(1, FRAMES + 1)]
        batch = await activity.submit([*frames, shem.Upload(large, "/work/large")])
        told = await documents(net, activity.id)
        await batch.wait(check=True)

    last = FRAMES - 1
    mine = [doc for doc in told if doc.get("batchId") == batch.id]
    assert place(mine, "output", index=last) < place(mine, "result", index=last)
    assert mine[place(mine, "started", index=last)]["command"]["run"]["args"][:2] == ["zoom", "4"]
    progress = [doc for doc in mine if doc["event"] == "progress"]
    assert {doc["index"] for doc in progress} == {FRAMES}
    assert {doc["total"] for doc in progress} == {SIZE}
    assert progress[-1]["done"] == SIZE
    assert place(mine, "result", index=FRAMES) == len(mine) - 1
