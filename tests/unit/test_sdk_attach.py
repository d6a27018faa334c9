"""Detach and attach: by id or ticket, verified, with the truth about what happened meanwhile."""

import json

import pytest

import shem
from shem.kernel.errors import UsageError
from tests.rented import (
    ACTIVITY_ID,
    AGREEMENT_ID,
    AWAY,
    HERE,
    MARKET,
    NOT_SUPPORTED_BY_YAGNA,
    PROVIDER,
    REQUESTOR,
    WASM,
    agreement,
    batch_row,
    golem,
    rentable,
    results,
)
from tests.scripted_node import APP_KEY, Answer, ok, recorded, scripted_node

RESULTS = HERE + "/*/exec/*"
TERMINATE = f"{MARKET}/agreements/*/terminate"
B1, B2 = "1" * 32, "2" * 32


async def test_detach_ends_nothing_and_gives_a_ticket_without_secrets() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            ticket = await activity.detach()

        assert node.count("DELETE", HERE + "/*") == 0
        assert node.count("POST", TERMINATE) == 0
        assert (ticket.activity_id, ticket.agreement_id) == (ACTIVITY_ID, AGREEMENT_ID)
        assert (ticket.provider_id, ticket.requestor_id) == (PROVIDER, REQUESTOR)
        assert list(ticket.cursors.values()) == [2]
        assert ticket.expires == "2026-11-24T06:00:00Z"
        assert APP_KEY not in ticket.dumps()
        assert shem.Ticket.loads(ticket.dumps()) == ticket


async def test_attach_by_id_alone_finds_all_batches_and_results() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/exec", ok([batch_row(B1), batch_row(B2, commands=3)]))
        node.answer("GET", HERE + "/*/exec/" + B1, ok(results("one")))
        node.answer("GET", HERE + "/*/exec/" + B2, ok(results("two", of=3)))
        del node._answers["GET", RESULTS]
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            report = activity.report

        assert report.alive and report.state == "Ready" and report.ended is None
        assert [(b.batch_id, b.finished) for b in report.batches] == [(B1, True), (B2, False)]
        assert [r.stdout for r in report.results] == ["one", "two"]
        assert node.count("POST", TERMINATE) == 0


async def test_a_ticket_continues_where_its_holder_stopped_reading() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/exec", ok([batch_row(B1, commands=2)]))
        node.answer("GET", RESULTS, ok(results("one", "two")))
        ticket = _ticket(cursors={B1: 1})
        async with golem(node) as session:
            activity = await session.attach(ticket)

        assert [r.stdout for r in activity.report.results] == ["two"]


async def test_attach_to_an_activity_that_has_ended_tells_how() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Terminated")))
        end = recorded("market_negotiation_rest", "GET", "/terminate/reason")
        node.answer("GET", f"{MARKET}/agreements/*/terminate/reason", end)
        node.answer("GET", HERE + "/*/exec", ok([batch_row(B1)]))
        async with golem(node) as session:
            activity = await session.attach(ACTIVITY_ID)

        ended = activity.report.ended
        assert not activity.report.alive and ended is not None
        assert (ended.by, ended.why, ended.code) == ("Requestor", "bye", "Success")
        assert len(activity.report.results) == 2


async def test_an_expired_agreement_has_ended_by_expiry() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Expired")))
        async with golem(node) as session:
            activity = await session.attach(ACTIVITY_ID)

        assert activity.report.ended == shem.Ended("Expiry", "2026-11-24T06:00:00Z", "expired")


async def test_attach_while_the_provider_is_away_is_neither_alive_nor_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shem.sdk.report.PEER_PATIENCE_S", 0.1)
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/state", AWAY)
        async with golem(node) as session:
            activity = await session.attach(ACTIVITY_ID)

        assert activity.report.liveness == "unreachable"
        assert not activity.report.alive and activity.report.ended is None


async def test_attach_at_a_yagna_works_with_what_the_ticket_knows() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/exec", NOT_SUPPORTED_BY_YAGNA)
        node.answer("GET", RESULTS, ok(results("one", "two")))
        async with golem(node) as session:
            activity = await session.attach(_ticket(cursors={B1: 1}))
            with pytest.raises(shem.NotSupported, match="yagna has none"):
                await activity.batches()

        assert not activity.report.batches_listed
        assert [r.stdout for r in activity.report.results] == ["two"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, {"message": "Not found", "code": "not-found"}),
        recorded("activity_rest", "GET", "/activity/deadbeef/state"),
    ],
)
async def test_attach_to_an_unknown_id_says_what_to_check(answer: Answer) -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/agreement", answer)
        async with golem(node) as session:
            with pytest.raises(shem.GolemError, match="is this the node that rented it"):
                await session.attach("deadbeef")


UNKNOWN_HERE = Answer(500, {"message": f"DAO error: Not found: activity {ACTIVITY_ID}"})


async def test_a_node_that_does_not_know_a_tickets_activity_takes_it_up() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/agreement", UNKNOWN_HERE)
        node.answer("POST", HERE + "/*/takeup", AWAY, ok(None))
        node.answer("GET", HERE + "/*/exec", ok([batch_row(B1)]))
        node.answer("GET", RESULTS, ok(results("one", "two")))
        async with golem(node) as session:
            activity = await session.attach(_ticket(cursors={B1: 1, B2: 0}))

        assert activity.report.alive
        body = node.made("POST", HERE + "/*/takeup")[-1].body
        assert body == {"agreementId": AGREEMENT_ID, "providerId": PROVIDER}
        found = [(b.batch_id, b.commands, len(b.results)) for b in activity.report.batches]
        assert found == [(B1, 1, 1), (B2, None, 2)]  # the second is known by the ticket alone


@pytest.mark.parametrize("answer", [NOT_SUPPORTED_BY_YAGNA, Answer(405, b"")])
async def test_a_yagna_that_does_not_know_it_takes_nothing_up(answer: Answer) -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/agreement", UNKNOWN_HERE)
        node.answer("POST", HERE + "/*/takeup", answer)
        async with golem(node) as session:
            with pytest.raises(shem.GolemError, match="knows no activity"):
                await session.attach(_ticket())


async def test_a_ticket_of_another_identity_is_not_taken_up() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/agreement", UNKNOWN_HERE)
        async with golem(node) as session:
            with pytest.raises(shem.GolemError, match="same identity"):
                await session.attach(_ticket(requestor_id=PROVIDER))
        assert node.count("POST", HERE + "/*/takeup") == 0


async def test_a_ticket_of_another_agreement_is_refused() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            with pytest.raises(shem.GolemError, match="does not fit"):
                await session.attach(_ticket(provider_id="0x" + "1" * 40))


async def test_attached_with_on_exit_end_it_ends_with_the_block() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.attach(ACTIVITY_ID, on_exit="end"):
            pass

        assert node.count("DELETE", HERE + "/*") == 1
        assert node.count("POST", TERMINATE) == 1


async def test_terminating_what_has_ended_is_harmless() -> None:
    async with scripted_node() as node:
        rentable(node)
        gone = recorded("sdk_golem_core_run", "POST", "/terminate", status=410)
        node.answer("POST", TERMINATE, gone)
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            await activity.agreement.terminate("done")

        assert node.made("POST", TERMINATE)[0].body == {"message": "done"}


async def test_tickets_come_from_the_node_when_the_program_kept_no_notes() -> None:
    async with scripted_node() as node:
        rentable(node)
        rows = [
            {"id": AGREEMENT_ID, "timestamp": "t", "approvedDate": None, "role": role}
            for role in ("Requestor", "Provider")
        ]
        node.answer("GET", f"{MARKET}/agreements", ok(rows))
        async with golem(node) as session:
            (ticket,) = await session.tickets()

        assert ticket.activity_id == ACTIVITY_ID and ticket.cursors == {}


async def test_batches_lists_what_the_node_knows() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/exec", ok([batch_row(B1), batch_row(B2, "unknown", 4)]))
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            infos = await activity.batches()

        assert [(i.batch.id, i.state, i.commands) for i in infos] == [
            (B1, "accepted", 1),
            (B2, "unknown", 4),
        ]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '{"version":1}', "null", "x" * 2_000_000],
)
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="ticket"):
        shem.Ticket.loads(text)


def test_a_ticket_of_a_later_version_is_refused() -> None:
    later = {**json.loads(_ticket().dumps()), "version": 2}
    with pytest.raises(UsageError, match="version 2"):
        shem.Ticket.loads(json.dumps(later))


def _ticket(**changes: object) -> shem.Ticket:
    fields: dict[str, object] = {
        "activity_id": ACTIVITY_ID,
        "agreement_id": AGREEMENT_ID,
        "provider_id": PROVIDER,
        "requestor_id": REQUESTOR,
        "app": "test",
        **changes,
    }
    return shem.Ticket(**fields)  # type: ignore[arg-type]
