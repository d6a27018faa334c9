"""Wildcards of string constraints: a small regular expression matcher that cannot blow up.

docs/protocol/market.md §7.4. Pure. A value with `*` means `^value$` with every `*` turned into
`.*`, and the other characters keep their regular-expression meaning. Constraints come from
strangers, so Python's backtracking `re` sees single characters only; the rest is done by keeping
the set of possible positions, in time proportional to text times pattern. A value cannot hold
`)`, hence no groups: an opening bracket makes the pattern invalid, and invalid means no match.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

PATTERN_MAX: Final = 4096
"""Characters of one pattern."""
REPEAT_MAX: Final = 100
"""Copies that `{n,m}` may ask for."""
PATTERNS_KEPT: Final = 1024
_ATOM: Final = re.compile(
    r"(\\[dDwWsS]|\\[^A-Za-z0-9]|\[\^?\]?[^\]\[\\]*\]|[^\\\[\](){}*+?|^$])([*+?]|\{\d+(?:,\d*)?\})?\??",
    re.DOTALL,
)
_COUNTS: Final = re.compile(r"\{(\d+)(,(\d*))?\}")


@dataclass(frozen=True, slots=True)
class _Step:
    """One character of the pattern: may it be left out, may it repeat."""

    char: re.Pattern[str]
    optional: bool
    repeats: bool


@dataclass(frozen=True, slots=True)
class _Branch:
    steps: tuple[_Step, ...]
    from_start: bool
    to_end: bool


def matches(value: str, text: str) -> bool:
    """Say whether `text` fits the wildcard `value`; an invalid one fits nothing."""
    branches = _compiled(value)
    return branches is not None and any(_fits(branch, text) for branch in branches)


@lru_cache(maxsize=PATTERNS_KEPT)
def _compiled(value: str) -> tuple[_Branch, ...] | None:
    pattern = value.replace("*", ".*")
    if len(pattern) > PATTERN_MAX:
        return None
    parts = pattern.split("|")
    branches: list[_Branch] = []
    for index, part in enumerate(parts):
        steps = _steps(part)
        if steps is None:
            return None
        branches.append(_Branch(steps, index == 0, index == len(parts) - 1))
    return tuple(branches)


def _steps(pattern: str) -> tuple[_Step, ...] | None:
    steps: list[_Step] = []
    at = 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        if atom is None:
            return None
        try:
            char = re.compile(atom.group(1))
        except re.error:
            return None
        repeated = list(_repeat(char, atom.group(2) or ""))
        if len(repeated) > REPEAT_MAX or len(steps) > PATTERN_MAX:
            return None
        steps += repeated
        at = atom.end()
    return tuple(steps)


def _repeat(char: re.Pattern[str], quantifier: str) -> Iterator[_Step]:
    if not quantifier.startswith("{"):
        yield _Step(char, quantifier in ("*", "?"), quantifier in ("*", "+"))
        return
    counts = _COUNTS.fullmatch(quantifier)
    assert counts is not None
    least = min(int(counts[1]), REPEAT_MAX + 1)
    for _ in range(least):
        yield _Step(char, False, False)
    if counts[2] and not counts[3]:
        yield _Step(char, True, True)
    elif counts[2]:
        for _ in range(min(int(counts[3]), REPEAT_MAX + 1) - least):
            yield _Step(char, True, False)


def _fits(branch: _Branch, text: str) -> bool:
    steps = branch.steps
    at = _closure(steps, {0})
    for character in text:
        if len(steps) in at and not branch.to_end:
            return True
        following: set[int] = set()
        for position in at:
            if position < len(steps) and steps[position].char.fullmatch(character):
                following.add(position + 1)
                if steps[position].repeats:
                    following.add(position)
        if not branch.from_start:
            following.add(0)
        at = _closure(steps, following)
        if not at:
            return False
    return len(steps) in at


def _closure(steps: tuple[_Step, ...], at: set[int]) -> set[int]:
    """Add what can be reached without a character.

    A repeating step that has matched stands at its own index and may also be left, which the
    caller has added; so only optional steps are skipped here.
    """
    reached = set(at)
    todo = list(at)
    while todo:
        position = todo.pop()
        if position < len(steps) and steps[position].optional and position + 1 not in reached:
            reached.add(position + 1)
            todo.append(position + 1)
    return reached
