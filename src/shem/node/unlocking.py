"""A node whose default identity is locked waits for its password, given over the bus.

Only the identities are served meanwhile (docs/protocol/gsb-identity.md §3.1): `shem id unlock`, or
yagna's, lets the start go on.
"""

import asyncio

import structlog

from shem.bus.router import Bus
from shem.identity.service import IdentityService
from shem.kernel.errors import ShemError
from shem.node.local_identity import LocalIdentity

log = structlog.get_logger()


class StoppedWhileLocked(ShemError):
    """The node was stopped before the password came; nothing of it had been started."""

    code = "identity-locked"


async def default_unlocked(bus: Bus, identity: IdentityService, stop: asyncio.Event) -> None:
    """Return when the default identity is usable; StoppedWhileLocked when `stop` comes first."""
    changed = asyncio.Event()
    identity.on_lock(lambda _what, _node_id: changed.set())
    log.warning(
        "identity.default_locked",
        identity=identity.default_id,
        hint="the node starts when its password is given: shem id unlock",
    )
    async with LocalIdentity(bus, identity):
        while identity.waits_for_password:
            changed.clear()
            if await _stopped_first(stop, changed):
                raise StoppedWhileLocked("stopped while the default identity was locked")
    log.info("identity.default_unlocked", identity=identity.default_id)


async def _stopped_first(stop: asyncio.Event, changed: asyncio.Event) -> bool:
    waits = [asyncio.create_task(event.wait()) for event in (stop, changed)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return stop.is_set()
