"""What is agreed with a provider for the time in which nobody watches. Pure.

    golem.rent(
        package,
        end_when=shem.EndWhen(batch_done=True, budget=Decimal("0.5")),
        result_sink=shem.ResultSink(results_url="https://example.org/put/42"),
        max_absence=timedelta(hours=20),
        on_absence="finish",
        keep_results=timedelta(days=30),
    )

The first condition that holds ends the work: what runs is stopped, results and files are delivered,
and activity and agreement end; from then on nothing is billed. A provider that has not said that it
can do all of it is not taken. Where to deliver is told only to providers that can.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from shem.kernel.errors import UsageError
from shem.rest.endwhen import (
    CAN_END_WHEN,
    CAN_ON_ABSENCE,
    CAN_SINK,
    EndWhen,
    ResultSink,
    check_end_when,
    check_sink,
    names_of,
)
from shem.rest.models import Properties
from shem.rest.terms import MAX_ABSENCE, ON_ABSENCE, RETENTION, RETENTION_MAX

OnAbsence = Literal["terminate", "finish"]
"""End the agreement; or let what runs end, deliver, and end then."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """The terms that a rental asks for, beyond its payload."""

    end_when: EndWhen | None = None
    sink: ResultSink | None = None
    max_absence: timedelta | None = None
    on_absence: OnAbsence = "terminate"
    keep_results: timedelta | None = None
    """How long after the agreement's end the provider keeps the results; None: as it offers."""

    def __post_init__(self) -> None:
        if self.end_when is not None:
            check_end_when(self.end_when)
        if self.sink is not None:
            check_sink(self.sink)
            if self.end_when is None and not (self.max_absence and self.on_absence == "finish"):
                raise UsageError('result_sink needs end_when, or max_absence and "finish"')
        if self.max_absence is not None and self.max_absence < timedelta(seconds=1):
            raise UsageError("max_absence is at least one second")
        if self.keep_results is not None and self.keep_results < timedelta(0):
            raise UsageError("keep_results is not negative")

    def properties(self) -> Properties:
        """Return what our side of the agreement says."""
        found: Properties = {}
        if self.end_when is not None:
            found |= self.end_when.properties()
        if self.sink is not None:
            found |= self.sink.properties()
        if self.max_absence is not None:
            found[MAX_ABSENCE] = int(self.max_absence.total_seconds())
            found[ON_ABSENCE] = self.on_absence
        if self.keep_results is not None:
            found[RETENTION] = int(self.keep_results.total_seconds())
        return found

    def refusal(self, offer: Properties) -> str | None:
        """Say what an offer cannot do, or None when it can do all of it."""
        if self.keep_results is not None:
            most_s = offer.get(RETENTION_MAX, 0)
            if not isinstance(most_s, int | float) or self.keep_results.total_seconds() > most_s:
                return f"it does not keep results for {self.keep_results}"
        wanted = (
            (CAN_END_WHEN, () if self.end_when is None else self.end_when.conditions, "end when"),
            (CAN_SINK, () if self.sink is None else self.sink.schemes, "deliver over"),
            (
                CAN_ON_ABSENCE,
                () if self.max_absence is None else (self.on_absence,),
                "on our absence",
            ),
        )
        for name, asked, words in wanted:
            if missing := sorted(set(asked) - names_of(offer.get(name))):
                return f"cannot {words}: {', '.join(missing)}"
        most = offer.get(MAX_ABSENCE)
        if self.max_absence is not None and isinstance(most, int | float):
            seconds = int(self.max_absence.total_seconds())
            return f"lets us be away for {most:g} s at most" if seconds > most else None
        return None


NOTHING_SAID: Final = Leaving()
