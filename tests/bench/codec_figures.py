"""FlexBuffers: what a typical message of 700 bytes costs (goals: 30 µs to write, 20 µs to read)."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shem.wire.flexbuffers import dumps, inflate, loads
from tests.bench.pair import Figures

VECTORS = Path("tests/vectors/flexbuffers.json")
TYPICAL = ("InitialProposalReceived", "SendDebitNote", "SendInvoice")
ROUNDS = 40
CALLS = 200


def measure_codec() -> Figures:
    figures: Figures = {}
    for entry in json.loads(VECTORS.read_text())["entries"]:
        if not any(name in entry["name"] for name in TYPICAL):
            continue
        document = inflate(bytes.fromhex(entry["hex"]))
        value = loads(document)
        figures.setdefault("FlexBuffers, write [µs]", []).extend(_time(dumps, value))
        figures.setdefault("FlexBuffers, read [µs]", []).extend(_time(loads, document))
    return figures


def _time(fn: Callable[[Any], object], argument: object) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(CALLS):
            fn(argument)
        times.append((time.process_time() - begun) / CALLS * 1e6)
    return times
