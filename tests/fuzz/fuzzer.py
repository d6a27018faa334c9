"""A fuzzer in a page: inputs are altered, and kept when what a target makes of them is new.

Targets in Python say much by what they return and by which error they raise, so that no coverage
need be measured. The corpus of a target is a text file with an input in hex on each line.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from shem.kernel.errors import PeerError
from shem.kernel.world import SeededRng
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).with_name("corpus")
INPUT_MAX = 2_000
KEPT_MAX = 150
"""Inputs kept per target."""
PATIENCE_S = 2.0
"""For one input; the slowest honest one takes some milliseconds."""
TELLING = (0, 1, 0x7F, 0x80, 0xFF)


class Crash(AssertionError):
    """A target did what it must not."""


def corpus(name: str) -> list[bytes]:
    path = CORPUS / f"{name}.txt"
    return [bytes.fromhex(line) for line in path.read_text().split("\n") if line]


def add_to_corpus(name: str, inputs: list[bytes]) -> None:
    with (CORPUS / f"{name}.txt").open("a") as file:
        file.writelines(f"{data.hex()}\n" for data in inputs)


def outcome(name: str, target: Target, data: bytes) -> str:
    """Return what the target makes of an input; Crash when that is none of its answers."""
    begun = time.process_time()
    try:
        result = f"= {target(data)!r}"
    except PeerError as error:
        result = f"! {type(error).__name__} {error.message}"
    except Exception as error:
        repeat = f"python -m tests.fuzz --target {name} --input {data.hex()}"
        raise Crash(f"{type(error).__name__}: {error}\n{repeat}") from error
    seconds = time.process_time() - begun
    if seconds > PATIENCE_S:
        raise Crash(f"{seconds:.1f} s for {name} {data.hex()}")
    return re.sub(r"[0-9a-f]{6,}|[0-9]+|b'.*'", "N", result)[:200]


def alter(rng: SeededRng, inputs: list[bytes]) -> bytes:
    """Return one of the inputs, spoilt in some places."""
    data = bytearray(inputs[rng.below(len(inputs))])
    for _ in range(1 + rng.below(4)):
        at = rng.below(len(data) + 1)
        match rng.below(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.below(8)
            case 1 if data:
                data[at % len(data)] = TELLING[rng.below(len(TELLING))]
            case 2 if data:
                data[at % len(data)] = rng.below(256)
            case 3:
                del data[at : at + 1 + rng.below(8)]
            case 4:
                data[at:at] = rng.token(1 + rng.below(8))
            case 5:
                data[at:at] = data[at : at + 1 + rng.below(30)]
            case 6:
                del data[at:]
            case _:
                other = inputs[rng.below(len(inputs))]
                data[at:] = other[rng.below(len(other) + 1) :]
    return bytes(data[:INPUT_MAX])


def fuzz(name: str, seed: int, *, runs: int | None = None, seconds: float = 0.0) -> Iterator[bytes]:
    """Try altered inputs for so many runs, or so long; yield those with a new outcome."""
    target, rng = TARGETS[name], SeededRng(seed)
    inputs = corpus(name)
    known = {outcome(name, target, data) for data in inputs}
    end, done = time.monotonic() + seconds, 0
    while done < runs if runs is not None else time.monotonic() < end:
        done += 1
        data = alter(rng, inputs) if rng.below(50) else rng.token(rng.below(80))
        what = outcome(name, target, data)
        if what not in known and len(inputs) < KEPT_MAX:
            known.add(what)
            inputs.append(data)
            yield data
