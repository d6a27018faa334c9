"""The syntax of regular expressions that strangers may use, read into a tree. Pure.

That of the network's other implementation, as far as it can be searched in linear time: no
look-around, no back-references. Of what is not known here nothing is guessed: it is a UsageError.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shem.kernel.errors import UsageError

REPEAT_MAX: Final = 1_000
DEPTH_MAX: Final = 32

Accepts = Callable[[str], bool]
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
CLASSES: Final[dict[str, Accepts]] = {
    "d": str.isdecimal,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
}
_ASSERTIONS: Final = {"A": "begin", "z": "end", "b": "boundary", "B": "inside"}
_QUANTIFIERS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class One:
    """One character."""

    accepts: Accepts


@dataclass(frozen=True, slots=True)
class All:
    """One part after the other."""

    parts: "Sequence[Node]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the parts."""

    parts: "Sequence[Node]"


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part, so many times; without `most` as often as it likes."""

    inner: "Node"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Assert:
    """A place in the text, and no character."""

    kind: str


Node = One | All | AnyOf | Repeat | Assert


def parse_pattern(text: str, *, ignore_case: bool = False, verbose: bool = False) -> Node:
    """Read an expression; `verbose` ones may have blanks and remarks in them."""
    return _Parser(text, ignore_case=ignore_case, verbose=verbose).parse()


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, text: str, *, ignore_case: bool, verbose: bool) -> None:
        self._text = text
        self._at = 0
        self._ignore_case = ignore_case
        self._verbose = verbose
        self._depth = 0

    def parse(self) -> Node:
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

    def _alternatives(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error(f"groups more than {DEPTH_MAX} deep")
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        self._depth -= 1
        return AnyOf(parts) if len(parts) > 1 else parts[0]

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while (char := self._peek()) not in ("", "|", ")"):
            self._at += 1
            node = self._atom(char)
            while (repeat := self._quantifier()) is not None:
                node = Repeat(node, *repeat)
            parts.append(node)
        return All(parts)

    def _atom(self, char: str) -> Node:
        match char:
            case "(":
                return self._group()
            case "[":
                return self._set()
            case ".":
                return One(lambda found: found != "\n")
            case "^":
                return Assert("begin")
            case "$":
                return Assert("end")
            case "\\":
                return self._escape()
            case "*" | "+" | "?" | "{":
                raise self._error(f"a {char} that repeats nothing")
        return One(self._literal(char))

    def _group(self) -> Node:
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

    def _escape(self) -> Node:
        char = self._take()
        if char in _ASSERTIONS:
            return Assert(_ASSERTIONS[char])
        return One(self._escaped(char))

    def _escaped(self, char: str) -> Accepts:
        if char.lower() in CLASSES:
            accepts = CLASSES[char.lower()]
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

    def _set(self) -> Node:
        negated = self._text[self._at : self._at + 1] == "^"
        self._at += negated
        parts: list[Accepts] = []
        while (char := self._take()) != "]" or not parts:
            if char == "[" or self._text[self._at - 1 : self._at + 1] in ("&&", "~~", "--"):
                raise self._error("a set within a set, which is not supported")
            if char == "\\":
                char = self._take()
                if char.lower() in CLASSES:
                    parts.append(self._escaped(char))
                    continue
                char = self._escaped_char(char)
            parts.append(self._range(char))
        accepts: Accepts = lambda found: any(part(found) for part in parts)  # noqa: E731
        return One(_not(accepts) if negated else accepts)

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
