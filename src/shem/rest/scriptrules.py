"""What a manifest lets scripts do: commands and their arguments (docs/protocol/
provider-agent.md §5.8). Pure.

A rule is a line, `run /bin/date -R`, or an object, `{"run": {"args": "/bin/date -R"}}`, and is
compared with the command as such a line: the same, or a regular expression that is found in it.
Only `run` and `transfer` are limited; to deploy, start and end is always allowed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from shem.kernel.errors import UsageError
from shem.rest.patterns import Budget, Pattern

RULES_MAX: Final = 1_000
LINE_CHARS_MAX: Final = 64 << 10
"""A longer command matches no regular expression."""
PROGRAMS_MAX: Final = 50_000
"""Instructions of all expressions of one manifest."""
RUN: Final = "run"
TRANSFER: Final = "transfer"


class Match(StrEnum):
    """How a line is compared."""

    STRICT = "strict"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class _Rule:
    line: str
    pattern: Pattern | None
    """None: the line as it is."""

    def permits(self, line: str, budget: Budget) -> bool:
        if self.pattern is None:
            return self.line in (line, line.rstrip(" "))
        return len(line) <= LINE_CHARS_MAX and self.pattern.is_in(line, budget)


@dataclass(frozen=True, slots=True)
class ScriptRules:
    """All rules of one manifest."""

    rules: tuple[_Rule, ...]

    def require_run(self, entry_point: str, args: Sequence[str], budget: Budget) -> None:
        """Refuse a program that no rule names."""
        self._require(RUN, f"{RUN} {entry_point} {' '.join(args)}", budget)

    def require_transfer(self, source: str, target: str, budget: Budget) -> None:
        """Refuse a transfer that no rule names."""
        self._require(TRANSFER, f"{TRANSFER} {source} {target}", budget)

    def _require(self, command: str, line: str, budget: Budget) -> None:
        for rule in self.rules:
            if rule.line.startswith(command) and rule.permits(line, budget):
                return
        raise UsageError(
            f"script validation error: no matching manifest entry found for '{line[:1_000]}'"
        )


def parse_rules(body: Mapping[str, Any]) -> ScriptRules:
    """Read `compManifest.script`."""
    commands = body.get("commands")
    if not isinstance(commands, list) or len(commands) > RULES_MAX:
        raise UsageError(f"script.commands is not a list of at most {RULES_MAX}")
    usual = _match(body.get("match", Match.STRICT))
    rules: list[_Rule] = []
    size = 0
    for command in commands:
        new = _rules(command, usual)
        size += sum(rule.pattern.size for rule in new if rule.pattern is not None)
        if size > PROGRAMS_MAX:
            raise UsageError("the regular expressions of script.commands are too large")
        rules += new
    return ScriptRules(tuple(rules))


def _rules(command: object, usual: Match) -> list[_Rule]:
    """Read one entry; an object may be written as a text, and permits nothing that is unknown."""
    if isinstance(command, str):
        try:
            inner = json.loads(command)
        except (ValueError, RecursionError):
            return [_rule(command, usual)]
        command = inner if isinstance(inner, dict) else {}
    if not isinstance(command, dict):
        raise UsageError("an entry of script.commands is neither a text nor a map")
    found = []
    for name in (RUN, TRANSFER):
        fields = command.get(name)
        if isinstance(fields, dict) and (line := _line(name, fields)) is not None:
            found.append(_rule(line, _match(fields.get("match", usual))))
    return found


def _line(name: str, fields: Mapping[str, Any]) -> str | None:
    values = [fields.get(key) for key in (("args",) if name == RUN else ("from", "to"))]
    if name == RUN and isinstance(values[0], list):
        values = values[0]
    texts = [value for value in values if isinstance(value, str)]
    return " ".join([name, *texts]) if len(texts) == len(values) else None


def _rule(line: str, how: Match) -> _Rule:
    return _Rule(line, Pattern(line) if how is Match.REGEX else None)


def _match(value: object) -> Match:
    try:
        return Match(str(value).lower())
    except ValueError:
        raise UsageError(f"match {str(value)[:100]!r} is neither strict nor regex") from None
