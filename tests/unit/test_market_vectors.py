"""What the real daemon was observed to do: flattening, hashes, ids, constraints, messages."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from shem.kernel.errors import PeerError, UsageError
from shem.kernel.times import parse
from shem.market import messages
from shem.market.constraints import ConstraintError, parse_constraints
from shem.market.ids import (
    hashed_time,
    negotiation_hash,
    parse_agreement_id,
    parse_proposal_id,
    parse_subscription_id,
    subscription_hash,
)
from shem.market.messages import decode, encode
from shem.market.properties import flat_text
from shem.market.resolve import Truth, resolve, typed_properties
from shem.wire.flexbuffers import unpack

VECTORS = Path(__file__).parents[1] / "vectors"
CONSTRAINTS = json.loads((VECTORS / "constraints.json").read_text())
IDS = json.loads((VECTORS / "ids.json").read_text())
KINDS = {
    kind.NAME: kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and hasattr(kind, "NAME")
}
SYNTAX = {
    "subscription id": parse_subscription_id,
    "proposal id": parse_proposal_id,
    "agreement id": parse_agreement_id,
}


@pytest.mark.parametrize("entry", CONSTRAINTS["flattening_entries"], ids=lambda e: e["text"][:40])
def test_properties_flatten_to_the_hashed_text(entry: dict[str, Any]) -> None:
    assert flat_text(entry["input"]) == entry["text"]


def test_the_whole_property_set_flattens_to_its_text() -> None:
    assert flat_text(CONSTRAINTS["properties_input"]) == CONSTRAINTS["properties_flat_text"]


@pytest.mark.parametrize("entry", CONSTRAINTS["entries"], ids=lambda e: e["constraint"][:60])
def test_constraint_resolves_as_observed(entry: dict[str, Any]) -> None:
    properties = typed_properties(CONSTRAINTS["properties_flat_text"])
    if entry["expected"] == "error":
        with pytest.raises(ConstraintError):
            parse_constraints(entry["constraint"])
        return

    truth = resolve(parse_constraints(entry["constraint"]), properties).truth

    assert (truth is Truth.TRUE) == (entry["expected"] == "match")
    assert entry.get("value") in (None, truth.value)


@pytest.mark.parametrize("entry", IDS["timestamps"], ids=lambda e: e["ts"])
def test_times_are_hashed_without_their_seconds(entry: dict[str, Any]) -> None:
    assert hashed_time(parse(entry["timestamp"])) == entry["ts"]


@pytest.mark.parametrize("entry", IDS["subscriptions"], ids=lambda e: e["id"][-12:])
def test_subscription_ids_recompute(entry: dict[str, Any]) -> None:
    computed = subscription_hash(
        entry["properties"],
        entry["constraints"],
        entry["node_id"],
        parse(entry["creation"]),
        parse(entry["expiration"]),
    )
    assert entry["id"].rpartition("-")[2] == computed


@pytest.mark.parametrize("entry", IDS["proposals_and_agreements"], ids=lambda e: e["hash"][:12])
def test_proposal_and_agreement_ids_recompute(entry: dict[str, Any]) -> None:
    created_ns = parse(entry["creation"])
    assert negotiation_hash(entry["offer_id"], entry["demand_id"], created_ns) == entry["hash"]


@pytest.mark.parametrize("entry", IDS["rejected_offers"], ids=lambda e: e["id"][:12])
def test_a_forged_offer_id_does_not_recompute(entry: dict[str, Any]) -> None:
    computed = subscription_hash(
        entry["properties"],
        entry["constraints"],
        entry["node_id"],
        parse(entry["creation"]),
        parse(entry["expiration"]),
    )
    assert entry["id"].rpartition("-")[2] != computed == entry["expected_hash"]


@pytest.mark.parametrize(
    "entry", [e for e in IDS["syntax"] if e["kind"] in SYNTAX], ids=lambda e: e["text"][:20]
)
def test_id_syntax_and_words_are_the_daemons(entry: dict[str, Any]) -> None:
    parser = SYNTAX[entry["kind"]]
    if entry["valid"]:
        assert parser(entry["text"]) == entry["text"]  # type: ignore[operator]
        return
    with pytest.raises(UsageError) as caught:
        parser(entry["text"])  # type: ignore[operator]
    assert entry["message"].removeprefix("Path deserialize error: ") == caught.value.message


def recorded_calls() -> list[dict[str, Any]]:
    found = []
    for path in sorted((VECTORS / "recordings").glob("market_*_gsb.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            name = entry.get("address", "").rpartition("/")[2]
            if entry.get("kind") == "call" and name in KINDS:
                found.append(entry)
    return found


@pytest.mark.parametrize("entry", recorded_calls(), ids=lambda e: e["request_id"])
def test_recorded_messages_survive_decoding_and_encoding(entry: dict[str, Any]) -> None:
    document = unpack(bytes.fromhex(entry["hex"]))
    kind = KINDS[entry["address"].rpartition("/")[2]]

    assert encode(decode(kind, document)) == document


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("wrong", [None, 5, [], {"proposal": 1}, b"\x00", {"message": {}}])
def test_malformed_messages_raise_peer_errors(kind: Any, wrong: object) -> None:
    optional = {"Query"}
    if kind.NAME in optional and isinstance(wrong, dict):
        return
    assert fields(kind)
    with pytest.raises(PeerError):
        decode(kind, wrong)
