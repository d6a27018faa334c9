"""Regular expressions of strangers: what they match, and what they cannot do."""

import pytest

from shem.kernel.errors import UsageError
from shem.rest.patterns import PROGRAM_MAX, Budget, Pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("", "", True),
        ("", "x", True),
        ("a", "", False),
        ("a", "xax", True),
        ("^a", "xa", False),
        ("^a", "ax", True),
        ("a$", "ax", False),
        ("a$", "xa", True),
        ("^$", "", True),
        ("^$", "x", False),
        (r"\Aa\z", "a", True),
        (r"\Aa\z", "a\n", False),
        ("run .*", "run /bin/ls -l", True),
        ("run .*", "running", False),
        ("^run (/bin/cat|/bin/date) [a-z/]+$", "run /bin/cat /etc/motd", True),
        ("^run (/bin/cat|/bin/date) [a-z/]+$", "run /bin/rm /etc/motd", False),
        ("a.c", "abc", True),
        ("a.c", "a\nc", False),
        (r"a\.c", "abc", False),
        ("colou?r", "color", True),
        ("colou?r", "colouur", False),
        ("^(?:ab)+$", "ababab", True),
        ("^(?:ab)+$", "aba", False),
        ("^a{2,3}$", "aa", True),
        ("^a{2,3}$", "aaaa", False),
        ("^a{2}$", "aaa", False),
        ("^a{2,}$", "aaaaa", True),
        ("^a{2,}$", "a", False),
        ("^a*?$", "aaa", True),
        ("^(a|)*$", "aaa", True),
        ("^(?P<name>x)(?<other>y)$", "xy", True),
        ("[a-c]", "d", False),
        ("[^a-c]", "b", False),
        ("[^a-c]", "d", True),
        ("[]x]", "]", True),
        ("[a-]", "-", True),
        (r"[\d-]", "-", True),
        (r"^\d+$", "12", True),
        (r"^\d+$", "1x", False),
        (r"^\w+$", "a_1é", True),
        (r"^\W$", "a", False),
        (r"^\S+$", "a b", False),
        (r"\bcat\b", "a cat sat", True),
        (r"\bcat\b", "concatenate", False),
        (r"\Bcat", "concat", True),
        (r"\x41", "A", True),
        ("é", "café", True),
        ("(?i)RUN", "run", True),
        ("RUN", "run", False),
    ],
)
def test_what_is_found(pattern: str, text: str, found: bool) -> None:
    assert Pattern(pattern).is_in(text) is found


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("EXAMPLE.com", "example.COM", True),
        ("[A-C]x", "bX", True),
        ("[^A-C]x", "bX", False),
        ("exam ple \\. com # the one", "example.com", True),
        ("exam[ ]ple", "example", False),
        ("exam[ ]ple", "exam ple", True),
    ],
)
def test_what_is_found_in_domains(pattern: str, text: str, found: bool) -> None:
    assert Pattern(pattern, ignore_case=True, verbose=True).is_in(text) is found


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", ")", "(a", "a)", "[", "[a", "[]", "*", "+a", "?", "{2}", "a|*", "\\", "[z-a]"),
        *("a{", "a{x}", "a{3,2}", "a{1001}", "a{,3}", "a{-1}", "a{²}", "\\x4", "\\xzz", "[a\\"),
        *("(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?P=a)", "(?#a)", "(?s)a", r"(a)\1", r"\p{L}"),
        *("[[:alpha:]]", "[a&&b]", "(?P<a", "(" * 40 + ")" * 40, "a" * 4_097),
        "((((a{100}){100}){100}){100})",
        "(" + "a{1000}" * 10 + ")",
        "(((){1000}){1000}){1000}",
        "((|){1000}){1000}",
        "(((){0,1000}){0,1000}){0,1000}",
    ],
)
def test_what_cannot_be_searched_in_linear_time_or_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        Pattern(pattern)


def test_expressions_that_stop_other_engines_are_answered() -> None:
    for pattern in ("(a+)+$", "(a*)*b", "(a|aa)+$", "(.*)*(.*)*(.*)*x$"):
        assert not Pattern(pattern).is_in("a" * 2_000 + "!")


def test_searching_ends_with_its_budget() -> None:
    pattern = Pattern("(a?){400}b")
    budget = Budget(10_000)

    with pytest.raises(UsageError, match="too long"):
        pattern.is_in("a" * 5_000, budget)


def test_a_program_has_a_size() -> None:
    assert len(Pattern("a{1000}" * 4)._program) < PROGRAM_MAX
