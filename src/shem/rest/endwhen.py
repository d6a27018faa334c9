"""The end of work without its requestor: what agreements may say about it, as properties.

Pure, and shared by who asks (SDK), who agrees (provider agent) and who does it (ExeUnit); the
properties are in docs/protocol/extensions.md. An Offer says what is possible; a Demand says what is
wanted, and both become the Agreement. What is malformed is a UsageError that names the property:
nobody guesses when to end another's work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from shem.kernel.errors import UsageError

CAN_END_WHEN: Final = "golem.srv.caps.end-when"
"""Offer: the conditions that this provider's ExeUnit knows."""
CAN_SINK: Final = "golem.srv.caps.result-sink"
"""Offer: the schemes over which it delivers results at the end."""
CAN_ON_ABSENCE: Final = "golem.srv.caps.on-absence"
"""Offer: what the provider can do when its requestor is away for too long."""
ABSENCE_ACTIONS: Final = ("terminate", "finish")
"""End the agreement; or let what runs end first, deliver its results, and end it then."""

ENDED_BY_TERMS: Final = "Finished by its terms"
"""How the reason begins of an activity that ended so."""

END_WHEN: Final = "golem.srv.end-when."
SINK: Final = "golem.srv.result-sink."
RESULTS_URL: Final = SINK + "results-url"
FILES_URL: Final = SINK + "files-url"
FILES_PATH: Final = SINK + "files-path"
SINK_SCHEMES: Final = ("http", "https", "gftp")
SECONDS_MAX: Final = 10 * 365 * 86_400.0
BUDGET_MAX: Final = Decimal(10) ** 12
URL_CHARS_MAX: Final = 2_048
NAME_CHARS_MAX: Final = 256

Properties = Mapping[str, Any]


class Condition(StrEnum):
    """What ends an activity by itself; the first that holds does."""

    BATCH_DONE = "batch-done"
    """A batch that ran a program has ended, and no other is running."""
    EXIT = "exit"
    """A program has ended: any, or one of a given entry point."""
    IDLE = "idle"
    """Nothing has run for so long."""
    BUDGET = "budget"
    """The usage costs so much."""
    TIME = "time"
    """The activity is so old."""


_PROPERTY: Final = {
    Condition.BATCH_DONE: END_WHEN + "batch-done",
    Condition.EXIT: END_WHEN + "exit",
    Condition.IDLE: END_WHEN + "idle-sec",
    Condition.BUDGET: END_WHEN + "budget",
    Condition.TIME: END_WHEN + "time-sec",
}


@dataclass(frozen=True, slots=True)
class EndWhen:
    """When the work is over; at least one condition."""

    batch_done: bool = False
    exit: str | bool = False
    """True for any program, or the entry point of one."""
    idle_s: float | None = None
    budget: Decimal | None = None
    """In GLM, by the agreement's prices."""
    time_s: float | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(name for name, value in self._values().items() if _is_stated(value))

    def properties(self) -> dict[str, Any]:
        """Return what a Demand says."""
        values = self._values()
        if self.budget is not None:
            values[Condition.BUDGET] = format(self.budget, "f")
        return {_PROPERTY[name]: values[name] for name in self.conditions}

    def _values(self) -> dict[Condition, Any]:
        return {
            Condition.BATCH_DONE: self.batch_done,
            Condition.EXIT: self.exit,
            Condition.IDLE: self.idle_s,
            Condition.BUDGET: self.budget,
            Condition.TIME: self.time_s,
        }


@dataclass(frozen=True, slots=True)
class ResultSink:
    """Where to deliver at the end: the results of all commands, and files of the activity."""

    results_url: str | None = None
    """Gets a JSON document."""
    files_url: str | None = None
    files_path: str | None = None
    """A file, or a directory, which is sent as `tar.gz`."""

    @property
    def schemes(self) -> frozenset[str]:
        urls = (self.results_url, self.files_url)
        return frozenset(urlsplit(url).scheme for url in urls if url is not None)

    def properties(self) -> dict[str, Any]:
        """Return what a Demand says."""
        values = {
            RESULTS_URL: self.results_url,
            FILES_URL: self.files_url,
            FILES_PATH: self.files_path,
        }
        return {name: value for name, value in values.items() if value is not None}


def check_end_when(wanted: EndWhen) -> EndWhen:
    """Refuse what cannot be meant, with the words of the properties."""
    parsed = parse_end_when(wanted.properties())
    if parsed is None:
        raise UsageError("end_when: state at least one condition")
    return parsed


def check_sink(sink: ResultSink) -> ResultSink:
    """Refuse a sink to which nothing can be delivered."""
    parsed = parse_sink(sink.properties())
    if parsed is None:
        raise UsageError("result_sink: state results_url, or files_url and files_path")
    return parsed


def parse_end_when(demand: Properties) -> EndWhen | None:
    """Read what a Demand says about its end; None when it says nothing."""
    stated = [name for name in demand if name.startswith(END_WHEN)]
    if unknown := sorted(set(stated) - set(_PROPERTY.values())):
        raise UsageError(f"{unknown[0]} is not known")
    values = {name: demand.get(text) for name, text in _PROPERTY.items()}
    found = EndWhen(
        batch_done=_flag(values, Condition.BATCH_DONE),
        exit=_program(values),
        idle_s=_seconds(values, Condition.IDLE),
        budget=_budget(values),
        time_s=_seconds(values, Condition.TIME),
    )
    return found if found.conditions else None


def parse_sink(demand: Properties) -> ResultSink | None:
    """Read where a Demand wants its results; None when it says nothing."""
    stated = {name for name in demand if name.startswith(SINK)}
    if not stated:
        return None
    if unknown := sorted(stated - {RESULTS_URL, FILES_URL, FILES_PATH}):
        raise UsageError(f"{unknown[0]} is not known")
    sink = ResultSink(_url(demand, RESULTS_URL), _url(demand, FILES_URL), _text(demand, FILES_PATH))
    if (sink.files_url is None) != (sink.files_path is None):
        raise UsageError(f"{FILES_URL} and {FILES_PATH} go together")
    if sink.files_path is not None and not sink.files_path.startswith("/"):
        raise UsageError(f"{FILES_PATH} must be an absolute path, not {sink.files_path!r}")
    return sink


def names_of(value: object) -> frozenset[str]:
    """Return the words that an Offer's capability lists."""
    if not isinstance(value, list):
        return frozenset()
    return frozenset(word for word in value if isinstance(word, str))


def _is_stated(value: object) -> bool:
    return value is not None and value is not False


def _flag(values: Mapping[Condition, Any], name: Condition) -> bool:
    value = values[name]
    if value is None or isinstance(value, bool):
        return bool(value)
    raise UsageError(f"{_PROPERTY[name]} must be true or false, not {value!r}")


def _program(values: Mapping[Condition, Any]) -> str | bool:
    value = values[Condition.EXIT]
    if value is None:
        return False
    if isinstance(value, bool) or (isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX):
        return value
    raise UsageError(f"{_PROPERTY[Condition.EXIT]} must be true or an entry point, not {value!r}")


def _seconds(values: Mapping[Condition, Any], name: Condition) -> float | None:
    value = values[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{_PROPERTY[name]} must be seconds, not {value!r}")
    if not 0 < value <= SECONDS_MAX:
        raise UsageError(f"{_PROPERTY[name]} must be more than 0 and at most {SECONDS_MAX:.0f}")
    return float(value)


def _budget(values: Mapping[Condition, Any]) -> Decimal | None:
    value, name = values[Condition.BUDGET], _PROPERTY[Condition.BUDGET]
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or not 0 < amount <= BUDGET_MAX:
        raise UsageError(f"{name} must be an amount of GLM above 0, not {value!r}")
    return amount


def _url(demand: Properties, name: str) -> str | None:
    url = _text(demand, name)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
    if parts.scheme not in SINK_SCHEMES or not parts.netloc:
        raise UsageError(f"{name} must be a URL of {', '.join(SINK_SCHEMES)}")
    return url


def _text(demand: Properties, name: str) -> str | None:
    value = demand.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= URL_CHARS_MAX or "\0" in value:
        raise UsageError(f"{name} must be a text of at most {URL_CHARS_MAX} characters")
    return value
