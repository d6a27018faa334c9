"""What `shem provider status` shows, read from the files and the store beside the agent."""

import asyncio
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shem.exeunit.agreement import flatten
from shem.kernel import times
from shem.kernel.errors import StorageFault
from shem.provider.access import load_access
from shem.provider.activities import RUNTIME_NAME
from shem.provider.agent import DATABASE_NAME
from shem.provider.config import DEFAULT_SUBNET, load_globals, options_of_the_agent
from shem.provider.descriptor import Descriptor, working
from shem.provider.hardware import load_profiles
from shem.provider.keystore import load_keystore
from shem.provider.ledger import resources_of
from shem.provider.presets import load_presets
from shem.provider.settings import new_presets
from shem.provider.whitelist import load_whitelist
from shem.store.datadir import LOCK_FILE

ROWS_MAX: Final = 1_000
BUSY_MS: Final = 2_000
_AGREEMENTS: Final = (
    "SELECT agreement_id, state, body, expires_ns, "
    "(SELECT COUNT(*) FROM agent_activity WHERE agent_activity.agreement_id = "
    "agent_agreement.agreement_id AND agent_activity.state <> 'ended') AS activities "
    f"FROM agent_agreement WHERE state <> 'ended' ORDER BY created_ns LIMIT {ROWS_MAX}"
)


def status_of(directory: Path) -> dict[str, Any]:
    """Return who runs here and what is offered."""
    who, presets, running = load_globals(directory), load_presets(directory), is_running(directory)
    if running:
        who = options_of_the_agent(directory).over(who)
    profiles = load_profiles(directory)
    return {
        "dataDir": str(directory),
        "running": running,
        "nodeName": who.node_name,
        "subnet": who.subnet or DEFAULT_SUBNET,
        "presets": None if presets is None else list(presets.active),
        "profile": None if profiles is None else profiles.active,
    }


def self_test_of(
    directory: Path, cert_dir: Path, descriptors: Sequence[Descriptor]
) -> dict[str, list[str]]:
    """Return which runtimes work and which presets could be offered; UsageError for what is wrong.

    Nothing is written.
    """
    working_here = [found.name for found in asyncio.run(working(descriptors))]
    for load in (load_globals, load_access, load_whitelist, load_profiles):
        load(directory)
    load_keystore(cert_dir)
    presets = load_presets(directory) or new_presets(descriptors)
    active = presets.offered
    return {
        "runtimes": working_here,
        "offered": [found.name for found in active if found.exeunit_name in working_here],
        "not offered": [found.name for found in active if found.exeunit_name not in working_here],
    }


def is_running(directory: Path) -> bool:
    """Whether an agent holds the data directory."""
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def agreements_of(directory: Path) -> list[dict[str, object]]:
    """Return the agreements in force and what each of them holds of the machine."""
    return [_row(*row) for row in rows_of(directory, _AGREEMENTS)]


def rows_of(directory: Path, sql: str, *values: str | int) -> list[Any]:
    """Ask the agent's store, which the agent may have open; no store is an empty one."""
    import apsw

    path = directory / DATABASE_NAME
    if not path.exists():
        return []
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(BUSY_MS)
        try:
            return list(connection.execute(sql, values))
        finally:
            connection.close()
    except apsw.Error as error:
        raise StorageFault(f"{path} cannot be read: {error}") from error


def _row(agreement_id: str, state: str, body: str, expires_ns: int, activities: int) -> Any:
    offer = flatten(json.loads(body)["agreement"]["offer"]["properties"])
    held = resources_of(offer)
    return {
        "agreement": agreement_id,
        "state": state,
        "runtime": offer.get(RUNTIME_NAME),
        "threads": held.threads,
        "memory": held.memory_gib,
        "storage": held.storage_gib,
        "activities": activities,
        "expires": times.to_rfc3339(expires_ns),
    }
