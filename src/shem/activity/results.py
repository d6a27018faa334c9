"""Results of commands: read from a peer, appended to what is stored, shown to a client.

Rules (docs/protocol/activity-exeunit.md §8.1, §8.2): entries are contiguous from index 0; a poll
for `commandIndex = k` carries output in entry k only and calls it the last. What is stored is the
truth about the whole batch, so `isBatchFinished` is computed here and not believed. Pure.
"""

import re
from datetime import datetime
from typing import Any, Final

from shem.activity.batches import Coverage
from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.wire.errors import WireError
from shem.wire.flexbuffers import Blob

Result = dict[str, Any]

MESSAGE_SIZE_MAX: Final = 65_536
_SHOWN: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?Z")
INTERRUPTED: Final = "interrupted, outcome unknown"


def parse_results(value: object, commands: int | None, first: int = 0) -> list[Result]:
    """Read results that begin at index `first`; WireError when they are not a run of them."""
    if not isinstance(value, list):
        raise WireError("results are a list")
    if commands is not None and first + len(value) > commands:
        raise WireError(f"{first + len(value)} results for {commands} commands")
    return [_parse_result(item, position) for position, item in enumerate(value, first)]


def _parse_result(item: object, position: int) -> Result:
    if not isinstance(item, dict):
        raise WireError("a result is a map")
    if item.get("index") != position:
        raise WireError(f"result {position} has index {item.get('index')!r}")
    result = item.get("result")
    if result not in ("Ok", "Error"):
        raise WireError(f"result {position} is {result!r}, neither Ok nor Error")
    message = item.get("message")
    if message is not None and not isinstance(message, str):
        raise WireError(f"result {position}: message is a text")
    return {
        "index": position,
        "result": result,
        "stdout": _output(item.get("stdout")),
        "stderr": _output(item.get("stderr")),
        "message": None if message is None else message[:MESSAGE_SIZE_MAX],
        "isBatchFinished": False,
        "eventDate": _date(item.get("eventDate")),
    }


def _output(value: object) -> str | list[int] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Blob):
        return list(value.data)
    if isinstance(value, list) and all(type(byte) is int and 0 <= byte < 256 for byte in value):
        return value
    raise WireError("an output is a text or bytes")


def _date(value: object) -> str:
    """Return a date as REST shows it; the form that nearly all have is only checked."""
    if not isinstance(value, str):
        raise WireError("a result has an eventDate")
    try:
        if _SHOWN.fullmatch(value):
            datetime.fromisoformat(value)
            return value
        return times.to_rfc3339(times.truncate_to_us(times.parse(value)))
    except (UsageError, ValueError) as error:
        raise WireError(f"eventDate: {error}") from error


def fresh_results(
    coverage: Coverage, entries: list[Result], command_index: int | None
) -> list[Result]:
    """Return the entries that continue what is stored, up to the one that ends the batch.

    Of a poll for `command_index` only that entry is whole; those before it were stored already.
    """
    if coverage.finished:
        return []
    fresh = entries[coverage.stored :]
    if command_index is not None:
        fresh = [entry for entry in fresh if entry["index"] == command_index][:1]
        if command_index != coverage.stored:
            return []
    for position, entry in enumerate(fresh):
        if entry["result"] == "Error":
            return fresh[: position + 1]
    return fresh


def interrupted(index: int, why: str, now_ns: int) -> Result:
    """Make the last entry of a batch whose activity ended before its result was heard."""
    return {
        "index": index,
        "result": "Error",
        "stdout": None,
        "stderr": None,
        "message": f"{INTERRUPTED}: {why}"[:MESSAGE_SIZE_MAX],
        "isBatchFinished": False,
        "eventDate": times.to_rfc3339(times.truncate_to_us(now_ns)),
    }


def shown(stored: list[Result], commands: int, command_index: int | None) -> list[Result]:
    """Return stored results as a poll answers them."""
    last = commands - 1 if command_index is None else command_index
    entries: list[Result] = []
    for entry in stored[: last + 1]:
        ends = entry["index"] == last or entry["result"] == "Error"
        whole = command_index is None or entry["index"] == command_index
        muted = {} if whole else {"stdout": None, "stderr": None}
        entries.append({**entry, **muted, "isBatchFinished": ends})
    return entries
