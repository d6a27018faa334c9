"""A negotiation of our node with a real yagna is, message by message, that of two yagnas.

The golden recording is of two yagnas; ours must have the same messages in the same order, with the
same members of the same types, and ids that carry the same letters. With SHEM_RECORD=DIR in the
environment both dialogues are written there.
"""

import json
import os
from itertools import groupby
from pathlib import Path

import pytest

from shem.kernel.world import World
from shem.market.messages import OFFERS_TOPIC
from shem.relay.service import Relay
from shem.rest.client import RestClient
from tests.interop.deal import Deal, Party
from tests.interop.real_yagna import real_yagna
from tests.interop.tap import APP_KEY, tapped_node

RECORDINGS = Path(__file__).parent.parent / "vectors" / "recordings"
GOLDEN = RECORDINGS / "market_negotiation_gsb.jsonl"
PROTOCOL = "/market/protocol/mk1/"
END = {"message": "bye", "golem.requestor.code": "Success"}


def shape_of(value):
    """Return types instead of values; of an id also its letter."""
    if isinstance(value, dict):
        return {name: shape_of(value[name]) for name in sorted(value)}
    if isinstance(value, list):  # a busy yagna may say an offer's id twice
        return [shape for shape, _ in groupby(map(shape_of, value))]
    if isinstance(value, str) and value[1:2] == "-":
        return value[:2]
    return type(value).__name__


def dialogue(lines, requestor):
    """Return the market's messages in order, each as (who, what, shape)."""
    names = {}
    found = []
    for line in lines:
        who = "R" if line["from"] == requestor else "P"
        if line["kind"] == "broadcast" and line["topic"] == OFFERS_TOPIC:
            found.append((who, "offers", shape_of(line["data"])))
        elif line["kind"] == "call" and PROTOCOL in line["address"]:
            name = line["address"].partition(PROTOCOL)[2]
            names[line["request_id"]] = name
            found.append((who, name, shape_of(line["data"])))
        elif line["kind"] == "reply" and line["request_id"] in names:
            assert (line["code"], line["reply_type"]) == (0, "FULL")
            found.append((who, f"reply to {names[line['request_id']]}", shape_of(line["data"])))
    # An offer may be announced again; what goes on meanwhile must not.
    return [each for index, each in enumerate(found) if each[1] != "offers" or index == 0]


@pytest.mark.parametrize("ours", ["requestor", "provider"])
async def test_our_dialogue_with_a_yagna_is_that_of_two_yagnas(tmp_path, ours):
    async with (
        Relay(World(), ("127.0.0.1", 0)) as relay,
        tapped_node(tmp_path / "shem", relay.address) as tap,
        real_yagna(tmp_path / "yagna", relay.address) as yagna,
        RestClient(tap.api_url, APP_KEY) as our_rest,
        RestClient(yagna.api_url, yagna.app_key) as their_rest,
    ):
        us, them = Party(None, our_rest), Party(yagna, their_rest)
        deal = Deal(*((us, them) if ours == "requestor" else (them, us)), "s3")
        tap.lines.clear()
        await deal.to_approved()
        await deal.requestor.market.agreements.terminate(deal.agreement_id, END)
        await deal.both("Terminated")
        nodes = {"requestor": tap.node_id, "provider": yagna.node_id}
        if ours == "provider":
            nodes = {"requestor": yagna.node_id, "provider": tap.node_id}

    header, *golden = map(json.loads, GOLDEN.read_text().splitlines())
    expected = dialogue(golden, header["parties"]["requestor"])
    assert dialogue(tap.lines, nodes["requestor"]) == expected
    assert len(expected) == 15
    if directory := os.environ.get("SHEM_RECORD"):
        words = (
            "a node of ours (shem) and a yagna 0.17.6 over the hybrid net: one whole negotiation"
        )
        path = Path(directory) / f"market_shem_{ours}_gsb.jsonl"
        tap.write(path, f"{words}; the {ours} is ours", parties=nodes)
