"""Which activity is meant, and what there is: shared by the `shem activity` commands.

Works through the node's REST API (YAGNA_API_URL, YAGNA_APPKEY), at a yagna too. An activity is
named by its id, by the beginning of it, or by the file of a ticket (`x.ticket`, `./x`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from shem.kernel.errors import ShemError, UsageError
from shem.sdk.absence import look
from shem.sdk.activity import Activity
from shem.sdk.golem import Golem
from shem.sdk.ticket import Ticket

APP: Final = "shem-cli"
PATIENCE_S: Final = 15.0
STATE_TIMEOUT_S: Final = 2.0
AT_ONCE_MAX: Final = 16
ID_LENGTH: Final = 32
PREFIX_MIN: Final = 4
TICKET_SUFFIX: Final = ".ticket"

T = TypeVar("T")


def with_golem(work: Callable[[Golem], Awaitable[T]], *, gsb_url: str | None = None) -> T:
    """Open a session with the node, run `work`, close it."""

    async def run() -> T:
        async with Golem(APP, patience=PATIENCE_S, gsb_url=gsb_url) as golem:
            return await work(golem)

    return asyncio.run(run())


async def attach_by_name(golem: Golem, name: str) -> Activity:
    return await golem.attach(await _resolve(golem, name))


async def _resolve(golem: Golem, name: str) -> str | Ticket:
    """Return what a name stands for: a ticket's file, an id, or the beginning of one."""
    if "/" in name or name.endswith(TICKET_SUFFIX):
        return Ticket.load(name)
    if len(name) >= ID_LENGTH:
        return name
    if len(name) < PREFIX_MIN:
        raise UsageError(f"{name!r} is too short for an activity: {PREFIX_MIN} digits at least")
    ids = [row["activityId"] for row in await list_activities(golem, ended_too=True)]
    return one_of(name, ids)


def one_of(prefix: str, ids: Sequence[str]) -> str:
    """Return the only id that begins so; UsageError when there is none, or several."""
    found = [name for name in ids if name.startswith(prefix)]
    if not found:
        raise UsageError(f"no id begins with {prefix!r} (there are {len(ids)}: `ps --all`, `logs`)")
    if len(found) > 1:
        raise UsageError(f"{prefix!r} is the beginning of {len(found)} ids: {', '.join(found)}")
    return found[0]


async def list_activities(golem: Golem, *, ended_too: bool) -> list[dict[str, Any]]:
    session = golem.session
    find = session.rest.market.agreements.find
    entries = await session.patience.ask(lambda: find(state=None if ended_too else "Approved"))
    slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def look_at(agreement_id: str) -> list[dict[str, Any]]:
        async with slots:
            return await _rows_of(golem, agreement_id)

    mine = [look_at(entry.id) for entry in entries if entry.role == "Requestor"]
    found = [row for rows in await asyncio.gather(*mine) for row in rows]
    return [row for row in found if ended_too or row["alive"]]


async def _rows_of(golem: Golem, agreement_id: str) -> list[dict[str, Any]]:
    session = golem.session
    info = await session.patience.ask(lambda: session.rest.market.agreements.get(agreement_id))
    of_agreement = session.rest.activity.of_agreement
    rows: list[dict[str, Any]] = []
    for activity_id in await session.patience.ask(lambda: of_agreement(agreement_id)):
        found = await look(session, activity_id, info)
        state = "Terminated" if found.ended is not None else await _state(golem, activity_id)
        rows.append(
            {
                "activityId": activity_id,
                "agreementId": agreement_id,
                "providerId": info.offer.provider_id,
                "alive": state != "Terminated",
                "state": state,
                "ended": None if found.ended is None else str(found.ended),
                "batches": await _batch_counts(golem, activity_id),
                "until": found.absence.until,
                "limitedBy": found.absence.limited_by,
            }
        )
    return rows


async def _state(golem: Golem, activity_id: str) -> str:
    try:
        state = await golem.session.rest.activity.state(activity_id, timeout_s=STATE_TIMEOUT_S)
    except ShemError:
        return "Unreachable"
    return state.current if state.alive else "Terminated"


async def _batch_counts(golem: Golem, activity_id: str) -> str | None:
    """Return `finished/all`; None at a node that cannot say."""
    try:
        entries = await golem.session.rest.activity.batches(activity_id)
    except ShemError:
        return None
    return f"{sum(entry.is_finished for entry in entries)}/{len(entries)}"
