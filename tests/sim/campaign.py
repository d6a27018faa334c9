"""Campaigns of small nets, by hand: `make sim SEED=4711`, `make sim SEEDS=100000`.

With a seed: that one life, told as it happens (with `--datagrams`, those too). With a number of
seeds: so many lives, going on where the last campaign stopped; what fails is written to the list of
seeds that every test run repeats, and the exit status is 1.
"""

import argparse
import gc
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from shem.net.trace_text import datagram_text
from tests.sim.net_life import LONG_FROM, Life

FAILED = Path(__file__).with_name("net_failed_seeds.txt")
STOPPED_AT = Path(".cache/net-campaign")
TOLD_EVERY_S = 10.0
GARBAGE_AT = 50_000


def failed_seeds() -> list[int]:
    """Return the seeds that failed once, each with a word on what it found."""
    lines = FAILED.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def command_for(seed: int) -> str:
    return f"make sim SEED={seed}"


def live(seed: int) -> None:
    """Live one life without a word; an error names the command that repeats it."""
    life = Life(seed)
    try:
        life.live()
    except Exception as error:
        kind = f"{life.shape_name}: {type(error).__name__}: {error}"
        raise AssertionError(f"{command_for(seed)}\n{kind}") from error


@contextmanager
def silence() -> Iterator[None]:
    """Spare ten thousand lives their logs, and most of the looking for garbage."""
    before, thresholds = structlog.get_config(), gc.get_threshold()
    gc.set_threshold(GARBAGE_AT, *thresholds[1:])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        structlog.configure(**before)


def tell(seed: int, *, datagrams: bool) -> None:
    """Live one life aloud."""
    life = Life(seed)
    network = life.network

    def say(text: str) -> None:
        print(f"{network.now:9.3f} {text}")  # noqa: T201

    def stamp(_: object, __: str, event: dict[str, object]) -> str:
        words = [f"{key}={value}" for key, value in event.items() if key != "event"]
        return f"{network.now:9.3f}   {event['event']} {' '.join(words)}"

    structlog.configure(processors=[stamp])
    life.tell = say
    if datagrams:
        life.network.arriving = lambda data, source, target: say(
            f"    {source[0]} > {target[0]} {datagram_text(data)}"
        )
    life.live()
    say(f"{life.shape_name}: all was well, {life.calm_s:.1f} s after the last fault")


def campaign(first: int, count: int) -> int:
    """Live so many lives; return how many went wrong."""
    begun = told = time.monotonic()
    failed = 0
    for number in range(count):
        seed = first + number
        try:
            live(seed)
        except AssertionError as error:
            failed += 1
            print(f"\nFAILED {error}", flush=True)  # noqa: T201
            with FAILED.open("a") as file:
                file.write(f"{seed} {str(error).splitlines()[1][:80]}\n")
        if first >= LONG_FROM:
            STOPPED_AT.parent.mkdir(exist_ok=True)
            STOPPED_AT.write_text(f"{seed + 1}\n")
        if time.monotonic() - told > TOLD_EVERY_S or number + 1 == count:
            told = time.monotonic()
            pace = (number + 1) / (told - begun)
            print(f"{number + 1} of {count}, {failed} failed, {pace:.0f} a second", flush=True)  # noqa: T201
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="tell this life")
    parser.add_argument("--datagrams", action="store_true", help="with --seed: tell those as well")
    parser.add_argument("--seeds", type=int, help="how many lives")
    parser.add_argument("--first", type=int, help="instead of going on")
    options = parser.parse_args()
    if options.seed is not None:
        tell(options.seed, datagrams=options.datagrams)
        return
    stopped = int(STOPPED_AT.read_text()) if STOPPED_AT.exists() else LONG_FROM
    first = stopped if options.first is None else options.first
    with silence():
        sys.exit(1 if campaign(first, options.seeds or 1_000) else 0)


if __name__ == "__main__":
    main()
