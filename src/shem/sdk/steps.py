"""Steps: batches whose id follows from what they are, so that every process sends them once.

A program that died may have sent its step or not; the next one sends it again under the same id,
and a shem node answers a repeat as the first time (docs/adr/0004, 0009). A step that provably never
ran goes out again under the next id in line.
"""

import hashlib
from typing import Final

from shem.sdk.activity import Activity
from shem.sdk.batch import Batch
from shem.sdk.errors import NodeRefused
from shem.sdk.script import Script
from shem.sdk.submission import CODE_NEVER, RENEWALS_MAX

ID_DIGITS: Final = 32


def step_id(activity: Activity, name: str, attempt: int = 0) -> str:
    """Return the batch id of a named step of an activity."""
    text = f"{activity.session.app_session_id}:{activity.id}:{name}:{attempt}"
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


async def submit_step(activity: Activity, script: Script, name: str) -> Batch:
    """Have a step run once, whoever has begun it; NodeRefused when it was another script then."""
    for attempt in range(RENEWALS_MAX):
        try:
            return await activity.submit(script, batch_id=step_id(activity, name, attempt))
        except NodeRefused as error:
            if error.code == "batch-exists":
                text = f"step {name!r} was begun with another script: {error.message}"
                raise NodeRefused(text, status=error.status, code=error.code) from error
            if error.code != CODE_NEVER:
                raise
    raise NodeRefused(f"step {name!r} never ran, under {RENEWALS_MAX} ids", code=CODE_NEVER)
