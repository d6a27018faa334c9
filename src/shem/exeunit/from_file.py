"""Runs one ExeScript from a file and ends: no node, no agent; for who writes a payload.

The same engine, journal, runtimes and limits as in an activity. A node that is there is told states
and usage when a report address is given, and serves GFTP transfers (docs/protocol/
activity-exeunit.md §6.1).
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shem.activity.script import parse_script as parse_text
from shem.bus.client import BusClient
from shem.exeunit.compliance import require_compliance
from shem.exeunit.engine import RESULTS_WAIT_MAX_S, Engine
from shem.exeunit.feeds import ProgressFeed
from shem.exeunit.runtimes.base import Runtime
from shem.exeunit.script import SCRIPT_SIZE_MAX, Script, parse_script
from shem.exeunit.service import JOURNAL_NAME, ExeUnit, Setup
from shem.exeunit.transfer.mover import Mover
from shem.exeunit.usage import CPU, DURATION
from shem.kernel.errors import UsageError
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World, new_hex_id

FINISHED: Final = "Finished"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the script."""

    results: list[dict[str, object]]
    """As the REST API gives them."""
    ended: str
    """`Finished`, or why it ended before."""
    ok: bool


def read_script(path: Path) -> Script:
    """Read a JSON array of commands, with a node's defaults; UsageError says what is wrong."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    if len(text) > SCRIPT_SIZE_MAX:
        raise UsageError(f"{path}: an ExeScript has at most {SCRIPT_SIZE_MAX} bytes")
    try:
        return parse_script(parse_text(text).commands)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message.removeprefix('Bad request: ')}") from error


def write_agreement(path: Path) -> Path:
    """Write an agreement without a package, limits or an end."""
    offer = {"golem.com.usage.vector": [DURATION, CPU]}
    body = {"agreementId": "", "demand": {"properties": {}}, "offer": {"properties": offer}}
    path.write_text(json.dumps(body))
    return path


class FileRun(ExeUnit):
    """An ExeUnit that is given one script, by nobody from outside."""

    def __init__(self, setup: Setup, script: Script, world: World, image: Path | None) -> None:
        super().__init__(setup, world)
        self._script = script
        self._image = image
        self._outcome: Outcome | None = None

    async def run(self) -> Outcome:
        """Run the script to its end, or to the end of what it may use."""
        require_compliance(self._script, self._terms.manifest)
        journal = self._setup.work_dir / JOURNAL_NAME
        if await asyncio.to_thread(journal.exists):
            raise UsageError(f"{self._setup.work_dir} has been used: name an empty directory")
        await self.serve()
        assert self._outcome is not None
        return self._outcome

    async def _serve_on(
        self, client: BusClient, engine: Engine, runtime: Runtime, mover: Mover, scope: TaskScope
    ) -> None:
        del mover
        usage = self._usage(engine, runtime)
        reports = self._reports(engine, usage, client) if self._setup.report_url else None
        if reports is not None:
            scope.spawn(reports.tell_states(), "state reports")
            scope.spawn(reports.tell_usage(), "usage reports")
        scope.spawn(self._watch_usage(usage, engine), "usage checkpoints")
        scope.spawn(self._watch_storage(usage, engine), "storage")
        scope.spawn(self._watch_expiry(), "expiry")
        batch_id = new_hex_id(self._world.rng)
        await engine.exec(batch_id, self._script)
        scope.spawn(self._end_with(engine, batch_id), "end of the script")
        cause = await self._end
        await self._shut_down(engine, usage, reports, cause)
        results = await engine.results(batch_id, timeout_s=0, command_index=None)
        done = len(results) == len(self._script.commands)
        ok = done and all(result["result"] == "Ok" for result in results)
        self._outcome = Outcome(results, cause, ok)

    async def _end_with(self, engine: Engine, batch_id: str) -> None:
        batch = engine.core.batch(batch_id)
        while not batch.ended:
            await engine.results(batch_id, timeout_s=RESULTS_WAIT_MAX_S, command_index=None)
        self.end(FINISHED)

    async def _fetch_image(self, mover: Mover, progress: ProgressFeed) -> Path | None:
        return self._image or await super()._fetch_image(mover, progress)
