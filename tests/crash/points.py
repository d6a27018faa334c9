"""Crash points of a flow: a process is killed at its nth durable system call of a kind.

`SHEM_CRASH_POINTS` says which are run: unset, a sample that the seed chooses (`SHEM_CRASH_SEED`,
today's date when unset); `all`; or those that fit patterns, separated by commas:

    SHEM_CRASH_POINTS='provider/*/pwrite64@7' pytest -s tests/crash/test_crash_points_market.py
"""

import asyncio
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

WISH = os.environ.get("SHEM_CRASH_POINTS", "")
SEED = os.environ.get("SHEM_CRASH_SEED") or time.strftime("%Y-%m-%d")
POINT_WITHIN_S = 90.0
BEYOND = 2
"""Runs differ a little in their calls: so many more than were counted are tried."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """Who dies, in the course of what, and at which call."""

    victim: str
    flow: str
    call: str
    nth: int

    def __str__(self) -> str:
        return f"{self.victim}/{self.flow}/{self.call}@{self.nth}"


Counts = Mapping[tuple[str, str], Counter[str]]
"""For each victim and flow the calls that were counted."""


def every(counts: Counts) -> list[Point]:
    """Return all points of the flows, those a little beyond what was counted included."""
    return [
        Point(victim, flow, call, nth)
        for (victim, flow), calls in counts.items()
        for call, most in sorted(calls.items())
        for nth in range(1, most + BEYOND + 1)
    ]


def chosen(counts: Counts, sample: int) -> list[Point]:
    """Return what is to be run now."""
    points = every(counts)
    if WISH == "all":
        return points
    if WISH:
        return [p for p in points if any(fnmatchcase(str(p), w) for w in WISH.split(","))]
    return drawn([p for p in points if p.nth <= counts[p.victim, p.flow][p.call]], sample)


def drawn(points: Iterable[Point], sample: int) -> list[Point]:
    """Draw a sample in which victims, flows and calls take turns."""
    rng = random.Random(SEED)
    kinds: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        kinds.setdefault((point.victim, point.flow, point.call), []).append(point)
    for kind in kinds.values():
        rng.shuffle(kind)
    found: list[Point] = []
    while len(found) < sample and kinds:
        for name in rng.sample(sorted(kinds), len(kinds)):
            found.append(kinds[name].pop())
            if not kinds[name]:
                del kinds[name]
    return sorted(found[:sample])


@dataclass(slots=True)
class Report:
    """What became of the points that were run."""

    died: Counter[str] = field(default_factory=Counter)
    """Deaths by victim, flow and step."""
    seconds: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        fates = ", ".join(f"{what}: {count}" for what, count in sorted(self.died.items()))
        return (
            f"{len(self.seconds)} crash points (SHEM_CRASH_SEED={SEED}) in"
            f" {sum(self.seconds):.0f} s; {self.died.total()} deaths: {fates}"
        )

    def require_unbroken(self) -> None:
        """Fail when anything was lost, or when hardly anybody died."""
        assert self.broken == []
        assert self.died.total() >= len(self.seconds) // 2


Run = Callable[[Point], Awaitable[tuple[str | None, list[str]]]]
"""Runs a point; returns in which step somebody died, and what was wrong."""


async def run(chosen: Iterable[Point], one: Run, mend: Callable[[], Awaitable[None]]) -> Report:
    """Run points one after the other; one that goes wrong does not keep the others from it."""
    report = Report()
    test = os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]
    print()  # noqa: T201 - what is printed is shown when a test fails, and with `pytest -s`
    for point in chosen:
        began = time.monotonic()
        step: str | None = None
        try:
            async with asyncio.timeout(POINT_WITHIN_S):
                step, wrong = await one(point)
        except Exception as error:
            wrong = ["".join(traceback.format_exception(error))]
            await mend()
        report.seconds.append(time.monotonic() - began)
        if step is not None:
            report.died[f"{point.victim}/{point.flow}, {step}"] += 1
        again = f"SHEM_CRASH_POINTS='{point}' pytest -s {test}"
        report.broken += [f"{again}: {what}" for what in wrong]
        fate = f"died in {step}" if step else "not reached"
        print(f"{point} {fate}, {report.seconds[-1]:.2f} s", *wrong, flush=True)  # noqa: T201
    return report
