"""The REST client reads what a real yagna 0.17.6 answered, and tells answers from silence."""

import socket
import subprocess
import sys

import pytest

from shem.kernel.errors import ShemError
from shem.rest import ApiError, Disconnected, RestClient
from shem.rest.models import ActivityState, AgreementEvent, ProposalEvent
from tests.scripted_node import APP_KEY, LOST, Answer, ok, recorded, scripted_node

NEGOTIATION = "market_negotiation_rest"
ACTIVITY = "activity_rest"
DEMAND = "/market-api/v1/demands"
AGREEMENTS = "/market-api/v1/agreements"
HERE = "/activity-api/v1/activity"
NEW_DEMAND = {"properties": {"a": 1}, "constraints": "(b=2)"}


async def test_a_requestors_negotiation_as_yagna_answers_it() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        node.answer("POST", DEMAND, recorded(NEGOTIATION, "POST", "/demands"))
        node.answer("GET", DEMAND, recorded(NEGOTIATION, "GET", "/demands"))
        node.answer(
            "GET",
            DEMAND + "/*/events",
            recorded(NEGOTIATION, "GET", "/events"),
            recorded(NEGOTIATION, "GET", "/events", nth=1),
        )
        node.answer("POST", AGREEMENTS, recorded(NEGOTIATION, "POST", "/agreements"))
        node.answer("POST", AGREEMENTS + "/*/confirm", Answer(204))
        node.answer("GET", AGREEMENTS + "/*", recorded(NEGOTIATION, "GET", "/agreements/*", nth=1))

        demand_id = await rest.market.demands.publish({"a": 1}, "(b=2)")
        (initial,) = await rest.market.demands.events(demand_id, timeout_s=70, max_events=5)
        (draft,) = await rest.market.demands.events(demand_id)
        agreement_id = await rest.market.agreements.create("R-1", "2026-11-23T20:10:07Z")
        await rest.market.agreements.confirm(agreement_id, app_session_id="sess1")
        agreement = await rest.market.agreements.get(agreement_id)

        assert [d.demand_id for d in await rest.market.demands.mine()] == [demand_id]
        assert isinstance(initial, ProposalEvent) and isinstance(draft, ProposalEvent)
        assert (initial.proposal.state, initial.proposal.prev_proposal_id) == ("Initial", None)
        assert draft.proposal.state == "Draft" and draft.proposal.prev_proposal_id
        assert agreement.state == "Approved" and agreement.agreement_id == agreement_id
        assert agreement.offer.properties["golem.com.pricing.model"] == "linear"
        assert node.calls[0].body == NEW_DEMAND
        assert node.made("GET", DEMAND + "/*/events")[0].query == {
            "timeout": "70",
            "maxEvents": "5",
        }
        assert node.made("POST", AGREEMENTS + "/*/confirm")[0].query == {"appSessionId": "sess1"}


async def test_a_provider_sees_the_agreement_and_its_end() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        events = recorded(NEGOTIATION, "GET", "/offers/*/events", node="provider", nth=1)
        node.answer("GET", "/market-api/v1/offers/*/events", events)
        node.answer(
            "GET",
            "/market-api/v1/agreementEvents",
            recorded(NEGOTIATION, "GET", "/agreementEvents", node="provider", nth=1),
        )
        node.answer(
            "GET",
            AGREEMENTS + "/*/terminate/reason",
            recorded(NEGOTIATION, "GET", "/terminate/reason", node="provider"),
        )
        node.answer("GET", AGREEMENTS, recorded(NEGOTIATION, "GET", "/agreements", node="provider"))

        (event,) = await rest.market.offers.events("o")
        approved, terminated = await rest.market.agreements.events(after="2026-11-23T20:00:00Z")
        end = await rest.market.agreements.termination("a")
        (entry,) = await rest.market.agreements.find(state="Terminated")

        assert isinstance(event, AgreementEvent) and event.agreement.state == "Pending"
        assert approved.event_type == "AgreementApprovedEvent"
        assert terminated.terminator == end.terminator == "Requestor"
        assert end.reason == {"message": "bye", "golem.requestor.code": "Success"}
        assert entry.role == "Provider"


async def test_an_activity_from_both_sides_as_yagna_answers_it() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        created = recorded(ACTIVITY, "POST", "/activity", status=200)
        node.answer("POST", HERE, created)
        node.answer("GET", HERE, recorded(ACTIVITY, "GET", "/activity"))
        node.answer("GET", HERE + "/*/state", recorded(ACTIVITY, "GET", "/state"))
        node.answer("GET", HERE + "/*/usage", recorded(ACTIVITY, "GET", "/usage"))
        node.answer("GET", HERE + "/*/agreement", recorded(ACTIVITY, "GET", "/agreement"))
        node.answer("POST", HERE + "/*/exec", recorded(ACTIVITY, "POST", "/exec", status=200))
        node.answer("GET", HERE + "/*/exec/*", recorded(ACTIVITY, "GET", "/exec/*", status=200))
        node.answer("DELETE", HERE + "/*", recorded(ACTIVITY, "DELETE", "/activity/*"))
        node.answer("PUT", HERE + "/*/state", ok(None))
        node.answer(
            "GET",
            "/activity-api/v1/events",
            recorded(ACTIVITY, "GET", "/events", status=200, node="provider"),
        )

        activity_id = await rest.activity.create("a" * 64, intent_id="i1", timeout_s=30)
        batch_id = await rest.activity.exec(activity_id, "[]", batch_id="b" * 32)
        results = await rest.activity.results(activity_id, batch_id)
        state = await rest.activity.state(activity_id)
        usage = await rest.activity.usage(activity_id)
        agreement_id = await rest.activity.agreement(activity_id)
        await rest.activity.set_state(activity_id, ActivityState(("Ready", None), reason="why"))
        await rest.activity.destroy(activity_id)
        (event,) = await rest.activity.events(after="2026-11-23T20:28:55Z", timeout_s=15)

        assert {"activityId": activity_id} == created.body
        assert node.calls[0].body == {"agreementId": "a" * 64, "intentId": "i1"}
        assert node.made("POST", HERE + "/*/exec")[0].body == {"text": "[]", "batchId": "b" * 32}
        assert results[0].stdout == "out0\n" and results[-1].is_batch_finished
        assert state.alive and state.current == "Initialized"
        assert usage.current_usage == [1.0026848316192627, 0.5]
        assert await rest.activity.of_agreement(agreement_id) == [
            "5efdcc4dfab3466dbc50af9cbb69bc42"
        ]
        assert node.made("PUT", HERE + "/*/state")[0].body == {
            "state": ["Ready", None],
            "reason": "why",
        }
        assert event.kind == "CreateActivity"


async def test_a_provider_event_poll_that_timed_out_is_an_empty_list() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        node.answer(
            "GET",
            "/activity-api/v1/events",
            recorded(ACTIVITY, "GET", "/events", status=408, node="provider"),
        )

        assert await rest.activity.events(after="2026-11-23T20:28:55Z") == []


async def test_unknown_kinds_of_events_are_skipped() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        query = {"eventType": "PropertyQueryEvent", "eventDate": "2026-11-23T20:00:00Z"}
        rejected = {
            "eventType": "ProposalRejectedEvent",
            "eventDate": "2026-11-23T20:00:00Z",
            "proposalId": "R-1",
        }
        node.answer("GET", DEMAND + "/*/events", ok([query, rejected]))

        (event,) = await rest.market.demands.events("d")

        assert event.event_date == "2026-11-23T20:00:00Z"


@pytest.mark.parametrize(
    ("answer", "status", "code", "word"),
    [
        (recorded(ACTIVITY, "GET", "/exec/nobatch"), 404, "not-found", "batch_id = nobatch"),
        (recorded(ACTIVITY, "GET", "/exec/*", status=408), 408, "timeout", "Timeout"),
        (recorded(ACTIVITY, "GET", "/exec/*", status=403), 403, "forbidden", "Forbidden: f"),
        (recorded(ACTIVITY, "GET", "/command"), 500, "endpoint-gone", "address not found"),
        (recorded(ACTIVITY, "GET", "/state", status=500, nth=1), 500, "peer-unreachable", "GSB"),
        (recorded(ACTIVITY, "GET", "/state", status=500), 500, "internal", "DAO error"),
        (Answer(401, b"Invalid application key"), 401, "unauthorized", "Invalid application key"),
        (Answer(404, b""), 404, "no-such-path", "no such endpoint"),
        (Answer(500, {"message": "x", "code": "storage"}), 500, "storage", "x"),
        (Answer(500, {"message": None}), 500, "internal", "no message"),
    ],
)
async def test_error_answers_keep_status_message_and_code(
    answer: Answer, status: int, code: str, word: str
) -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        node.answer("GET", HERE + "/*/state", answer)

        with pytest.raises(ApiError, match=word) as caught:
            await rest.activity.state("x")

        assert (caught.value.status, caught.value.code) == (status, code)


async def test_a_node_that_is_not_there_was_sent_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with RestClient(url, APP_KEY) as rest:
            with pytest.raises(Disconnected, match="it was not sent") as caught:
                await rest.activity.exec("x", "[]")

    assert not caught.value.sent


async def test_after_a_broken_connection_it_is_unknown_whether_it_happened() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        node.answer("POST", HERE + "/*/exec", LOST)

        with pytest.raises(Disconnected, match="unknown whether it happened") as caught:
            await rest.activity.exec("x", "[]")

    assert caught.value.sent
    assert node.count("POST", HERE + "/*/exec") == 1


@pytest.mark.parametrize("body", [b"<html>", {"state": "Ready"}, {"state": ["Ready"]}, None, [1]])
async def test_an_answer_of_another_form_is_an_error_not_a_crash(body: object) -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        node.answer("GET", HERE + "/*/state", ok(body))

        with pytest.raises(ApiError) as caught:
            await rest.activity.state("x")

    assert caught.value.code == "unexpected-answer"


async def test_ids_cannot_escape_their_place_in_the_path() -> None:
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as rest:
        with pytest.raises(ApiError):
            await rest.activity.state("x?y=/../..")

        assert node.calls[0].path == HERE + "/x?y=/../../state"
        assert node.calls[0].query == {"timeout": "5.0"}


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(ShemError, match="async with"):
        await RestClient("http://127.0.0.1:1", APP_KEY).identity.me()


def test_importing_the_client_loads_neither_the_daemon_nor_aiohttp() -> None:
    script = (
        "import sys, shem, shem.rest; shem.Golem, shem.Ticket, shem.AttachReport;"
        "heavy = {'aiohttp', 'starlette', 'uvicorn', 'apsw', 'structlog', 'coincurve', 'wasmtime'};"
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
