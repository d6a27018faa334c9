"""A scripted node at which one activity is rented: the answers that most SDK tests start from."""

from typing import Any

import shem
from tests.scripted_node import APP_KEY, Answer, Call, ScriptedNode, ok

MARKET = "/market-api/v1"
HERE = "/activity-api/v1/activity"
REQUESTOR = "0x" + "a" * 40
PROVIDER = "0x" + "b" * 40
AGREEMENT_ID = "c" * 64
ACTIVITY_ID = "d" * 32
WASM = shem.WasmPackage(url="http://127.0.0.1:1/tool.zip", hash="sha3:" + "0" * 56)
NOT_SUPPORTED_BY_YAGNA = Answer(404, b"")
GONE = Answer(
    500,
    {"message": "GSB error: … GSB failure: Bad request: endpoint address not found"},
)
AWAY = Answer(500, {"message": "the provider is away", "code": "peer-unreachable"})


def golem(node: ScriptedNode, **options: Any) -> shem.Golem:
    return shem.Golem(
        "test", api_url=node.url, app_key=APP_KEY, **{"subnet": "s", "patience": 5.0, **options}
    )


def offer(**changes: Any) -> dict[str, Any]:
    return {
        "golem.com.payment.platform.erc20-hoodi-tglm.address": PROVIDER,
        "golem.com.pricing.model.linear.coeffs": [0.0, 0.0, 0.0],
        "golem.com.payment.debit-notes.accept-timeout?": 240,
        **changes,
    }


def proposal(name: str, *, prev: str | None = None, **changes: Any) -> dict[str, Any]:
    made = {
        "properties": offer(**changes),
        "constraints": "()",
        "proposalId": name,
        "issuerId": PROVIDER,
        "state": "Draft" if prev else "Initial",
        "timestamp": "2026-11-23T20:09:07Z",
    }
    if prev:
        made["prevProposalId"] = prev
    return {"eventType": "ProposalEvent", "eventDate": "2026-11-23T20:09:07Z", "proposal": made}


def agreement(state: str = "Approved") -> dict[str, Any]:
    times = {"validTo": "2026-11-23T20:10:07Z", "timestamp": "2026-11-23T20:09:07Z"}
    demand = {"golem.srv.comp.expiration": 1795500000000}
    return {
        "agreementId": AGREEMENT_ID,
        "demand": {
            "properties": demand,
            "constraints": "()",
            "demandId": "e",
            "requestorId": REQUESTOR,
            "timestamp": "2026-11-23T20:09:07Z",
        },
        "offer": {
            "properties": offer(),
            "constraints": "()",
            "offerId": "f",
            "providerId": PROVIDER,
            "timestamp": "2026-11-23T20:09:07Z",
        },
        "state": state,
        **times,
    }


def results(*outputs: str, of: int | None = None, fails: bool = False) -> list[dict[str, Any]]:
    """Return the results of `outputs`, as a batch of `of` commands (default: all of them)."""
    total = len(outputs) if of is None else of
    return [
        {
            "index": index,
            "result": "Error" if fails and index == len(outputs) - 1 else "Ok",
            "stdout": output,
            "stderr": None,
            "message": "ExeScript command exited with code 3" if fails else None,
            "isBatchFinished": index == total - 1,
            "eventDate": "2026-11-23T20:10:00Z",
        }
        for index, output in enumerate(outputs)
    ]


def batch_row(batch_id: str, state: str = "accepted", commands: int = 1) -> dict[str, Any]:
    return {"batchId": batch_id, "state": state, "commands": commands, "resultsStored": 0}


def accept_batch(call: Call) -> Answer:
    """Answer an exec as a shem node does: with the client's own batch id."""
    return ok(call.body["batchId"])


def rentable(node: ScriptedNode) -> ScriptedNode:
    """Script a node whose market leads to an agreement and an activity that works."""
    node.answer("GET", "/me", ok({"identity": REQUESTOR, "name": "x", "role": "manager"}))
    node.answer("POST", f"{MARKET}/demands", Answer(201, "demand"))
    node.answer("DELETE", f"{MARKET}/demands/*", Answer(204))
    node.answer(
        "GET",
        f"{MARKET}/demands/*/events",
        ok([proposal("R-1")]),
        ok([proposal("R-3", prev="R-2")]),
        ok([]),
    )
    node.answer("POST", f"{MARKET}/demands/*/proposals/*", ok("R-2"))
    node.answer("POST", f"{MARKET}/agreements", ok(AGREEMENT_ID))
    node.answer("POST", f"{MARKET}/agreements/*/confirm", Answer(204))
    node.answer("POST", f"{MARKET}/agreements/*/wait", Answer(204))
    node.answer("GET", f"{MARKET}/agreements/*", ok(agreement()))
    node.answer("POST", f"{MARKET}/agreements/*/terminate", ok(b""))
    node.answer("POST", HERE, ok({"activityId": ACTIVITY_ID}))
    node.answer("GET", HERE, ok([ACTIVITY_ID]))
    node.answer("GET", HERE + "/*/agreement", ok(AGREEMENT_ID))
    node.answer("GET", HERE + "/*/state", ok({"state": ["Ready", None]}))
    node.answer("POST", HERE + "/*/exec", accept_batch)
    node.answer("GET", HERE + "/*/exec", ok([]))
    node.answer("GET", HERE + "/*/exec/*", ok(results("deployed", "started")))
    node.answer("DELETE", HERE + "/*", ok(None))
    return node
