"""Files to an activity and back, and what scripts with files need before they are sent.

The ExeUnit does the work and sits out cuts of its own; what it gives up on is done again here, by
whoever wants the file. An upload that another program began and left is taken up: both serve the
same URL.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shem.rest.models import Batch as BatchEntry
from shem.sdk.batch import Batch, CommandResult, list_batches
from shem.sdk.errors import BatchUnknown, GolemError, NotSupported
from shem.sdk.files import is_ours, require_protocols
from shem.sdk.live import Progress
from shem.sdk.script import Command, Transfer

if TYPE_CHECKING:
    from shem.sdk.activity import Activity

ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0
CUT_OFF: Final = ("Transfer error", "GSB error")
"""What ExeUnits say of a transfer that the network, or we, ended."""
ACCEPTED: Final = "accepted"

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Served:
    """A script as it is sent, and the URLs that are served for it."""

    commands: tuple[Command, ...]
    urls: tuple[str, ...] = ()


@asynccontextmanager
async def serving(activity: "Activity", commands: Sequence[Command]) -> AsyncIterator[Served]:
    """Serve the files of a script; no longer when it was certainly not accepted."""
    if not any(is_ours(command) or isinstance(command, Transfer) for command in commands):
        yield Served(tuple(commands))
        return
    require_protocols(commands, (await activity.agreement.info()).offer.properties)
    files = activity.session.files
    sent, urls = await files.serve(commands)
    try:
        yield Served(sent, urls)
    except GolemError as error:
        if not isinstance(error, BatchUnknown):
            with suppress(GolemError):
                await files.release(urls)
        raise


async def is_known(activity: "Activity", batch_id: str, commands: Sequence[Command]) -> bool:
    """Tell whether a batch with files was accepted already: its URLs cannot be made again."""
    if not any(map(is_ours, commands)):
        return False
    return any(
        entry.batch_id == batch_id and entry.state == ACCEPTED for entry in await _listed(activity)
    )


async def move(activity: "Activity", command: Command, progress: OnProgress | None) -> None:
    """Do one transfer, again if it is cut; CommandFailed says why it cannot be done."""
    for attempt in range(1, ATTEMPTS + 1):
        result = await _attempt(activity, command, progress)
        if not is_cut(result) or not is_ours(command) or attempt == ATTEMPTS:
            result.check()
            return
        await activity.session.world.clock.sleep(PAUSE_S * attempt)


def is_cut(result: CommandResult) -> bool:
    """Tell whether a transfer failed for a reason that may be over."""
    return result.interrupted or (
        not result.ok and any(word in (result.message or "") for word in CUT_OFF)
    )


async def _attempt(
    activity: "Activity", command: Command, progress: OnProgress | None
) -> CommandResult:
    async with serving(activity, [command]) as served:
        left = await _left(activity, served.commands[0]) if is_ours(command) else None
        if left is None:
            batch = await activity.submit(served.commands)
        else:
            batch = activity.batch(left)
        activity.session.files.keep(batch.id, served.urls)
    telling = asyncio.ensure_future(_tell(batch, progress)) if progress is not None else None
    try:
        return (await batch.wait())[-1]
    finally:
        if telling is not None:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def _tell(batch: Batch, progress: OnProgress) -> None:
    with suppress(GolemError):
        async for event in batch.events():
            if isinstance(event, Progress):
                progress(event)


async def _left(activity: "Activity", command: Command) -> str | None:
    """Return the batch of a program that began this transfer and left, if it still runs."""
    wanted = _sides(command.wire())
    for entry in reversed(await _listed(activity)):
        alone = len(entry.script) == 1 and not entry.is_finished
        if alone and entry.state == ACCEPTED and _sides(entry.script[0]) == wanted:
            return entry.batch_id
    return None


def _sides(command: object) -> Any:
    body = command.get("transfer") if isinstance(command, dict) else None
    return (body.get("from"), body.get("to")) if isinstance(body, dict) else None


async def _listed(activity: "Activity") -> list[BatchEntry]:
    try:
        return await list_batches(activity.session, activity.id)
    except NotSupported:
        return []
