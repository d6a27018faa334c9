"""Gives the node what an ended ExeUnit left, before the agent forgets the activity.

Everything here may be repeated: the node keeps what it has and asks for what is missing. A node
that does not keep results (a yagna) says that it knows no such service; then the journal in the
work directory stays the only copy, and `stand_in` answers from it
(docs/adr/0010-results-outlive-their-exeunit.md).
"""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from shem.activity.messages import ENDPOINT_WORDS
from shem.bus.client import BusClient
from shem.bus.types import GsbError, RemoteError
from shem.exeunit.core import Batch
from shem.exeunit.estate import Part, parts, read_estate
from shem.exeunit.service import JOURNAL_NAME
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import Conflict, ShemError, StorageFault
from shem.kernel.failpoints import passing
from shem.kernel.world import World
from shem.provider.patience import BackOff

ANSWER_S: Final = 30.0
"""A part of a batch is committed by the node before it answers."""
LOCAL: Final = "/local/activity"
UNKNOWN_WORDS: Final = "NotFound"
"""The node does not know the activity."""

log = structlog.get_logger()


async def hand_over(activity_id: str, work_dir: Path, gsb_url: str, world: World) -> bool:
    """Give the node all results of an activity whose process has ended; waits for the node.

    False when the journal stays the only copy that can be read.
    """
    lost, batches = None, list[Batch]()
    try:
        batches = await _read(work_dir / JOURNAL_NAME, world)
    except (StorageFault, OSError) as fault:
        lost = f"the journal cannot be read: {fault}"[:100]
        log.warning("journal.not_handed_over", activity=activity_id, reason=str(fault))
    async with BusClient(parse_gsb_url(gsb_url), name="shem-provider", world=world) as client:
        back_off = BackOff(world)
        while True:
            try:
                await _tell_all(client, activity_id, batches, lost)
            except ShemError as error:
                if _is_final(error):
                    log.info("journal.stays", activity=activity_id, reason=error.message)
                    return lost is not None
                log.info("journal.not_handed_over", activity=activity_id, reason=error.message)
                await back_off.wait()
            else:
                log.info("journal.handed_over", activity=activity_id, batches=len(batches))
                return True


def _is_final(error: ShemError) -> bool:
    """Tell whether asking again is useless: the node does not keep results, or not these."""
    if isinstance(error, RemoteError):
        return _is_bad_request(error) or UNKNOWN_WORDS in error.message
    return isinstance(error, GsbError) and any(words in error.message for words in ENDPOINT_WORDS)


def _is_bad_request(error: RemoteError) -> bool:
    return isinstance(error.payload, dict) and "badRequest" in error.payload


async def _read(path: Path, world: World) -> list[Batch]:
    """Read the journal once no process has it open any more."""
    back_off = BackOff(world)
    while True:
        try:
            return await asyncio.to_thread(read_estate, path, world.clock.wall_ns())
        except Conflict as error:
            log.info("journal.held", path=str(path), reason=error.message)
            await back_off.wait()


async def _tell_all(
    client: BusClient, activity_id: str, batches: list[Batch], lost: str | None
) -> None:
    all_told = {"activityId": activity_id, "batches": len(batches), "lost": lost}
    try:
        await client.request(f"{LOCAL}/KeptAll", all_told, timeout_s=ANSWER_S)
    except RemoteError as error:
        if not _is_bad_request(error):
            raise
    else:
        return
    for part in parts(batches):
        await client.request(f"{LOCAL}/KeepBatch", _body(activity_id, part), timeout_s=ANSWER_S)
        passing("agent.batch_handed_over")
    await client.request(f"{LOCAL}/KeptAll", all_told, timeout_s=ANSWER_S)


def _body(activity_id: str, part: Part) -> dict[str, object]:
    return {
        "activityId": activity_id,
        "batchId": part.batch.batch_id,
        "position": part.position,
        "acceptedNs": part.batch.accepted_ns,
        "script": list(part.batch.script.source),
        "from": part.first,
        "results": part.results,
    }
