"""A requestor's program that uses nothing but the REST API, as any client of a yagna might.

It sits an outage out in the simplest way: what ended with an error is asked for again. A batch that
got no answer is not sent again by itself: nobody could say whether it runs.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence

from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import ExeScriptCommandResult
from shem.sdk.script import Run

AGAIN_S = 0.2
POLL_S = 5.0


class PlainProgram:
    """Runs commands in one activity."""

    def __init__(self, rest: RestClient, activity_id: str) -> None:
        self._rest = rest
        self._activity_id = activity_id

    async def submit(self, commands: Sequence[Run]) -> str:
        """Send a batch; return the id that the daemon chose."""
        text = json.dumps([command.wire() for command in commands])
        return await self._rest.activity.exec(self._activity_id, text)

    async def results(self, batch_id: str, count: int) -> AsyncIterator[ExeScriptCommandResult]:
        """Yield so many results as they come."""
        seen = 0
        while seen < count:
            try:
                found = await self._rest.activity.results(
                    self._activity_id, batch_id, timeout_s=POLL_S, command_index=seen
                )
            except (ApiError, Disconnected):
                await asyncio.sleep(AGAIN_S)
                continue
            for result in found[seen:]:
                yield result
            seen = len(found)

    async def run(self, *words: str) -> str:
        """Run one command of `mandel`; return its output."""
        batch_id = await self.submit([Run("mandel", *words)])
        (output,) = [result.stdout async for result in self.results(batch_id, 1)]
        return str(output)

    async def run_when_possible(self, *words: str, within_s: float) -> float:
        """Try until a batch is taken and has run; return the seconds that took.

        Whether one that got no answer runs as well is not known: let `words` do no harm.
        """
        started = time.monotonic()
        while True:
            try:
                await self.run(*words)
            except (ApiError, Disconnected):
                assert time.monotonic() - started < within_s, "no batch was taken in time"
                await asyncio.sleep(AGAIN_S)
            else:
                return time.monotonic() - started
