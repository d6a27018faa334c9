"""What clients asked of a node and what they were told, kept to be checked in the end.

A call is `ok`, `fail` (the answer proves, or the missing connection, that nothing was done) or
`unknown` (no answer, or one that does not say). What was told once holds for ever: `Facts` of a
batch only grow, and whatever contradicts them is written down in `broken`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import ExeScriptCommandResult

PROOFS_OF_NOTHING = frozenset({400, 401, 403, 404, 409, 410, 501})
SETTLED = frozenset({"accepted", "refused", "never"})
HONEST_CODES = frozenset({"timeout", "peer-unreachable", "endpoint-gone", "storage-closed"})
"""Codes of server errors that an outage explains; any other is a fault."""
TOO_LATE = "was abruptly terminated. Reason: Destroyed by the requestor or its node"
"""Said of an activity that did not start before its creator's time was up."""


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Call:
    """One call of one client."""

    who: str
    op: str
    args: dict[str, Any]
    began_s: float
    ended_s: float | None = None
    outcome: Outcome = Outcome.UNKNOWN
    answer: Any = None
    status: int = 0
    code: str = ""
    text: str = ""
    unsent: bool = False

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def took_s(self) -> float:
        return (self.ended_s or self.began_s) - self.began_s

    def __str__(self) -> str:
        return f"{self.who}: {self.op} {self.args} → {self.outcome} {self.status} {self.text}"


@dataclass(slots=True)
class Facts:
    """One batch: what it should do, and what was told of it so far."""

    tag: str
    traces: list[list[str]]
    """For each command, the lines it leaves in the payload's ledger."""
    text: str
    activity_id: str
    batch_id: str | None
    told: str | None = None
    told_s: float = 0.0
    results_s: float = 0.0
    acknowledged: bool = False
    results: list[ExeScriptCommandResult] = field(default_factory=list)


class History:
    """All calls, and what was found wrong as they went."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.broken: list[str] = []
        self._expected: dict[str, asyncio.Event] = {}

    async def call(self, who: str, op: str, doing: Awaitable[Any], **args: Any) -> Call:
        """Make a call and keep what became of it."""
        call = Call(who, op, args, time.monotonic())
        self.calls.append(call)
        if op in self._expected:
            self._expected.pop(op).set()
        try:
            call.answer = await doing
            call.outcome = Outcome.OK
        except ApiError as error:
            call.status, call.code, call.text = error.status, error.code, error.message
            if error.status in PROOFS_OF_NOTHING:
                call.outcome = Outcome.FAIL
            self._check_error(call)
        except Disconnected as error:
            call.code, call.text, call.unsent = error.code, error.message, not error.sent
            if call.unsent:
                call.outcome = Outcome.FAIL
        finally:
            call.ended_s = time.monotonic()
        return call

    async def begins(self, op: str, within_s: float) -> None:
        """Return when the next call of this kind begins, or the time is over."""
        expected = self._expected.setdefault(op, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(expected.wait(), within_s)

    def wrong(self, what: str) -> None:
        self.broken.append(what)

    def counts(self) -> dict[str, Counter[str]]:
        """Count the outcomes of each kind of call."""
        found: dict[str, Counter[str]] = {}
        for call in self.calls:
            found.setdefault(call.op, Counter())[str(call.outcome)] += 1
        return found

    def _check_error(self, call: Call) -> None:
        if call.status < 500 or call.status == 501 or TOO_LATE in call.text:
            return
        if call.code not in HONEST_CODES:
            self.wrong(f"not an honest error: {call} ({call.code})")

    # ---- batches -------------------------------------------------------------------------------

    def acknowledge(self, facts: Facts, call: Call) -> None:
        """The POST was answered 200."""
        batch_id = call.answer
        if facts.batch_id not in (None, batch_id):
            self.wrong(f"{facts.tag}: answered id {batch_id}, chosen was {facts.batch_id}")
        facts.batch_id = batch_id
        facts.acknowledged = True
        self.tell_state(facts, "accepted", call)

    def tell_state(self, facts: Facts, state: str, call: Call) -> None:
        """A call told the state of a batch; a settled one never changes.

        A call that was under way when the state settled may still tell the one before.
        """
        if facts.told in SETTLED and state != facts.told:
            if state in SETTLED or call.began_s > facts.told_s:
                self.wrong(f"{facts.tag}: was told {facts.told}, now {state}")
        elif facts.told not in SETTLED:
            facts.told, facts.told_s = state, time.monotonic()

    def tell_results(self, facts: Facts, call: Call, *, whole: bool) -> None:
        """A poll told results: they continue what was told before, and change nothing of it."""
        results: list[ExeScriptCommandResult] = call.answer
        self.tell_state(facts, "accepted", call)
        for position, (before, now) in enumerate(zip(facts.results, results, strict=False)):
            same = (before.index, before.result, before.message) == (
                now.index,
                now.result,
                now.message,
            )
            if not same or (whole and before.stdout != now.stdout):
                self.wrong(f"{facts.tag}: result {position} was {before}, now {now}")
        if whole:
            if len(results) > len(facts.results):
                facts.results, facts.results_s = results, time.monotonic()
            elif len(results) < len(facts.results) and call.began_s > facts.results_s:
                self.wrong(f"{facts.tag}: had {len(facts.results)} results, now {len(results)}")
