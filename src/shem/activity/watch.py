"""When an ExeUnit that says nothing is called unresponsive, and when dead.

Rules (docs/protocol/activity-exeunit.md §5.3): silent for more than 5 s is Unresponsive, for more
than 10 s it is destroyed; only usage reports count. After a start of the node all ExeUnits have a
grace of 60 s to find it again. While this node stood still itself (a suspended machine, a stopped
process) nobody was silent. Pure.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

UNRESPONSIVE_S: Final = 5.0
DEAD_S: Final = 10.0
SILENT: Final = f"its ExeUnit was silent for more than {DEAD_S:g} s"
"""Why an activity ended that was found dead."""
GRACE_S: Final = 60.0
"""After the node's start; also how long an activity may be New without anyone waiting for it."""


LOOK_PERIOD_S: Final = 1.0
STOOD_STILL_S: Final = 3.0
"""A look that comes so long after the last one came late: it was the node that stood still."""


class Verdict(Enum):
    """What the monitor does about an activity."""

    FINE = auto()
    UNRESPONSIVE = auto()
    DEAD = auto()


@dataclass(slots=True)
class Watch:
    """Who was heard when (monotonic seconds), for the activities of this node as provider."""

    started: float
    heard: dict[str, float] = field(default_factory=dict)
    condemned: set[str] = field(default_factory=set)
    looked: float | None = None

    @property
    def grace_ends(self) -> float:
        return self.started + GRACE_S

    def in_grace(self, now: float) -> bool:
        return now < self.grace_ends

    def adopt(self, activity_id: str) -> None:
        """Take over a living activity of an earlier run: it may take its time."""
        self.heard[activity_id] = self.grace_ends - UNRESPONSIVE_S

    def hear(self, activity_id: str, now: float) -> None:
        """Note a sign of life."""
        self.heard[activity_id] = now
        self.condemned.discard(activity_id)

    def look(self, now: float) -> None:
        """Note that all are judged now; what the node itself missed is nobody's silence."""
        late_s = 0.0 if self.looked is None else now - self.looked - LOOK_PERIOD_S
        if late_s > STOOD_STILL_S - LOOK_PERIOD_S:
            for activity_id, heard in self.heard.items():
                self.heard[activity_id] = min(heard + late_s, max(now, heard))
        self.looked = now

    def verdict(self, activity_id: str, now: float) -> Verdict:
        """Judge an activity that has started; the first look counts as hearing from it."""
        silent_s = now - self.heard.setdefault(activity_id, now)
        if silent_s > DEAD_S:
            return Verdict.DEAD
        return Verdict.UNRESPONSIVE if silent_s > UNRESPONSIVE_S else Verdict.FINE

    def is_dead(self, activity_id: str, now: float) -> bool:
        """Whether its end was asked for because it was silent, and it still is."""
        if activity_id not in self.condemned or activity_id not in self.heard:
            return False
        return now - self.heard[activity_id] > DEAD_S

    def condemn(self, activity_id: str) -> bool:
        """Note that the activity's destruction was asked for; False when it was already."""
        if activity_id in self.condemned:
            return False
        self.condemned.add(activity_id)
        return True

    def forget_all_but(self, alive: set[str]) -> None:
        for activity_id in self.heard.keys() - alive:
            del self.heard[activity_id]
        self.condemned &= alive
