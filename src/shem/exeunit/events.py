"""RuntimeEvents: what a live subscriber sees of a batch (docs/protocol/activity-exeunit.md §8.3).

A log per running batch, replayed to whoever comes late, then followed, then ended with the batch.
When a batch has ended its log is dropped; a later subscriber gets the same story from the results.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from shem.exeunit.capture import Output
from shem.exeunit.results import Result, output_to_wire
from shem.exeunit.script import Script
from shem.kernel import times

EVENTS_MAX: Final = 10_000
"""Events that a log keeps; beyond it output is no longer shown live (the result still has it)."""

Event = dict[str, object]


class Pulse:
    """Wakes everyone who waits; there is nothing to miss as long as they look before they wait."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        await self._event.wait()


class EventLog:
    """The events of one running batch."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id
        self._events: list[Event] = []
        self._ended = False
        self._pulse = Pulse()

    def started(self, index: int, command: object, now_ns: int) -> None:
        self._add(index, {"started": {"command": command}}, now_ns)

    def output(self, index: int, stream: str, data: bytes, now_ns: int, *, binary: bool) -> None:
        if len(self._events) < EVENTS_MAX:
            shown: Output = data if binary else data.decode(errors="replace")
            self._add(index, {stream: output_to_wire(shown)}, now_ns)

    def progress(
        self, index: int, done: int, total: int | None, message: str | None, now_ns: int
    ) -> None:
        if len(self._events) < EVENTS_MAX:
            told: Event = {
                "step": [0, 1],
                "message": message,
                "progress": [done, total],
                "unit": "Bytes",
            }
            self._add(index, {"progress": told}, now_ns)

    def finished(self, result: Result) -> None:
        self._add(result.index, _finished(result), result.at_ns)

    def end(self) -> None:
        self._ended = True
        self._pulse.beat()

    async def follow(self) -> AsyncIterator[Event]:
        """Yield all events from the first on, until the batch ends."""
        position = 0
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self._ended:
                return
            await self._pulse.wait()

    def _add(self, index: int, kind: Event, now_ns: int) -> None:
        self._events.append(event(self._batch_id, index, kind, now_ns))
        self._pulse.beat()


def event(batch_id: str, index: int, kind: Event, now_ns: int) -> Event:
    """Return one event as it travels; its time is UTC without a zone, in microseconds."""
    moment = times.to_naive(times.truncate_to_us(now_ns))
    return {"batch_id": batch_id, "index": index, "timestamp": moment, "kind": kind}


def retell(batch_id: str, script: Script, results: Sequence[Result]) -> list[Event]:
    """Return the events of an ended batch as its results tell them."""
    story: list[Event] = []
    for result in results:
        at_ns = result.at_ns
        started: Event = {"started": {"command": script.source[result.index]}}
        story.append(event(batch_id, result.index, started, at_ns))
        for stream, output in (
            ("stdout", result.outcome.stdout),
            ("stderr", result.outcome.stderr),
        ):
            if output is not None:
                kind: Event = {stream: output_to_wire(output)}
                story.append(event(batch_id, result.index, kind, at_ns))
        story.append(event(batch_id, result.index, _finished(result), at_ns))
    return story


def _finished(result: Result) -> Event:
    outcome = result.outcome
    return {"finished": {"return_code": outcome.return_code, "message": outcome.message}}
