"""The index finds exactly the pairs that comparing everybody with everybody finds."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shem.kernel.ids import NodeId, SubscriptionId
from shem.market.constraints import ConstraintError, parse_constraints
from shem.market.match_index import MatchIndex, compiled
from shem.market.needs import keys_of_text, keys_of_value, needs_of
from shem.market.properties import canonical_text
from shem.market.records import ACTIVE, DEMAND, OFFER, Subscription
from shem.market.resolve import Truth, match_pair, resolve, typed_properties

NAMES = ("a", "b", "c.d", "subnet")
texts = st.sampled_from(["x", "y", "1", "1.0", "01", "true", "2", "", "a*", "[x]", "[x,1]", "[]"])
scalars = st.sampled_from(["x", "y", "1", "true", "[x]", "", 1, 2, 1.5, True, False, None])
values = scalars | st.lists(scalars | st.lists(scalars, max_size=2), max_size=3)
properties = st.dictionaries(st.sampled_from(NAMES), values, max_size=4).map(canonical_text)
comparisons = st.builds(
    "({}{}{})".format,
    st.sampled_from([*NAMES, "a$v", "a[x]"]),
    st.sampled_from(["=", "=", "=", "<", ">="]),
    texts,
)
filters = st.recursive(
    comparisons | st.sampled_from(["()", "(a=*)", "(&)", "(|)", "(a", ""]),
    lambda inner: st.builds("({}{})".format, st.sampled_from("&|!"), st.lists(inner).map("".join)),
    max_leaves=6,
)
identities = st.sampled_from([NodeId("0x" + c * 40) for c in "abc"])
lifetimes = st.integers(1, 20)


def is_match(one: Subscription, other: Subscription) -> bool:
    """Compare two subscriptions without any index."""
    if one.identity == other.identity:
        return False
    try:
        return match_pair(one.properties, one.constraints, other.properties, other.constraints).fits
    except ConstraintError:
        return False


@given(filters, properties)
def test_where_an_expression_is_true_its_needs_are_met(text: str, having: str) -> None:
    try:
        expression = parse_constraints(text)
    except ConstraintError:
        return
    has = typed_properties(having)
    if resolve(expression, has).truth is not Truth.TRUE:
        return

    for need in needs_of(expression):
        assert any(
            name in has and set(keys_of_text(value)) & set(keys_of_value(has[name]))
            for name, value in need
        )


class IndexBesideNaive(RuleBasedStateMachine):
    """Subscriptions come, go and expire; whoever comes finds what the naive way finds."""

    def __init__(self) -> None:
        super().__init__()
        self.index = MatchIndex()
        self.all: dict[SubscriptionId, Subscription] = {}
        self.now_ns = 0
        self.count = 0

    @rule(
        kind=st.sampled_from([OFFER, DEMAND]),
        identity=identities,
        having=properties,
        wanting=filters,
        lives=lifetimes,
    )
    def come(self, kind: str, identity: NodeId, having: str, wanting: str, lives: int) -> None:
        self.count += 1
        item = Subscription(
            SubscriptionId(f"{self.count}"),
            kind,
            True,
            identity,
            having,
            wanting,
            ACTIVE,
            self.now_ns,
            self.now_ns + self.count,
            self.now_ns + lives,
        )
        expected = {
            other.subscription_id
            for other in self.all.values()
            if other.kind != kind and other.expires_ns > self.now_ns and is_match(item, other)
        }
        found: list[SubscriptionId] = []
        if entry := compiled(item):
            list(self.index.prepare(entry))
            candidates = self.index.candidates(entry, self.now_ns, 1_000)
            arrivals = [each.inserted_ns for each in candidates]
            assert arrivals == sorted(arrivals, reverse=True)
            found = [each.subscription_id for each in candidates if entry.fits(each)]
            self.index.add(entry)
        assert sorted(found) == sorted(expected)
        self.all[item.subscription_id] = item

    @rule(pick=st.randoms(use_true_random=False))
    def go(self, pick: random.Random) -> None:
        if self.all:
            gone = pick.choice(sorted(self.all))
            del self.all[gone]
            self.index.remove(gone)

    @rule(passes=lifetimes)
    def wait(self, passes: int) -> None:
        self.now_ns += passes

    @rule()
    def sweep(self) -> None:
        for each in self.index.expired(self.now_ns):
            self.index.remove(each)

    @invariant()
    def nothing_is_left_of_those_who_went(self) -> None:
        for kind, side in self.index._sides.items():
            assert side.entries.keys() <= {i for i, s in self.all.items() if s.kind == kind}
            filed = [side.undemanding, *side.by_need.values()]
            filed += [ids for keys in side.by_value.values() for ids in keys.values()]
            assert set().union(*filed) <= side.entries.keys()
            assert all(filed[1:])


IndexBesideNaive.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
test_index_beside_naive = IndexBesideNaive.TestCase


def test_only_those_who_can_match_are_looked_at() -> None:
    index = MatchIndex()

    def subscription(kind: str, number: int, having: str, wanting: str) -> Subscription:
        node = NodeId(f"0x{number:040x}")
        name = SubscriptionId(f"{kind}{number}")
        return Subscription(name, kind, True, node, having, wanting, ACTIVE, 0, number, 1_000)

    for number in range(500):
        having = canonical_text({"subnet": f"s{number % 50}", "runtime": "vm", "mem": number})
        offer = compiled(subscription(OFFER, number, having, f"(subnet=s{number % 50})"))
        assert offer is not None
        index.add(offer)
    wanting = "(&(subnet=s7)(runtime=vm)(mem>=100))"
    demand = compiled(subscription(DEMAND, 900, canonical_text({"subnet": "s7"}), wanting))
    assert demand is not None

    list(index.prepare(demand))
    found = index.candidates(demand, 0, 1_000)

    assert [entry.inserted_ns for entry in found] == list(range(457, 0, -50))
    assert index.candidates(demand, 0, 3) == found[:3]
    assert index.candidates(demand, 1_000, 1_000) == []
