"""What the `shem activity` commands show, as plain values. Pure.

Rows and documents are made for JSON first; people get the same in words.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shem.kernel import times
from shem.rest import models
from shem.sdk.absence import Absence, Due
from shem.sdk.batch import CommandResult
from shem.sdk.report import AttachReport

LINE_LENGTH_MAX: Final = 60
_HASH: Final = re.compile(r"^hash:(//)?[^:]+:[^:]+:", re.IGNORECASE)
Row = dict[str, Any]
Names = Mapping[tuple[str, int], str]
"""(batch id, index) → what the command is."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One entry of a timeline."""

    at: str
    what: str
    ok: bool = True
    output: str = ""

    def json(self) -> Row:
        return {"at": self.at, "what": self.what, "ok": self.ok, "output": self.output}


def report_row(report: AttachReport, activity_id: str, agreement_id: str) -> Row:
    """Return an AttachReport as a document."""
    ended = report.ended
    return {
        "activityId": activity_id,
        "agreementId": agreement_id,
        "providerId": report.provider_id,
        "liveness": report.liveness,
        "state": report.state,
        "agreementState": report.agreement_state,
        "ended": None
        if ended is None
        else {"by": ended.by, "at": ended.at, "why": ended.why, "code": ended.code},
        "expires": report.expires,
        "absence": absence_row(report.absence),
        "due": due_row(report.due),
        "batchesListed": report.batches_listed,
        "batches": [
            {
                "batchId": batch.batch_id,
                "state": batch.state,
                "commands": batch.commands,
                "finished": batch.finished,
                "results": [result_row(result) for result in batch.results],
            }
            for batch in report.batches
        ],
    }


def absence_row(absence: Absence) -> Row:
    return {
        "seconds": absence.seconds,
        "until": absence.until,
        "limitedBy": absence.limited_by,
        "resultsUntil": absence.results_until,
        "limits": [
            {
                "kind": limit.kind,
                "effect": limit.effect,
                "applies": limit.applies,
                "at": limit.at,
                "afterSec": limit.after_sec,
                "text": limit.text,
            }
            for limit in absence.limits
        ],
    }


def due_row(due: Due | None) -> Row | None:
    if due is None:
        return None
    return {"amount": str(due.amount), "isEstimate": due.is_estimate, "usage": due.usage}


def result_row(result: CommandResult) -> Row:
    return {
        "batchId": result.batch_id,
        "index": result.index,
        "ok": result.ok,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "message": result.message,
        "at": result.at,
        "last": result.last,
    }


def report_fields(report: AttachReport, activity_id: str, agreement_id: str) -> dict[str, object]:
    """Return an AttachReport in words, one field a line."""
    results = sum(len(batch.results) for batch in report.batches)
    unfinished = sum(not batch.finished for batch in report.batches)
    return {
        "activity": activity_id,
        "state": f"{report.state} ({report.liveness})",
        "ended": None if report.ended is None else str(report.ended).removeprefix("ended "),
        "provider": report.provider_id,
        "agreement": f"{agreement_id} ({report.agreement_state})",
        "expires": report.expires,
        "away": str(report.absence) if report.alive else None,
        "due": None if report.due is None else str(report.due),
        "batches": f"{len(report.batches)}, {unfinished} unfinished, {results} unread results",
    }


def timeline(
    info: models.Agreement, entries: Sequence[models.Batch], report: AttachReport
) -> list[Happening]:
    """Return what happened, oldest first, as far as the report's holder has not read it."""
    found = [Happening(info.timestamp, f"agreement with {info.offer.provider_id} proposed")]
    if info.approved_date:
        found.append(Happening(info.approved_date, "agreement approved"))
    found += [
        Happening(
            entry.created_date,
            f"batch {entry.batch_id[:8]} sent: {_count(entry.commands)} ({entry.state})",
        )
        for entry in entries
        if entry.created_date
    ]
    names = command_names(entries)
    found += [happening(result, names) for batch in report.batches for result in batch.results]
    if report.ended is not None and report.ended.at is not None:
        found.append(Happening(report.ended.at, str(report.ended), ok=False))
    return sorted(found, key=lambda entry: times.parse(entry.at))


def _count(commands: int) -> str:
    return f"{commands} command{'' if commands == 1 else 's'}"


def command_names(entries: Sequence[models.Batch]) -> Names:
    """Return what each command is, in a few words."""
    return {
        (entry.batch_id, index): command_name(command)
        for entry in entries
        for index, command in enumerate(entry.script)
    }


def command_name(command: object) -> str:
    """Return `run mandel zoom 1 9`, `transfer gftp:9f3a21c0 /data/x`, or `deploy`."""
    if not isinstance(command, dict) or len(command) != 1:
        return ""
    ((kind, body),) = command.items()
    fields = body if isinstance(body, dict) else {}
    args = fields.get("args")
    places = [_place(fields.get(name)) for name in ("from", "to")]
    words = [fields.get("entry_point"), *places, *(args if isinstance(args, list) else [])]
    return " ".join([str(kind), *(repr(w) if " " in w else w for w in words if isinstance(w, str))])


def _place(url: object) -> object:
    """Return what tells a person which file is meant: no hash, no node id."""
    if not isinstance(url, str):
        return None
    location = _HASH.sub("", url)
    if location.startswith("container:"):
        return location.removeprefix("container:")
    if location.startswith("gftp:"):
        return f"gftp:{location.rpartition('/')[2][:8]}"
    return location


def happening(result: CommandResult, names: Names | None = None) -> Happening:
    """Return one result as an entry of a timeline."""
    fate = "done" if result.ok else f"failed: {result.message or 'no reason given'}"
    name = (names or {}).get((result.batch_id, result.index), "")
    what = f"batch {result.batch_id[:8]} command {result.index}{name and ' '}{cut(name)} {fate}"
    last = " (the last)" if result.last else ""
    return Happening(result.at, what + last, result.ok, result.stdout + result.stderr)


def short_time(moment: str) -> str:
    """Return `2026-11-23 20:09:07`, UTC; what is no time stays as it is."""
    return moment[:19].replace("T", " ")


def cut(text: str) -> str:
    """Return a text that fits into a line with others."""
    return text if len(text) <= LINE_LENGTH_MAX else text[: LINE_LENGTH_MAX - 1] + "…"
