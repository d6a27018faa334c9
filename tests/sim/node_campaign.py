"""Campaigns of whole nodes: `make sim PROFILE=node SEED=17`, `make sim PROFILE=node SEEDS=20000`.

With a seed: that one life, with what happened in it. With a number of seeds: so many lives, going
on where the last campaign stopped; what fails is written to the list of seeds that every test run
repeats, and the exit status is 1. String hashes are fixed, so that a seed is the same everywhere.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.sim.node_verdict import Outcome, outcome_of

FAILED = Path(__file__).with_name("node_failed_seeds.txt")
STOPPED_AT = Path(".cache/node-campaign")
CAMPAIGNS_FROM = 1_000
"""Seeds below it are those of every test run."""
SEED_MAX_S = 300
"""A life that takes longer than this, even here, has lost its way."""
TOLD_EVERY = 100
HASH_SEED = "0"


def failed_seeds() -> list[int]:
    """Return the seeds that failed once, each with a word on what it found."""
    lines = FAILED.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def live(seed: int) -> Outcome:
    """Live one life; whatever escapes from it is something broken too."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SEED_MAX_S)
    try:
        return outcome_of(seed)
    except (Exception, TooLong) as error:
        return Outcome(seed, [f"escaped: {error!r}"], [])
    finally:
        signal.alarm(0)


class TooLong(KeyboardInterrupt):
    """Ends a life: whatever else is raised, a task would take for its own failure and end alone."""


def _too_long(_number: int, _frame: object) -> None:
    raise TooLong(f"not over after {SEED_MAX_S} s")


def report(outcome: Outcome) -> str:
    """Return what happened, what is wrong, and the command that repeats it."""
    again = f"make sim PROFILE=node SEED={outcome.seed}"
    return "\n".join((*outcome.timeline, "", *outcome.broken, again))


def campaign(first: int, count: int, *, keeps: bool) -> int:
    """Live so many lives; return how many went wrong."""
    failed, figures, begun_s = 0, Counter[str](), time.monotonic()
    for number in range(1, count + 1):
        outcome = live(first + number - 1)
        figures.update(outcome.figures)
        if outcome.broken:
            failed += 1
            print(f"{report(outcome)}\nFAILED", flush=True)  # noqa: T201
        if keeps:
            _keep(outcome)
        if number % TOLD_EVERY == 0 or number == count:
            pace = number / (time.monotonic() - begun_s)
            facts = ", ".join(f"{count} {what}" for what, count in sorted(figures.items()))
            print(f"{number} of {count}, {failed} failed, {pace:.2f} a second: {facts}", flush=True)  # noqa: T201
    return failed


def _keep(outcome: Outcome) -> None:
    STOPPED_AT.parent.mkdir(exist_ok=True)
    STOPPED_AT.write_text(f"{outcome.seed + 1}\n")
    if outcome.broken:
        with FAILED.open("a") as file:
            file.write(f"{outcome.seed} {outcome.broken[0][:80]}\n")


def main(arguments: list[str]) -> int:
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        env = {**os.environ, "PYTHONHASHSEED": HASH_SEED}
        command = [sys.executable, "-m", "tests.sim.node_campaign", *arguments]
        os.execve(sys.executable, command, env)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="tell this life")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many lives")
    parser.add_argument("--first", type=int, help="instead of going on")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        outcome = live(options.seed)
        print(report(outcome))  # noqa: T201
        return 1 if outcome.broken else 0
    stopped = int(STOPPED_AT.read_text()) if STOPPED_AT.exists() else CAMPAIGNS_FROM
    first = stopped if options.first is None else options.first
    keeps = options.first is None
    return 1 if campaign(first, options.seeds, keeps=keeps) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
