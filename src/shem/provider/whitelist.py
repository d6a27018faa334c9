"""Domains that programs may reach: `domain_whitelist.json` (docs/protocol/provider-agent.md §5.9).

A pattern is a domain itself, or a regular expression that is found in one, in small or capital
letters, its blanks ignored; the file and the ids of patterns are those of other provider agents.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from shem.kernel.errors import NotFound, UsageError
from shem.provider.files import read_file, write_file
from shem.rest.destinations import HOST_CHARS_MAX
from shem.rest.patterns import Budget, Pattern
from shem.rest.scriptrules import Match

FILE_NAME: Final = "domain_whitelist.json"
PATTERNS_MAX: Final = 2_000
REMEDY: Final = "correct it, or move it away and use `shem provider whitelist`"
_ID_CHARS: Final = 8
STEPS_MAX: Final = 500_000
"""For all hosts of one manifest: what takes longer to compare is not on the list."""


class DomainPattern(msgspec.Struct, frozen=True):
    """One pattern."""

    domain: str
    match: Match = Match.STRICT

    @property
    def id(self) -> str:
        digest = hashlib.md5(self.domain.encode("utf-8", "replace"), usedforsecurity=False)
        return digest.hexdigest()[:_ID_CHARS]


class _File(msgspec.Struct, frozen=True):
    patterns: list[DomainPattern] = []


class Whitelist:
    """All patterns, in the order of the file."""

    def __init__(self, patterns: Sequence[DomainPattern] = ()) -> None:
        if len(patterns) > PATTERNS_MAX:
            raise UsageError(f"there are at most {PATTERNS_MAX} patterns")
        self.patterns = tuple(patterns)
        self._domains = frozenset(
            _domain(found) for found in patterns if found.match is Match.STRICT
        )
        self._expressions = tuple(
            _expression(found) for found in patterns if found.match is Match.REGEX
        )

    def permits(self, hosts: Iterable[str]) -> bool:
        """Whether all hosts are on the list."""
        budget = Budget(STEPS_MAX)
        try:
            return all(self._has(host.lower(), budget) for host in frozenset(hosts))
        except UsageError:
            return False

    def _has(self, host: str, budget: Budget) -> bool:
        return host in self._domains or any(
            found.is_in(host, budget) for found in self._expressions
        )

    def added(self, patterns: Sequence[DomainPattern]) -> "Whitelist":
        """Return it with more patterns; those that are there already stay as they are."""
        there = {pattern.id for pattern in self.patterns}
        new = {pattern.id: pattern for pattern in patterns if pattern.id not in there}
        return Whitelist([*self.patterns, *new.values()])

    def removed(self, ids: Sequence[str]) -> "Whitelist":
        there = {pattern.id for pattern in self.patterns}
        for missing in (one for one in ids if one not in there):
            raise NotFound(f"there is no pattern {missing!r}: see `shem provider whitelist list`")
        return Whitelist([pattern for pattern in self.patterns if pattern.id not in ids])


def _expression(pattern: DomainPattern) -> Pattern:
    if not pattern.domain.strip():
        raise UsageError("a pattern is empty")
    return Pattern(pattern.domain, ignore_case=True, verbose=True)


def _domain(pattern: DomainPattern) -> str:
    """Return the domain; one that could never be met is not what its author thinks."""
    if not pattern.domain.strip():
        raise UsageError("a pattern is empty")
    if len(pattern.domain) > HOST_CHARS_MAX or set(pattern.domain) & set("/:@ "):
        raise UsageError(f"{pattern.domain[:200]!r} is not a domain, such as example.com")
    return pattern.domain.lower()


def load_whitelist(data_dir: Path) -> Whitelist:
    """Read the file; nothing without one. UsageError when it cannot be applied."""
    path = data_dir / FILE_NAME
    found = read_file(path, _File, remedy=REMEDY)
    try:
        return Whitelist(found.patterns if found is not None else ())
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}; {REMEDY}") from error


def save_whitelist(data_dir: Path, whitelist: Whitelist) -> None:
    write_file(data_dir / FILE_NAME, _File(list(whitelist.patterns)))
