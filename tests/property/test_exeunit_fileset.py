"""Globs, compared with regular expressions on small inputs, and bounded on hostile ones."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.exeunit.commands import FileSet
from shem.exeunit.runtimes.base import RuntimeFault
from shem.exeunit.transfer.fileset import Selection

PIECES = st.sampled_from(["a", "b", "/", "*", "?", "[ab]", "[!a]", "{a,b/c}", ".", "**/", "\\*"])
PATTERNS = st.lists(PIECES, max_size=8).map("".join)
PATHS = st.lists(st.text("ab*.", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


def takes(pattern: str, path: str) -> bool:
    return Selection([FileSet((pattern,))]).takes(path)


def as_regex(pattern: str) -> str:
    """Translate a pattern piece by piece, as the specification words it."""
    out, at = "", 0
    while at < len(pattern):
        at_part = at == 0 or pattern[at - 1] == "/"
        if at_part and pattern.startswith("**/", at):
            out, at = out + "(?:[^/]*/)*", at + 3
        elif at_part and pattern[at:] == "**":
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "[":
            end = pattern.index("]", at)
            inner = pattern[at + 1 : end]
            out += f"[^/{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
            at = end + 1
        elif pattern[at] == "{":
            end = pattern.index("}", at)
            choices = [re.escape(choice) for choice in pattern[at + 1 : end].split(",")]
            out, at = out + f"(?:{'|'.join(choices)})", end + 1
        elif pattern[at] == "\\":
            out, at = out + re.escape(pattern[at + 1]), at + 2
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return out


@given(PATTERNS, PATHS)
def test_globs_are_what_the_words_say(pattern: str, path: str) -> None:
    assert takes(pattern, path) is (re.fullmatch(as_regex(pattern), path) is not None)


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("**/*", ["a", "a/b", "a/b/c.txt"], []),
        ("*", ["a", "a.b"], ["a/b"]),
        ("*.txt", ["a.txt", ".txt"], ["a.txt/b", "d/a.txt"]),
        ("**/*.txt", ["a.txt", "d/e/a.txt"], ["a.txtx", "d/a"]),
        ("d/**", ["d/a", "d/e/f"], ["e/d/a", "da"]),
        ("d/**/f", ["d/f", "d/e/f", "d/e/e/f"], ["d/ef", "df"]),
        ("[a-c]?", ["ax", "cz"], ["dx", "a", "a/"]),
        ("*.{jpg,png}", ["a.jpg", "b.png"], ["c.gif", "a.jpgpng"]),
        ("[!a]*", ["b", "bc"], ["a", "ab"]),
        ("a[]b]c", ["a]c", "abc"], ["ac", "axc"]),
    ],
)
def test_the_usual_patterns(pattern: str, taken: list[str], left: list[str]) -> None:
    assert [path for path in taken + left if takes(pattern, path)] == taken


def test_excludes_count_within_their_own_set() -> None:
    selection = Selection([FileSet(("**/*.c",), ("test/**",)), FileSet(("README",))])

    paths = ["a.c", "test/a.c", "README", "b.h"]

    assert [path for path in paths if selection.takes(path)] == ["a.c", "README"]


@pytest.mark.parametrize(
    "pattern", ["**/" * 300 + "b", "*a" * 400 + "b", "a?" * 300, "**/*" * 200, "*" * 1_000 + "b"]
)
def test_hostile_patterns_cost_little(pattern: str) -> None:
    started = time.monotonic()

    takes(pattern, "a/" * 100 + "a" * 200)

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("pattern", ["{a", "{a,{b}}", "[a", "a" * 1_025, "{a,b}" * 9])
def test_unusable_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(RuntimeFault):
        Selection([FileSet((pattern,))])
