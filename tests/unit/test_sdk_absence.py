"""How long one may be away: told by a shem node, computed from the terms at any other."""

from decimal import Decimal
from typing import Any

import pytest

import shem
from shem.kernel.times import parse
from shem.rest.terms import (
    ABSENCE_TERM,
    ACCEPT_TIMEOUT,
    COEFFICIENTS,
    DEBIT_NOTES,
    ENDS_ITSELF,
    EXPIRATION,
    EXPIRES,
    MAX_ABSENCE,
    NOTE_INTERVAL,
    RETENTION,
    USAGE_VECTOR,
    amount_due,
    limits,
    nearest,
    results_until,
)
from tests.rented import (
    ACTIVITY_ID,
    AGREEMENT_ID,
    HERE,
    MARKET,
    NOT_SUPPORTED_BY_YAGNA,
    agreement,
    golem,
    rentable,
)
from tests.scripted_node import ok, recorded, scripted_node

NOW_NS = 1_795_000_000 * 10**9
DEMAND = {EXPIRATION: 1_795_003_600_000}
PRICED: dict[str, Any] = {
    COEFFICIENTS: [0.001, 0.0, 0.5],
    USAGE_VECTOR: ["golem.usage.cpu_sec", "golem.usage.duration_sec"],
}


def limited_by(offer: dict[str, Any]) -> tuple[str, float]:
    found = nearest(limits(DEMAND, offer), NOW_NS)
    assert found is not None
    return found[0].kind, found[1]


@pytest.mark.parametrize(
    ("offer", "kind", "seconds"),
    [
        ({}, EXPIRES, 3600),
        ({MAX_ABSENCE: 600}, ABSENCE_TERM, 600),
        ({MAX_ABSENCE: 7200}, EXPIRES, 3600),
        ({**PRICED, ACCEPT_TIMEOUT: 240, NOTE_INTERVAL: 120}, DEBIT_NOTES, 360),
        ({COEFFICIENTS: [0.0, 0.0, 0.0], ACCEPT_TIMEOUT: 240}, EXPIRES, 3600),
        ({MAX_ABSENCE: "soon", ACCEPT_TIMEOUT: True}, EXPIRES, 3600),
    ],
)
def test_the_nearest_term_that_ends_the_activity_limits(
    offer: dict[str, Any], kind: str, seconds: float
) -> None:
    assert limited_by(offer) == (kind, seconds)


def test_without_an_expiration_and_terms_nothing_limits() -> None:
    assert nearest(limits({}, {}), NOW_NS) is None


@pytest.mark.parametrize("moment", ["tomorrow", -1, float("inf"), True, None])
def test_an_expiration_that_is_no_time_is_no_limit(moment: object) -> None:
    assert nearest(limits({EXPIRATION: moment}, {}), NOW_NS) is None


def test_an_expiration_in_the_past_leaves_no_time() -> None:
    assert nearest(limits({EXPIRATION: 1}, {}), NOW_NS) == (limits({EXPIRATION: 1}, {})[0], 0.0)


def test_work_that_ends_by_itself_says_so_and_limits_nobodys_absence() -> None:
    demand = {**DEMAND, "golem.srv.end-when.idle-sec": 60, "golem.srv.end-when.exit": True}

    found = limits(demand, {})

    [limit] = [each for each in found if each.kind == ENDS_ITSELF]
    assert limit.text.endswith("exit True, idle-sec 60")
    first = nearest(found, NOW_NS)
    assert first is not None
    assert first[0].kind == EXPIRES
    odd = {**DEMAND, "golem.srv.end-when.idle-sec": "soon"}
    assert ENDS_ITSELF not in {each.kind for each in limits(odd, {})}


def test_results_are_kept_as_long_as_was_agreed() -> None:
    assert results_until(limits(DEMAND, {})) == "2026-11-18T12:06:40Z"
    assert results_until(limits(DEMAND, {RETENTION: 604_800})) == "2026-11-25T12:06:40Z"


def test_after_an_early_end_they_are_kept_from_then_on() -> None:
    ended_ns = parse("2026-11-18T10:00:00Z")
    found = limits(DEMAND, {RETENTION: 3_600}, ended_ns)
    assert results_until(found) == "2026-11-18T11:00:00Z"
    late_ns = parse("2026-11-19T10:00:00Z")
    assert results_until(limits(DEMAND, {RETENTION: 3_600}, late_ns)) == "2026-11-18T13:06:40Z"


@pytest.mark.parametrize(
    ("usage", "amount"),
    [([1000.0, 5.0], "1.5"), (None, "0.5"), ([], "0.5"), ([1e-7, 0.0], "0.5000000001")],
)
def test_the_amount_due_is_usage_times_price(usage: list[float] | None, amount: str) -> None:
    due = amount_due(PRICED, usage)
    assert due is not None and due.is_estimate and due.amount == amount


@pytest.mark.parametrize(
    ("offer", "usage"),
    [
        ({}, None),
        ({COEFFICIENTS: [1.0]}, None),
        ({**PRICED, COEFFICIENTS: [1.0]}, None),
        ({**PRICED, COEFFICIENTS: ["a", 1.0, 1.0]}, None),
        (PRICED, [1.0]),
        (PRICED, [float("nan"), 1.0]),
    ],
)
def test_what_cannot_be_computed_is_not_guessed(
    offer: dict[str, Any], usage: list[float] | None
) -> None:
    assert amount_due(offer, usage) is None


def standing(**changes: Any) -> dict[str, Any]:
    return {
        "activityId": ACTIVITY_ID,
        "agreementId": AGREEMENT_ID,
        "alive": True,
        "seconds": 90.0,
        "until": "2026-11-23T20:11:30Z",
        "limitedBy": "absence-term",
        "limits": [
            {"kind": "absence-term", "effect": "ends-activity", "afterSec": 90.0, "text": "t"}
        ],
        "due": {"amount": "0.25", "isEstimate": True, "usage": {"golem.usage.cpu_sec": 1.0}},
        **changes,
    }


async def test_attach_reports_what_the_node_says_of_absence_and_debt() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/absence", ok(standing()))
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            report = activity.report
            again = await activity.absence()

    assert report.absence == again
    assert (report.absence.seconds, report.absence.limited_by) == (90.0, "absence-term")
    assert report.due is not None and report.due.amount == Decimal("0.25")
    assert str(report.due) == "0.25 GLM (estimate)"


async def test_at_a_yagna_absence_and_debt_come_from_the_agreement() -> None:
    async with scripted_node() as node:
        rentable(node)
        terms = agreement()
        terms["offer"]["properties"] |= PRICED
        terms["demand"]["properties"][EXPIRATION] = 4_000_000_000_000
        node.answer("GET", f"{MARKET}/agreements/*", ok(terms))
        node.answer("GET", HERE + "/*/absence", NOT_SUPPORTED_BY_YAGNA)
        node.answer("GET", HERE + "/*/usage", ok({"currentUsage": [1000.0, 9.0], "timestamp": 1}))
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            report = activity.report

    assert report.absence.limited_by == "debit-notes"
    assert report.due is not None and report.due.amount == Decimal("1.5")


async def test_an_activity_that_its_provider_ended_says_so() -> None:
    async with scripted_node() as node:
        rentable(node)
        ended = {"by": "Provider", "at": "2026-11-23T20:10:00Z", "why": "execution aborted"}
        node.answer("GET", HERE + "/*/state", ok({"state": ["Terminated", None]}))
        node.answer("GET", HERE + "/*/absence", ok(standing(alive=False, ended=ended)))
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            report = activity.report
            with pytest.raises(shem.ActivityGone, match=r"by Provider .*execution aborted"):
                await activity.raise_if_gone()

    assert report.ended == shem.Ended("Provider", "2026-11-23T20:10:00Z", "execution aborted")
    assert report.absence.seconds is None and str(report.absence) == "nothing limits it"


async def test_an_agreement_that_expired_was_ended_by_its_terms() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Terminated")))
        end = recorded("market_negotiation_rest", "GET", "/terminate/reason")
        end.body["terminator"] = "Provider"
        end.body["reason"] = {"message": "over", "golem.provider.code": "Expired"}
        node.answer("GET", f"{MARKET}/agreements/*/terminate/reason", end)
        async with golem(node) as session, session.attach(ACTIVITY_ID) as activity:
            ended = activity.report.ended

    assert ended is not None and (ended.by, ended.code) == ("Expiry", "Expired")
