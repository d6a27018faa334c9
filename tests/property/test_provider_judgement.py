"""Whatever a demand says is a verdict, and whatever a file holds is read or refused in words."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shem.exeunit.ending import End, Phase, Step
from shem.exeunit.runtimes.choice import OFFER_TEMPLATE
from shem.kernel.errors import UsageError
from shem.provider.access import load_access
from shem.provider.config import Globals, ProviderConfig, load_globals
from shem.provider.descriptor import BUILT_IN
from shem.provider.hardware import (
    Capacity,
    Machine,
    Profile,
    Resources,
    capacity,
    load_profiles,
)
from shem.provider.ledger import Ledger
from shem.provider.offer import build_offer
from shem.provider.presets import Preset, load_presets
from shem.provider.rules import RULES, Accepted, negotiate
from shem.provider.verdicts import Limits, Negotiation, Reject
from shem.provider.whitelist import load_whitelist
from shem.rest.endwhen import END_WHEN, SINK
from shem.rest.manifest import NODE_DESCRIPTOR

NOW = 1_795_465_792_000_000_000
MACHINE = Machine(architecture="x86_64", cores=2, threads=3, memory_gib=4.0, storage_gib=20.0)
OFFER = build_offer(
    config=ProviderConfig(app_key="k", data_dir=Path("/nowhere")),
    who=Globals(),
    machine=MACHINE,
    share=MACHINE.resources,
    preset=Preset("p", "wasmtime", usage_coeffs=dict.fromkeys(BUILT_IN.priced, 0.5)),
    descriptor=BUILT_IN,
    template=OFFER_TEMPLATE,
    account="0x" + "a" * 40,
    is_public=False,
).properties
NAMES = [
    "golem.com.payment.chosen-platform",
    "golem.srv.comp.expiration",
    *("golem.srv.comp.payload", "golem.srv.comp.payload.sig", "golem.srv.comp.payload.cert"),
    *(NODE_DESCRIPTOR, NODE_DESCRIPTOR + ".nodeDescriptor.nodeId"),
    "golem.com.pricing.model.linear.coeffs",
    "golem.com.payment.debit-notes.accept-timeout?",
    "golem.com.scheme.payu.debit-note.interval-sec?",
    "golem.com.scheme.payu.payment-timeout-sec?",
    "golem.srv.offline.max-absence-sec",
    "golem.srv.offline.on-absence",
    "golem.srv.offline.result-retention-sec",
    *(END_WHEN + name for name in ("batch-done", "exit", "idle-sec", "budget", "time-sec", "x")),
    *(SINK + name for name in ("results-url", "files-url", "files-path", "x")),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["finish", "terminate", "https://x/y", "/work", "erc20-holesky-tglm", "0.5"])
    | st.integers(1, 100_000)
    | st.just(1_795_465_792_000 + 3_600_000)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "golem.com.payment.chosen-platform": "erc20-holesky-tglm",
    "golem.srv.comp.expiration": 1_795_465_792_000 + 1_200_000,
}
DEMANDS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8).map(lambda d: {**GOOD, **d})
LIMITS = Limits(("erc20-holesky-tglm",))


@given(DEMANDS)
@settings(max_examples=400)
def test_any_demand_gets_a_verdict_and_what_is_agreed_stands(demand: dict[str, Any]) -> None:
    found = negotiate(Negotiation(demand, OFFER, LIMITS, NOW))

    if isinstance(found, Reject):
        json.dumps(found.reason())
        assert found.message
    else:
        again = negotiate(Negotiation(demand, found.properties, LIMITS, NOW))
        assert again == Accepted(found.properties, changed=False)


@given(DEMANDS, st.sampled_from(sorted(RULES)))
def test_each_rule_alone_never_fails(demand: dict[str, Any], name: str) -> None:
    for offer in (OFFER, {}):
        negotiate(Negotiation(demand, offer, LIMITS, NOW), {name: RULES[name]})


PRESET_LIKE = st.dictionaries(
    st.sampled_from(
        [
            *("name", "exeunit-name", "pricing-model", "initial-price", "usage-coeffs"),
            *("domain", "match", "everyone", "partner", "enabled", "identity", "certified", "mode"),
        ]
    ),
    VALUES,
)
FILES = VALUES | st.dictionaries(
    st.sampled_from(
        [
            *("ver", "active", "presets", "profiles", "node_name", "account"),
            *("blacklist", "allow-only", "outbound", "patterns"),
        ]
    ),
    VALUES | st.lists(PRESET_LIKE, max_size=3) | st.dictionaries(st.text(max_size=3), PRESET_LIKE),
)


@given(FILES)
@settings(max_examples=150)
def test_any_file_is_read_or_refused_with_its_name(content: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for name, load in (
            ("presets.json", load_presets),
            ("hardware.json", load_profiles),
            ("globals.json", load_globals),
            ("rules.json", load_access),
            ("domain_whitelist.json", load_whitelist),
        ):
            path = Path(directory, name)
            path.write_text(json.dumps(content))
            try:
                load(Path(directory))
            except UsageError as error:
                assert str(path) in error.message


AMOUNTS = st.floats(0.1, 1e6)


@given(
    st.builds(Profile, st.integers(1, 64), AMOUNTS, AMOUNTS),
    st.builds(Resources, st.integers(1, 64), AMOUNTS, AMOUNTS),
    st.integers(1, 100),
)
def test_as_many_shares_fit_as_agreements_are_allowed(
    profile: Profile, machine: Resources, agreements_max: int
) -> None:
    given_away: Capacity = capacity(profile, machine, agreements_max=agreements_max)
    promised = {str(index): given_away.share for index in range(agreements_max - 1)}

    shortage = Ledger(given_away, agreements_max, promised).shortage(given_away.share)

    tiny = min(given_away.total.memory_gib, given_away.total.storage_gib) < 0.2 * agreements_max
    assert shortage is None or tiny  # a share has at least a tenth of a GiB


@given(st.lists(st.sampled_from(list(Step)), max_size=8))
def test_the_end_of_work_only_ever_goes_forward(steps: list[Step]) -> None:
    end, order = End(), list(Phase)
    for step in steps:
        before = end.phase
        try:
            end.apply({"kind": "end", "step": step, "at": 1, "part": "files", "problem": None})
        except KeyError:
            assert end.phase is before
        else:
            assert order.index(end.phase) >= order.index(before)
