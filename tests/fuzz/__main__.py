"""Fuzz by hand: `make fuzz MINUTES=60`; inputs with new outcomes go to the corpus.

`python -m tests.fuzz [--minutes N] [--target NAME] [--input HEX]`: with an input that alone.
"""

import argparse
import sys
import time

from tests.fuzz.fuzzer import Crash, add_to_corpus, fuzz, outcome
from tests.fuzz.targets import TARGETS

ROUND_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--input", type=bytes.fromhex)
    options = parser.parse_args()
    names = [options.target] if options.target else list(TARGETS)
    if options.input is not None:
        for name in names:
            print(name, outcome(name, TARGETS[name], options.input))  # noqa: T201
        return
    end = time.monotonic() + 60 * options.minutes
    seconds = min(ROUND_S, 60 * options.minutes / len(names))
    failed = 0
    while time.monotonic() < end:
        for name in names:
            kept: list[bytes] = []
            try:
                for data in fuzz(name, time.time_ns(), seconds=seconds):
                    kept.append(data)  # noqa: PERF402
            except Crash as crash:
                failed += 1
                print(f"CRASH {name}: {crash}", flush=True)  # noqa: T201
            add_to_corpus(name, kept)
            print(f"{name}: {len(kept)} new", flush=True)  # noqa: T201
    sys.exit(1 if failed else 0)


main()
