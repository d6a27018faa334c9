"""Times: nanoseconds since 1970 (`*_ns`, int) inside and in the store, RFC 3339 text at the edges.

The market hashes times with nine digits, which datetime cannot carry; hence the integers.
"""

import re
from datetime import UTC, datetime
from typing import Final

from shem.kernel.errors import UsageError

NS_PER_S: Final = 1_000_000_000
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)?"
)


def _fraction(ns: int) -> str:
    """Return the shortest exact fraction of 0, 3, 6 or 9 digits."""
    if ns == 0:
        return ""
    if ns % 1_000_000 == 0:
        return f".{ns // 1_000_000:03d}"
    if ns % 1_000 == 0:
        return f".{ns // 1_000:06d}"
    return f".{ns:09d}"


def to_naive(ns: int) -> str:
    """Return GSB's form: `2026-11-23T20:09:01.990004599`, UTC without a zone."""
    seconds, rest = divmod(ns, NS_PER_S)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="seconds") + _fraction(rest)


def to_rfc3339(ns: int) -> str:
    """Return REST's form: as `to_naive`, with `Z`."""
    return to_naive(ns) + "Z"


def parse(text: str) -> int:
    """Read RFC 3339 with or without a zone (none means UTC); UsageError when it is neither."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a date-time like 2026-11-23T20:09:01.990Z")
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        seconds = int(datetime.fromisoformat(f"{day}T{clock}{zone}").timestamp())
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a date-time: {error}") from error
    return seconds * NS_PER_S + int((fraction or "0").ljust(9, "0"))


def truncate_to_us(ns: int) -> int:
    """Cut to microseconds: event dates, which SDKs compare after parsing to microseconds."""
    return ns - ns % 1_000


def truncate_to_ms(ns: int) -> int:
    return ns - ns % 1_000_000
