"""All active Offers and Demands, compiled, so that only those are looked at that can match.

docs/protocol/market.md §7.5. Pure. Whoever is new finds its candidates in two ways, and takes what
is less: those whose properties have what it needs, and those whose own need its properties meet.
Needs are equalities (`needs`); what else a constraint says is decided on the candidates. Properties
are indexed by the names that somebody on the other side needs. The index is a copy: the store is
what counts, and each side is read from there when it is first needed (`matching`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final, TypeVar

from shem.kernel.errors import UsageError
from shem.kernel.ids import NodeId, SubscriptionId
from shem.market.constraints import Expression, parse_constraints
from shem.market.needs import Key, Need, keys_of_text, keys_of_value, needs_of
from shem.market.records import DEMAND, OFFER, Subscription
from shem.market.resolve import Truth, Typed, resolve, typed_properties

NAMES_MAX: Final = 256
"""Property names indexed per side; needs of further names narrow nothing down."""
_OTHER: Final = {OFFER: DEMAND, DEMAND: OFFER}

Ids = set[SubscriptionId]
K = TypeVar("K")


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One subscription, compiled."""

    subscription_id: SubscriptionId
    kind: str
    identity: NodeId
    inserted_ns: int
    expires_ns: int
    has: dict[str, Typed]
    wants: Expression
    needs: tuple[Need, ...]

    def fits(self, other: "Entry") -> bool:
        """Tell whether two subscriptions match: each has all that the other wants."""
        return (
            self.identity != other.identity
            and resolve(self.wants, other.has).truth is Truth.TRUE
            and resolve(other.wants, self.has).truth is Truth.TRUE
        )


def compiled(item: Subscription) -> Entry | None:
    """Return the subscription as the index keeps it; None when it can match nothing."""
    try:
        has = typed_properties(item.properties)
        wants = parse_constraints(item.constraints)
    except UsageError:
        return None
    return Entry(
        item.subscription_id,
        item.kind,
        item.identity,
        item.inserted_ns,
        item.expires_ns,
        has,
        wants,
        needs_of(wants),
    )


@dataclass(slots=True, eq=False)
class _Side:
    """Either all Offers or all Demands."""

    entries: dict[SubscriptionId, Entry] = field(default_factory=dict)
    by_value: dict[str, dict[Key, Ids]] = field(default_factory=dict)
    """For each indexed name: who has a value with this key."""
    by_need: dict[tuple[str, Key], Ids] = field(default_factory=dict)
    """Who can match only what has this; each is filed under one of its needs."""
    filed: dict[SubscriptionId, Need] = field(default_factory=dict)
    undemanding: Ids = field(default_factory=set)
    """Who needs nothing."""
    wanted: Counter[str] = field(default_factory=Counter)
    """Names in the needs of the other side."""

    def add(self, entry: Entry) -> None:
        self.entries[entry.subscription_id] = entry
        for name in self.by_value.keys() & entry.has.keys():
            self._post(name, entry)
        if not entry.needs:
            self.undemanding.add(entry.subscription_id)
            return
        need = min(entry.needs, key=self._crowd)
        self.filed[entry.subscription_id] = need
        for place in _places(need):
            self.by_need.setdefault(place, set()).add(entry.subscription_id)

    def remove(self, entry: Entry) -> None:
        del self.entries[entry.subscription_id]
        for name in self.by_value.keys() & entry.has.keys():
            for key in keys_of_value(entry.has[name]):
                _take_out(self.by_value[name], key, entry.subscription_id)
        self.undemanding.discard(entry.subscription_id)
        for place in _places(self.filed.pop(entry.subscription_id, frozenset())):
            _take_out(self.by_need, place, entry.subscription_id)

    def index(self, name: str) -> None:
        """Have the values of a property at hand, if there is room for another."""
        if name not in self.by_value and len(self.by_value) < NAMES_MAX:
            self.by_value[name] = {}
            for entry in self.entries.values():
                if name in entry.has:
                    self._post(name, entry)

    def want(self, names: Iterable[str]) -> None:
        """Somebody on the other side needs these."""
        for name in names:
            self.wanted[name] += 1
            self.index(name)

    def want_no_more(self, names: Iterable[str]) -> None:
        for name in names:
            self.wanted[name] -= 1
            if not self.wanted[name]:
                del self.wanted[name]
                self.by_value.pop(name, None)

    def meeting(self, needs: Iterable[Need]) -> Iterator[list[Ids]]:
        """Return, for each need that the index can answer, those that may meet it, in parts."""
        for need in needs:
            if all(name in self.by_value for name, _ in need):
                parts = (self.by_value[name].get(key) for name, key in _places(need))
                yield [part for part in parts if part]

    def content_with(self, has: dict[str, Typed]) -> list[Ids]:
        """Return those whose need these properties meet, in parts."""
        parts = (
            self.by_need.get((name, key))
            for name, value in has.items()
            for key in keys_of_value(value)
        )
        return [part for part in (self.undemanding, *parts) if part]

    def _post(self, name: str, entry: Entry) -> None:
        for key in keys_of_value(entry.has[name]):
            self.by_value[name].setdefault(key, set()).add(entry.subscription_id)

    def _crowd(self, need: Need) -> int:
        return sum(len(self.by_need.get(place, ())) for place in _places(need))


class MatchIndex:
    """See the module."""

    def __init__(self) -> None:
        self._sides = {OFFER: _Side(), DEMAND: _Side()}
        self._loaded: set[str] = set()
        self.looked_ns = 0
        """The latest moment at which something was left out because it had expired."""

    def is_loaded(self, kind: str) -> bool:
        """Tell whether the index knows all Offers, or all Demands."""
        return kind in self._loaded

    def loaded(self, kind: str) -> None:
        self._loaded.add(kind)

    def forget(self) -> None:
        """Know nothing: each side is to be read again."""
        self._sides = {OFFER: _Side(), DEMAND: _Side()}
        self._loaded.clear()
        self.looked_ns = 0

    def size(self, kind: str) -> int:
        return len(self._sides[kind].entries)

    def add(self, entry: Entry) -> None:
        """Take in a subscription, if its side is known or being read."""
        if entry.subscription_id not in self._sides[entry.kind].entries:
            self._sides[entry.kind].add(entry)
            self._sides[_OTHER[entry.kind]].want(_names(entry))

    def remove(self, subscription_id: SubscriptionId) -> None:
        for kind, side in self._sides.items():
            if entry := side.entries.get(subscription_id):
                side.remove(entry)
                self._sides[_OTHER[kind]].want_no_more(_names(entry))

    def prepare(self, entry: Entry) -> Iterator[str]:
        """Index what this subscription needs, a name per step: one may take milliseconds."""
        for name in _names(entry):
            self._sides[_OTHER[entry.kind]].index(name)
            yield name

    def candidates(self, entry: Entry, now_ns: int, most: int) -> list[Entry]:
        """Return who of the other side may match, the latest first."""
        other = self._sides[_OTHER[entry.kind]]
        choices = [*other.meeting(entry.needs), other.content_with(entry.has)]
        choices.sort(key=lambda parts: sum(map(len, parts)))
        found: Ids = set[SubscriptionId]().union(*choices[0])
        for parts in choices[1:]:
            if len(parts) == 1:
                found &= parts[0]
        active = [other.entries[each] for each in found if other.entries[each].expires_ns > now_ns]
        return nlargest(most, active, key=lambda each: each.inserted_ns)

    def expired(self, now_ns: int) -> list[SubscriptionId]:
        """Return what may be removed."""
        every = [entry for side in self._sides.values() for entry in side.entries.values()]
        return [entry.subscription_id for entry in every if entry.expires_ns <= now_ns]


def _names(entry: Entry) -> set[str]:
    return {name for need in entry.needs for name, _ in need}


def _places(need: Need) -> Iterator[tuple[str, Key]]:
    for name, text in need:
        for key in keys_of_text(text):
            yield name, key


def _take_out(book: dict[K, Ids], key: K, item: SubscriptionId) -> None:
    same = book.get(key)
    if same is not None:
        same.discard(item)
        if not same:
            del book[key]
