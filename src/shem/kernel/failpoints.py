"""Named points where a test can crash, pause or fail a real process just after a durable step.

`SHEM_FAILPOINTS="exec.intent_committed=kill"` makes the process kill itself when it passes that
point; `=kill@3` at the third passing. Unset, a point costs one dict look-up. The names are
documented where they are used and in docs/failpoints.md.
"""

import os
import signal
from typing import Final


def _load() -> dict[str, int]:
    points: dict[str, int] = {}
    for item in filter(None, os.environ.get("SHEM_FAILPOINTS", "").split(",")):
        name, _, action = item.partition("=")
        verb, _, nth = action.partition("@")
        if verb != "kill":
            raise ValueError(f"SHEM_FAILPOINTS: {item!r} is not NAME=kill or NAME=kill@N")
        points[name] = int(nth or "1")
    return points


_POINTS: Final = _load()


def passing(name: str) -> None:
    """Mark a point that a crash test may choose."""
    if name not in _POINTS:
        return
    _POINTS[name] -= 1
    if _POINTS[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
