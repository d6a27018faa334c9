"""Results of commands: as the journal keeps them and as the wire carries them.

Pure (docs/protocol/activity-exeunit.md §8.1 and §8.2). One deviation, on purpose: a batch that
failed is answered at once, where the original lets the poll run into its timeout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shem.exeunit.capture import Output
from shem.exeunit.journal import Record
from shem.kernel import times


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, before it has a place in a batch."""

    ok: bool
    message: str | None = None
    return_code: int = 0
    """0 when it worked, the program's exit code, or -1 for any other failure."""
    stdout: Output = None
    stderr: Output = None


@dataclass(frozen=True, slots=True)
class Result:
    """The durable result of one command."""

    index: int
    outcome: Outcome
    at_ns: int

    @property
    def output_size(self) -> int:
        return len(self.outcome.stdout or "") + len(self.outcome.stderr or "")


def failure(message: str) -> Outcome:
    """Return the outcome of a command that failed without an exit code."""
    return Outcome(ok=False, message=message, return_code=-1)


def result_fields(result: Result) -> Record:
    """Return the journal's fields of a result."""
    outcome = result.outcome
    return {
        "index": result.index,
        "ok": outcome.ok,
        "message": outcome.message,
        "code": outcome.return_code,
        "stdout": _output_to_json(outcome.stdout),
        "stderr": _output_to_json(outcome.stderr),
        "at": result.at_ns,
    }


def result_of_fields(record: Record) -> Result:
    """Read a result back from the journal."""
    message = record["message"]
    outcome = Outcome(
        ok=bool(record["ok"]),
        message=None if message is None else str(message),
        return_code=as_int(record["code"]),
        stdout=_output_of_json(record["stdout"]),
        stderr=_output_of_json(record["stderr"]),
    )
    return Result(as_int(record["index"]), outcome, as_int(record["at"]))


def select(results: Sequence[Result], last: int, only: int | None) -> list[dict[str, object]]:
    """Return the wire form of the results that a query sees.

    `last` is the index of the script's last command; with `only` the query stops at that index, and
    no other entry carries output.
    """
    shown = results if only is None else [result for result in results if result.index <= only]
    return [
        _to_wire(result, last, with_output=only is None or result.index == only) for result in shown
    ]


def output_to_wire(output: Output) -> object:
    """Raw bytes travel as a vector of numbers, text as text."""
    return list(output) if isinstance(output, bytes) else output


def as_int(value: object) -> int:
    """Return a journal's number; a checksum stands for the JSON, so anything else is our fault."""
    assert isinstance(value, int), value
    return value


def _to_wire(result: Result, last: int, *, with_output: bool) -> dict[str, object]:
    outcome = result.outcome
    return {
        "index": result.index,
        "eventDate": times.to_rfc3339(result.at_ns),
        "result": "Ok" if outcome.ok else "Error",
        "stdout": output_to_wire(outcome.stdout) if with_output else None,
        "stderr": output_to_wire(outcome.stderr) if with_output else None,
        "message": outcome.message,
        "isBatchFinished": result.index == last or not outcome.ok,
    }


def _output_to_json(output: Output) -> object:
    return {"hex": output.hex()} if isinstance(output, bytes) else output


def _output_of_json(value: object) -> Output:
    if isinstance(value, dict):
        return bytes.fromhex(str(value["hex"]))
    assert value is None or isinstance(value, str), value
    return value
