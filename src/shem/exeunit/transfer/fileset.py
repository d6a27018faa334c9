"""Which files a directory's archive takes: globs with a literal separator (§10.1). Pure.

`*` and `?` stop at `/`, `**` as a whole part takes any number of directories, `[a-z]` and `[!a]`
are one character, `{a,b}` is either. Patterns come from outside: matching takes time in proportion
to the product of both lengths, whatever they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shem.exeunit.commands import FileSet
from shem.exeunit.runtimes.base import RuntimeFault

ALTERNATIVES_MAX: Final = 256
PATTERN_CHARS_MAX: Final = 1_024


class _Any(Enum):
    """Tokens that are not one set of characters."""

    CHARACTER = "?"
    IN_PART = "*"
    PARTS = "**/"
    """Any number of whole directories, each with its slash; none is fine."""
    REST = "**"
    """Anything at all: a last `**`."""


@dataclass(frozen=True, slots=True)
class _Class:
    """One character of a set."""

    characters: frozenset[str]
    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def takes(self, character: str) -> bool:
        if character == "/":
            return False
        found = character in self.characters or any(
            first <= character <= last for first, last in self.ranges
        )
        return found is not self.negated


_Token = _Any | _Class | str


class Selection:
    """The filesets of one transfer, ready to be asked."""

    def __init__(self, filesets: Sequence[FileSet]) -> None:
        self._sets = [(_compile(s.includes), _compile(s.excludes)) for s in filesets]

    def takes(self, path: str) -> bool:
        """Whether a file (`a/b/c`, relative) is taken."""
        return any(
            any(_matches(pattern, path) for pattern in includes)
            and not any(_matches(pattern, path) for pattern in excludes)
            for includes, excludes in self._sets
        )


def _compile(patterns: Sequence[str]) -> list[list[_Token]]:
    plain = [one for pattern in patterns for one in _expand(pattern)]
    if len(plain) > ALTERNATIVES_MAX:
        raise RuntimeFault(f"a fileset has at most {ALTERNATIVES_MAX} patterns")
    return [_tokens(pattern) for pattern in plain]


def _expand(pattern: str) -> list[str]:
    """Return the pattern once for each choice of its alternatives."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise RuntimeFault(f"a fileset pattern has at most {PATTERN_CHARS_MAX} characters")
    found = [""]
    at = 0
    while at < len(pattern):
        if pattern[at] != "{":
            found = [text + pattern[at] for text in found]
            at += 1
            continue
        end = pattern.find("}", at)
        choice = pattern[at + 1 : end]
        if end < 0 or "{" in choice:
            raise RuntimeFault(f"the fileset pattern {pattern[:100]!r} has unbalanced braces")
        found = [text + one for text in found for one in choice.split(",")]
        if len(found) > ALTERNATIVES_MAX:
            raise RuntimeFault(f"a fileset has at most {ALTERNATIVES_MAX} patterns")
        at = end + 1
    return found


def _tokens(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(pattern):
        at_part = at == 0 or pattern[at - 1] == "/"
        if at_part and pattern.startswith("**/", at):
            tokens.append(_Any.PARTS)
            at += 3
        elif at_part and pattern[at:] == "**":
            tokens.append(_Any.REST)
            at += 2
        elif pattern[at] == "*":
            tokens.append(_Any.IN_PART)
            at += 1
        elif pattern[at] == "?":
            tokens.append(_Any.CHARACTER)
            at += 1
        elif pattern[at] == "[":
            token, at = _read_class(pattern, at)
            tokens.append(token)
        else:
            at += pattern[at] == "\\" and at + 1 < len(pattern)
            tokens.append(pattern[at])
            at += 1
    return tokens


def _read_class(pattern: str, at: int) -> tuple[_Class, int]:
    end = pattern.find("]", at + 2)
    if end < 0:
        raise RuntimeFault(f"the fileset pattern {pattern[:100]!r} has an open [")
    inner = pattern[at + 1 : end]
    negated = len(inner) > 1 and inner[0] in "!^"
    inner = inner[1:] if negated else inner
    characters: set[str] = set()
    ranges: list[tuple[str, str]] = []
    index = 0
    while index < len(inner):
        if index + 2 < len(inner) and inner[index + 1] == "-":
            ranges.append((inner[index], inner[index + 2]))
            index += 3
        else:
            characters.add(inner[index])
            index += 1
    return _Class(frozenset(characters), tuple(ranges), negated), end + 1


def _matches(tokens: Sequence[_Token], path: str) -> bool:
    """Follow all ways through the pattern at once; a state is the token that comes next."""
    states = _reached(tokens, {0}, starts_part=True)
    for character in path:
        taken = {after for state in states for after in _taken(tokens, state, character)}
        states = _reached(tokens, taken, starts_part=character == "/")
    return len(tokens) in states


def _taken(tokens: Sequence[_Token], state: int, character: str) -> tuple[int, ...]:
    """Return where a token leads when it takes a character."""
    token = tokens[state] if state < len(tokens) else None
    match token:
        case _Any.PARTS | _Any.REST:
            return (state,)
        case _Any.IN_PART if character != "/":
            return (state,)
        case _Any.CHARACTER if character != "/":
            return (state + 1,)
        case _Class() if token.takes(character):
            return (state + 1,)
        case str() if token == character:
            return (state + 1,)
    return ()


def _reached(tokens: Sequence[_Token], states: set[int], *, starts_part: bool) -> set[int]:
    """Return the states with those that tokens which take nothing lead to."""
    found = set(states)
    pending = list(states)
    while pending:
        state = pending.pop()
        token = tokens[state] if state < len(tokens) else None
        passes = token in (_Any.IN_PART, _Any.REST) or (token is _Any.PARTS and starts_part)
        if passes and state + 1 not in found:
            found.add(state + 1)
            pending.append(state + 1)
    return found
