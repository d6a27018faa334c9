"""Loaded by every Python of a devnet whose clocks are to be set: a wall clock that a file moves.

The file holds the seconds by which this machine's clock is wrong; which machine it is tell the
settings of a process. Monotonic clocks are left alone, as setting a clock leaves them.
"""

import os
import time
from pathlib import Path

_DIRECTORY = os.environ.get("SHEM_TEST_CLOCKS")
_MACHINE = "requestor" if "/requestor" in os.environ.get("YAGNA_DATADIR", "") else "provider"

if _DIRECTORY is not None:
    _file = Path(_DIRECTORY, f"clock-of-{_MACHINE}")
    _time_ns = time.time_ns

    def _wrong_ns() -> int:
        try:
            return int(float(_file.read_text()) * 1e9)
        except (OSError, ValueError):
            return 0

    time.time_ns = lambda: _time_ns() + _wrong_ns()
    time.time = lambda: time.time_ns() / 1e9
