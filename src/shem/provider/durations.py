"""Spans of time as operators write them: `90`, `90s`, `5min`, `1h 30m`, `100years`. Pure."""

import re
from typing import Final

from shem.kernel.errors import UsageError

DURATION_MAX_S: Final = 1e10
_DAY_S: Final = 86_400.0
UNITS_S: Final = {
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600.0),
    **dict.fromkeys(("d", "day", "days"), _DAY_S),
    **dict.fromkeys(("w", "week", "weeks"), 7 * _DAY_S),
    **dict.fromkeys(("month", "months"), 30.44 * _DAY_S),
    **dict.fromkeys(("y", "year", "years"), 365.25 * _DAY_S),
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


def parse_duration(text: str, name: str) -> float:
    """Return seconds; UsageError, with the setting's `name`, when it is no span of time."""
    rest, seconds = text.strip().lower(), 0.0
    while match := _PART.match(rest):
        number, unit = match.groups()
        if unit not in UNITS_S:
            break
        seconds += float(number) * UNITS_S[unit]
        rest = rest[match.end() :]
    if rest or not text.strip():
        raise UsageError(f"{name} {text!r} is not a span of time such as 90s, 5min or 1h 30m")
    if seconds > DURATION_MAX_S:
        raise UsageError(f"{name} {text!r} is more than {DURATION_MAX_S:g} s")
    return seconds


def show_duration(seconds: float) -> str:
    """Return a span of time for people."""
    for unit, size in (("d", _DAY_S), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
