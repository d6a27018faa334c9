"""`shem activity` from a shell: look, come back, act, leave, end; with its exit codes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import shem_command

FRAMES = 6
TIMEOUT_S = 60.0
SCENE = "centre -0.743643887 0.131825904\nwidth 0.02 0.01\nsize 480 360\niterations 2500\n"
"""Each frame is work for about a second, so that one who attaches finds the batch running."""


class Shell:
    """Runs `shem activity …` as a user of the devnet's requestor would."""

    def __init__(self, net: Devnet) -> None:
        self.net = net

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            *shem_command(),
            "activity",
            *arguments,
            env=dict(self.net.program_env()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        assert process.returncode == code, (arguments, output.decode(), errors.decode())
        return output.decode() + errors.decode()

    async def json(self, *arguments: str, code: int = 0) -> Any:
        verb, *rest = arguments
        return json.loads(await self(verb, "--json", *rest, code=code))


async def rent_and_leave(net: Devnet) -> shem.Ticket:
    env = net.program_env()
    async with (
        shem.Golem(
            "e2e",
            api_url=env["YAGNA_API_URL"],
            app_key=env["YAGNA_APPKEY"],
            subnet=env["YAGNA_SUBNET"],
        ) as golem,
        golem.rent(net.package) as activity,
    ):
        await activity.run("mandel", "scene", SCENE, check=True)
        await activity.submit(
            [shem.Run("mandel", "zoom", str(n), "9") for n in range(1, 1 + FRAMES)]
        )
        return await activity.detach()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_an_activity_in_the_shell(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        ticket = await rent_and_leave(net)
        shell, activity_id = Shell(net), ticket.activity_id

        (row,) = await shell.json("ps")
        assert row["activityId"] == activity_id and row["alive"]
        assert row["providerId"] == ticket.provider_id
        assert activity_id in await shell("ps")

        story = await shell("attach", activity_id[:8])
        assert "agreement approved" in story and "6 commands (accepted)" in story
        assert story.count("crc32") == FRAMES
        assert story.index("agreement approved") < story.index("crc32")
        assert "away" in story and "agreement-expiration" in story

        events = [
            json.loads(line) for line in (await shell("attach", activity_id, "--json")).splitlines()
        ]
        assert events[0]["event"] == "report" and events[0]["liveness"] == "alive"
        assert {event["event"] for event in events[1:]} == {"happened"}

        report = await shell.json("report", activity_id)
        assert report["absence"]["seconds"] > 3000 and report["due"]["amount"] == "0"
        assert [len(batch["results"]) for batch in report["batches"]] == [2, 1, FRAMES]
        assert "due" in await shell("report", activity_id)

        done = await shell("exec", activity_id, "--", "mandel", "note", "from the shell")
        ledger = await shell.json("exec", activity_id, "--", "mandel", "ledger")
        assert done == "" and ledger["stdout"].count("from the shell") == 1
        failed = await shell("exec", activity_id, "--", "mandel", "nonsense", code=1)
        assert "Error: " in failed
        batch_id = (await shell("exec", activity_id, "-d", "--", "mandel", "ledger")).strip()
        assert "from the shell" in await shell("logs", activity_id, batch_id[:8], "--follow")
        assert (await shell("logs", activity_id)).count("crc32") == FRAMES

        path = short_dir / "mine.ticket"
        await shell("detach", activity_id, "-o", str(path))
        assert "crc32" not in await shell("attach", str(path))

        done = await shell("destroy", activity_id, "--terminate", "--reason", "enough")
        assert "Terminated" in done
        ended = await shell("attach", activity_id, code=6)
        assert "ended by Requestor" in ended and ended.count("crc32") == FRAMES
        refused = await shell("exec", activity_id, "--", "mandel", "ledger", code=6)
        assert "ended by Requestor" in refused
        assert await shell.json("ps") == []
        assert [row["alive"] for row in await shell.json("ps", "--all")] == [False]

        await shell("report", "f" * 32, code=1)
        await shell("report", "ff", code=2)
        await shell("attach", str(short_dir / "no.ticket"), code=2)
        await net.requestor.kill()
        assert "is the node running" in (await shell("ps", code=3)).lower()
