"""A program that uses yapapi 0.13.1 as published; arguments: ACTIVITY FRAMES [stream]."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

from yapapi import events, rest
from yapapi.config import ApiConfig
from yapapi.rest.configuration import Configuration

CAPTURE = {"stdout": {"stream": {}}, "stderr": {"stream": {}}}


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def main(activity_id: str, frames: int, *, is_stream: bool) -> None:
    async with Configuration(ApiConfig()).activity() as client:
        activity = await rest.Activity(client).use_activity(activity_id, stream_events=is_stream)
        script = [
            {
                "run": {
                    "entry_point": "mandel",
                    "args": ["zoom", str(n), str(frames)],
                    "capture": CAPTURE,
                }
            }
            for n in range(1, frames + 1)
        ]
        deadline = datetime.now(UTC) + timedelta(seconds=600)
        batch = await activity.send(script, deadline)
        say("submitted", batch.id)
        async for kind, event in batch:
            if is_stream:
                if kind is events.CommandStdOut:
                    say("stdout", event["cmd_idx"], json.dumps(event["output"]))
                continue
            result = "Ok" if event["success"] else "Error"
            say("result", event["cmd_idx"], result, event["stdout"])
    say("complete")


asyncio.run(main(sys.argv[1], int(sys.argv[2]), is_stream="stream" in sys.argv[3:]))
