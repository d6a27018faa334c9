"""Regular expressions of strangers: those that can be searched in linear time. Pure.

Manifests and whitelists hold expressions in the syntax of the network's other implementation, which
has no look-around and no back-references. Python's own engine can be made to work for ever by a
short one, so these are run as a set of states that moves over the text once, within a budget of
steps. What is not known here is a UsageError: nobody guesses what a limit means.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shem.kernel.errors import UsageError

PATTERN_CHARS_MAX: Final = 4_096
PROGRAM_MAX: Final = 5_000
"""Instructions of one expression; repetitions are written out."""
EMITTED_PER_STEP: Final = 4
"""Parts that may be looked at for each instruction."""
REPEAT_MAX: Final = 1_000
DEPTH_MAX: Final = 32
STEPS_MAX: Final = 1_000_000
"""Moves of states while one text is compared with all expressions: a second, about."""

Accepts = Callable[[str], bool]
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_CLASSES: Final[dict[str, Accepts]] = {
    "d": str.isdecimal,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
}
_ASSERTIONS: Final = {"A": "begin", "z": "end", "b": "boundary", "B": "inside"}
_QUANTIFIERS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(slots=True)
class Budget:
    """What may still be spent on searching."""

    steps: int = STEPS_MAX

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise UsageError("regular expressions that take too long to search")


@dataclass(frozen=True, slots=True)
class _One:
    accepts: Accepts


@dataclass(frozen=True, slots=True)
class _All:
    parts: "Sequence[_Node]"


@dataclass(frozen=True, slots=True)
class _Any:
    parts: "Sequence[_Node]"


@dataclass(frozen=True, slots=True)
class _Repeat:
    inner: "_Node"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class _Assert:
    kind: str


_Node = _One | _All | _Any | _Repeat | _Assert


@dataclass(frozen=True, slots=True)
class _Split:
    targets: tuple[int, ...]


_MATCH: Final = _Split(())
"""Where no state follows, something was found."""
_Step = _One | _Assert | _Split


class Pattern:
    """One expression."""

    def __init__(self, text: str, *, ignore_case: bool = False, verbose: bool = False) -> None:
        if len(text) > PATTERN_CHARS_MAX:
            raise UsageError(f"a regular expression has at most {PATTERN_CHARS_MAX} characters")
        self._emitted = 0
        self._program: list[_Step] = []
        self._emit(_Parser(text, ignore_case=ignore_case, verbose=verbose).parse())
        self._program.append(_MATCH)
        self._is_anchored = self._program[0] == _Assert("begin")

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
                if isinstance(step := self._program[state], _One) and step.accepts(char)
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
                case _Assert(kind) if _holds(kind, text, at):
                    pending.append(state + 1)
        return reached

    def _emit(self, node: _Node) -> None:
        program = self._program
        self._emitted += 1  # what is empty costs time, too
        if max(len(program), self._emitted // EMITTED_PER_STEP) >= PROGRAM_MAX:
            raise UsageError("a regular expression that is too large")
        match node:
            case _One() | _Assert():
                program.append(node)
            case _All(parts):
                for part in parts:
                    self._emit(part)
            case _Any(parts):
                self._emit_any(parts)
            case _Repeat(inner, least, most):
                for _ in range(least):
                    self._emit(inner)
                if most is None:
                    self._emit_loop(inner)
                else:
                    self._emit_optional(inner, most - least)

    def _emit_any(self, parts: "Sequence[_Node]") -> None:
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

    def _emit_loop(self, inner: _Node) -> None:
        program = self._program
        fork = len(program)
        program.append(_MATCH)
        self._emit(inner)
        program.append(_Split((fork,)))
        program[fork] = _Split((fork + 1, len(program)))

    def _emit_optional(self, inner: _Node, count: int) -> None:
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
    is_word = _CLASSES["w"]
    before = at > 0 and is_word(text[at - 1])
    after = at < len(text) and is_word(text[at])
    return (before != after) == (kind == "boundary")


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, text: str, *, ignore_case: bool, verbose: bool) -> None:
        self._text = text
        self._at = 0
        self._ignore_case = ignore_case
        self._verbose = verbose
        self._depth = 0

    def parse(self) -> _Node:
        if self._text.startswith("(?i)"):
            self._at, self._ignore_case = 4, True
        node = self._alternatives()
        if self._at < len(self._text):
            raise self._error("a ) that closes nothing")
        return node

    def _error(self, what: str) -> UsageError:
        return UsageError(f"the regular expression {self._text[:200]!r} has {what}")

    def _peek(self) -> str:
        while self._verbose and self._at < len(self._text):
            char = self._text[self._at]
            if char == "#":
                self._at = (self._text + "\n").index("\n", self._at)
            elif not char.isspace():
                break
            else:
                self._at += 1
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise self._error("no end")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self) -> _Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error(f"groups more than {DEPTH_MAX} deep")
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        self._depth -= 1
        return _Any(parts) if len(parts) > 1 else parts[0]

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while (char := self._peek()) not in ("", "|", ")"):
            self._at += 1
            node = self._atom(char)
            while (repeat := self._quantifier()) is not None:
                node = _Repeat(node, *repeat)
            parts.append(node)
        return _All(parts)

    def _atom(self, char: str) -> _Node:
        match char:
            case "(":
                return self._group()
            case "[":
                return self._set()
            case ".":
                return _One(lambda found: found != "\n")
            case "^":
                return _Assert("begin")
            case "$":
                return _Assert("end")
            case "\\":
                return self._escape()
            case "*" | "+" | "?" | "{":
                raise self._error(f"a {char} that repeats nothing")
        return _One(self._literal(char))

    def _group(self) -> _Node:
        if self._peek() == "?":
            rest = self._text[self._at :]
            if rest.startswith("?:"):
                self._at += 2
            elif rest.startswith(("?P<", "?<")) and not rest.startswith(("?<=", "?<!")):
                self._at += rest.find(">") + 1 or len(rest)
            else:
                raise self._error(f"a group that is not supported: ({rest[:4]}")
        node = self._alternatives()
        if self._peek() != ")":
            raise self._error("a ( that is not closed")
        self._at += 1
        return node

    def _quantifier(self) -> tuple[int, int | None] | None:
        char = self._peek()
        if char in ("*", "+", "?"):
            self._at += 1
            found: tuple[int, int | None] = _QUANTIFIERS[char]
        elif char == "{":
            found = self._counts()
        else:
            return None
        if self._peek() == "?":
            self._at += 1  # lazy: the same texts match
        return found

    def _counts(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        numbers = [least, *([most] if most else [])]
        if end < 0 or not all(word.isascii() and word.isdecimal() for word in numbers):
            raise self._error("a { that is no repetition")
        self._at = end + 1
        low = int(least[:9])
        high = (None if comma else low) if not most else int(most[:9])
        if low > REPEAT_MAX or (high is not None and not low <= high <= REPEAT_MAX):
            raise self._error(f"a repetition that is not between 0 and {REPEAT_MAX}")
        return low, high

    def _escape(self) -> _Node:
        char = self._take()
        if char in _ASSERTIONS:
            return _Assert(_ASSERTIONS[char])
        return _One(self._escaped(char))

    def _escaped(self, char: str) -> Accepts:
        if char.lower() in _CLASSES:
            accepts = _CLASSES[char.lower()]
            return accepts if char.islower() else _not(accepts)
        return self._literal(self._escaped_char(char))

    def _escaped_char(self, char: str) -> str:
        if char == "x":
            digits = self._text[self._at : self._at + 2]
            self._at += 2
            if len(digits) < 2 or not set(digits) <= set(string.hexdigits):
                raise self._error("a \\x without two digits")
            return chr(int(digits, 16))
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char.isalnum():
            raise self._error(f"an escape that is not supported: \\{char}")
        return char

    def _set(self) -> _Node:
        negated = self._text[self._at : self._at + 1] == "^"
        self._at += negated
        parts: list[Accepts] = []
        while (char := self._take()) != "]" or not parts:
            if char == "[" or self._text[self._at - 1 : self._at + 1] in ("&&", "~~", "--"):
                raise self._error("a set within a set, which is not supported")
            if char == "\\":
                char = self._take()
                if char.lower() in _CLASSES:
                    parts.append(self._escaped(char))
                    continue
                char = self._escaped_char(char)
            parts.append(self._range(char))
        accepts: Accepts = lambda found: any(part(found) for part in parts)  # noqa: E731
        return _One(_not(accepts) if negated else accepts)

    def _range(self, first: str) -> Accepts:
        following = self._text[self._at : self._at + 2]
        if not following.startswith("-") or following in ("-", "-]"):
            return self._literal(first)
        self._at += 1
        last = self._take()
        if last == "\\":
            last = self._escaped_char(self._take())
        if last < first:
            raise self._error("a range that ends before it begins")
        return self._cased(lambda found: first <= found <= last)

    def _literal(self, char: str) -> Accepts:
        return self._cased(lambda found: found == char)

    def _cased(self, accepts: Accepts) -> Accepts:
        if not self._ignore_case:
            return accepts
        return lambda found: accepts(found.lower()) or accepts(found.upper()) or accepts(found)


def _not(accepts: Accepts) -> Accepts:
    return lambda found: not accepts(found)
