"""What an ExeUnit's journal and counters tell about its work: for its end, and at its end. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from shem.exeunit.agreement import AgreementTerms
from shem.exeunit.core import Core
from shem.exeunit.ending import Sight, is_program
from shem.exeunit.results import select
from shem.exeunit.usage import DURATION
from shem.kernel.times import NS_PER_S
from shem.rest.terms import amount_due


def look(
    core: Core,
    terms: AgreementTerms,
    usage: Mapping[str, float],
    vector: Sequence[float],
    *,
    started_ns: int,
    now_ns: int,
) -> Sight:
    """Gather what the conditions are judged on.

    Idleness counts from the start of this process at the earliest: a requestor that waits for its
    provider to come back is not idle.
    """
    last_ns = started_ns
    running = worked = False
    exits: set[str] = set()
    for batch in core.batches.values():
        programs = [
            batch.script.commands[result.index].entry_point
            for result in batch.results
            if is_program(batch.script.commands[result.index].kind)
        ]
        exits.update(programs)
        running = running or not batch.ended
        worked = worked or (batch.ended and bool(programs))
        last_ns = max(last_ns, batch.accepted_ns, *(result.at_ns for result in batch.results))
    owed = amount_due(terms.offer, vector)
    return Sight(
        running=running,
        worked=worked,
        exits=frozenset(exits),
        idle_s=0.0 if running else max(0.0, (now_ns - last_ns) / NS_PER_S),
        age_s=usage.get(DURATION, 0.0),
        cost=None if owed is None else Decimal(owed.amount),
    )


def results_document(core: Core, activity_id: str, terms: AgreementTerms) -> dict[str, Any]:
    """Return what is delivered of an activity: all batches with all results, and how it ended."""
    end = core.end
    return {
        "activityId": activity_id,
        "agreementId": terms.agreement_id,
        "endedBy": end.cause,
        "usage": end.usage or {},
        "files": None if not end.parts else end.text(),
        "batches": [
            {
                "batchId": batch.batch_id,
                "script": list(batch.script.source),
                "results": select(batch.results, batch.last_index, None),
            }
            for batch in core.batches.values()
        ],
    }
