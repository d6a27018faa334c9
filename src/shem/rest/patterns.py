"""Regular expressions of strangers: those that can be searched in linear time. Pure.

Manifests and whitelists hold expressions in the syntax of the network's other implementation, which
has no look-around and no back-references. Python's own engine can be made to work for ever by a
short one, so these are run as a set of states that moves over the text once, within a budget of
steps. What is not known here is a UsageError: nobody guesses what a limit means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shem.kernel.errors import UsageError
from shem.rest.pattern_syntax import (
    CLASSES,
    All,
    AnyOf,
    Assert,
    Node,
    One,
    Repeat,
    parse_pattern,
)

PATTERN_CHARS_MAX: Final = 4_096
PROGRAM_MAX: Final = 5_000
"""Instructions of one expression; repetitions are written out."""
EMITTED_PER_STEP: Final = 4
"""Parts that may be looked at for each instruction."""
STEPS_MAX: Final = 1_000_000
"""Moves of states while one text is compared with all expressions: a second, about."""


@dataclass(slots=True)
class Budget:
    """What may still be spent on searching."""

    steps: int = STEPS_MAX

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise UsageError("regular expressions that take too long to search")


@dataclass(frozen=True, slots=True)
class _Split:
    targets: tuple[int, ...]


_MATCH: Final = _Split(())
"""Where no state follows, something was found."""
_Step = One | Assert | _Split


class Pattern:
    """One expression."""

    def __init__(self, text: str, *, ignore_case: bool = False, verbose: bool = False) -> None:
        if len(text) > PATTERN_CHARS_MAX:
            raise UsageError(f"a regular expression has at most {PATTERN_CHARS_MAX} characters")
        self._emitted = 0
        self._program: list[_Step] = []
        self._emit(parse_pattern(text, ignore_case=ignore_case, verbose=verbose))
        self._program.append(_MATCH)
        self._is_anchored = self._program[0] == Assert("begin")

    @property
    def size(self) -> int:
        return len(self._program)

    def is_in(self, text: str, budget: Budget | None = None) -> bool:
        """Say whether any part of a text matches; UsageError when the budget does not reach."""
        budget = budget or Budget()
        states: set[int] = {0}
        for at in range(len(text) + 1):
            reached = self._closure(states, text, at)
            budget.spend(len(reached) + 1)
            if len(self._program) - 1 in reached:
                return True
            if at == len(text):
                break
            char = text[at]
            states = {
                state + 1
                for state in reached
                if isinstance(step := self._program[state], One) and step.accepts(char)
            }
            if not self._is_anchored:
                states.add(0)
            elif not states:
                break
        return False

    def _closure(self, states: set[int], text: str, at: int) -> set[int]:
        """Return the states that are reached without taking a character."""
        reached: set[int] = set()
        pending = list(states)
        while pending:
            state = pending.pop()
            if state in reached:
                continue
            reached.add(state)
            match self._program[state]:
                case _Split(targets):
                    pending += targets
                case Assert(kind) if _holds(kind, text, at):
                    pending.append(state + 1)
        return reached

    def _emit(self, node: Node) -> None:
        program = self._program
        self._emitted += 1  # what is empty costs time, too
        if max(len(program), self._emitted // EMITTED_PER_STEP) >= PROGRAM_MAX:
            raise UsageError("a regular expression that is too large")
        match node:
            case One() | Assert():
                program.append(node)
            case All(parts):
                for part in parts:
                    self._emit(part)
            case AnyOf(parts):
                self._emit_any(parts)
            case Repeat(inner, least, most):
                for _ in range(least):
                    self._emit(inner)
                if most is None:
                    self._emit_loop(inner)
                else:
                    self._emit_optional(inner, most - least)

    def _emit_any(self, parts: Sequence[Node]) -> None:
        program = self._program
        fork = len(program)
        program.append(_MATCH)
        begins, ends = [], []
        for part in parts:
            begins.append(len(program))
            self._emit(part)
            ends.append(len(program))
            program.append(_MATCH)
        program[fork] = _Split(tuple(begins))
        for end in ends:
            program[end] = _Split((len(program),))

    def _emit_loop(self, inner: Node) -> None:
        program = self._program
        fork = len(program)
        program.append(_MATCH)
        self._emit(inner)
        program.append(_Split((fork,)))
        program[fork] = _Split((fork + 1, len(program)))

    def _emit_optional(self, inner: Node, count: int) -> None:
        program = self._program
        forks = []
        for _ in range(count):
            forks.append(len(program))
            program.append(_MATCH)
            self._emit(inner)
        for fork in forks:
            program[fork] = _Split((fork + 1, len(program)))


def _holds(kind: str, text: str, at: int) -> bool:
    if kind == "begin":
        return at == 0
    if kind == "end":
        return at == len(text)
    is_word = CLASSES["w"]
    before = at > 0 and is_word(text[at - 1])
    after = at < len(text) and is_word(text[at])
    return (before != after) == (kind == "boundary")
