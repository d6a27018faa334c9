"""Renting: from a demand to a started activity, and what is left when a step fails."""

import asyncio

import pytest

import shem
from shem.kernel.errors import UsageError
from shem.kernel.world import SystemClock, World
from tests.rented import (
    ACTIVITY_ID,
    AGREEMENT_ID,
    HERE,
    MARKET,
    PROVIDER,
    REQUESTOR,
    WASM,
    agreement,
    golem,
    proposal,
    rentable,
    results,
)
from tests.scripted_node import LOST, Answer, ok, scripted_node

CONFIRM = f"{MARKET}/agreements/*/confirm"
CANCEL = f"{MARKET}/agreements/*/cancel"
TERMINATE = f"{MARKET}/agreements/*/terminate"
WAIT = f"{MARKET}/agreements/*/wait"
NOT_YET = Answer(408, {"message": "Timeout while waiting for Agreement"})


class HurriedClock(SystemClock):
    """A clock on which every pause is over at once."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        self.ahead_s += seconds
        await asyncio.sleep(0)


async def test_rent_run_and_leave_ends_what_it_started() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session, session.rent(WASM) as activity:
            node.answer("GET", HERE + "/*/exec/*", ok(results("hello\n")))
            result = await activity.run("mandel", "render", "78", "24")

        assert (result.ok, result.stdout, result.stderr) == (True, "hello\n", "")
        assert (activity.id, activity.agreement.id) == (ACTIVITY_ID, AGREEMENT_ID)
        assert activity.report.alive and activity.report.provider_id == PROVIDER
        assert node.count("DELETE", HERE + "/*") == 1
        assert node.made("POST", TERMINATE)[0].body["message"] == "Finished"
        assert node.count("DELETE", f"{MARKET}/demands/*") == 1


async def test_the_demand_names_what_a_real_one_does() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            await session.rent(WASM)

        demand = node.made("POST", f"{MARKET}/demands")[0].body
        counter = node.made("POST", f"{MARKET}/demands/*/proposals/*")[0].body
        task = demand["properties"]["golem.srv.comp.task_package"]
        assert task == f"hash:sha3:{'0' * 56}:http://127.0.0.1:1/tool.zip"
        assert demand["properties"]["golem.node.debug.subnet"] == "s"
        assert (
            demand["properties"]["golem.com.payment.platform.erc20-hoodi-tglm.address"] == REQUESTOR
        )
        assert "(golem.runtime.name=wasmtime)" in demand["constraints"]
        assert counter["properties"]["golem.com.payment.chosen-platform"] == "erc20-hoodi-tglm"
        assert counter["properties"]["golem.com.payment.debit-notes.accept-timeout?"] == 240


async def test_the_first_batch_deploys_and_starts() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            await session.rent(WASM)

        (first,) = node.made("POST", HERE + "/*/exec")
        assert first.body["text"] == (
            '[{"deploy":{"progress":{"updateInterval":"500ms"}}},{"start":{"args":[]}}]'
        )


async def test_an_offer_that_costs_something_is_left_alone_and_counted() -> None:
    async with scripted_node() as node:
        rentable(node)
        prices = {"golem.com.pricing.model.linear.coeffs": [0.0, 0.1, 0.0]}
        node.answer("GET", f"{MARKET}/demands/*/events", ok([proposal("R-1", **prices)]), ok([]))
        async with golem(node) as session:
            with pytest.raises(shem.NoProvider, match="payments are not supported yet"):
                await session.rent(WASM, timeout=0.3)

        assert node.count("POST", f"{MARKET}/demands/*/proposals/*") == 0


async def test_nobody_answers() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", f"{MARKET}/demands/*/events", ok([]))
        async with golem(node) as session:
            with pytest.raises(shem.NoProvider, match="no offer that fits"):
                await session.rent(WASM, timeout=0.2)

        assert node.count("DELETE", f"{MARKET}/demands/*") == 1


async def test_only_the_wanted_provider_is_countered() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            with pytest.raises(shem.NoProvider, match="another provider"):
                await session.rent(WASM, timeout=0.3, provider="0x" + "9" * 40)


async def test_a_rejected_agreement_leads_to_the_next_draft() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer(
            "POST", f"{MARKET}/agreements/*/wait", Answer(410, {"message": "Rejected"}), Answer(204)
        )
        node.answer(
            "GET",
            f"{MARKET}/demands/*/events",
            ok([proposal("R-3", prev="R-2")]),
            ok([proposal("R-5", prev="R-4")]),
            ok([]),
        )
        async with golem(node) as session:
            await session.rent(WASM)

        tried = [call.body["proposalId"] for call in node.made("POST", f"{MARKET}/agreements")]
        assert tried == ["R-3", "R-5"]


async def test_an_agreement_that_nobody_answers_is_cancelled() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", WAIT, NOT_YET)
        node.answer("POST", CANCEL, Answer(200))
        async with golem(node, world=World(clock=HurriedClock())) as session:
            with pytest.raises(shem.NoProvider, match="Timeout while waiting"):
                await session.rent(WASM, timeout=50)

        assert node.made("POST", CANCEL)[0].body["message"].startswith("Given up")
        assert node.count("POST", TERMINATE) == 0


async def test_an_agreement_that_came_into_force_as_it_was_given_up_is_ended() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", WAIT, NOT_YET)
        node.answer("POST", CANCEL, Answer(410, {"message": "from Approved to Cancelled."}))
        async with golem(node, world=World(clock=HurriedClock())) as session:
            with pytest.raises(shem.NoProvider):
                await session.rent(WASM, timeout=50)

        assert node.made("POST", TERMINATE)[0].body["message"].startswith("Given up")


async def test_whoever_stops_renting_leaves_no_agreement_behind() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", WAIT, NOT_YET)
        node.answer("POST", CANCEL, Answer(200))
        async with golem(node) as session:
            renting = asyncio.ensure_future(session.rent(WASM).__aenter__())
            async with asyncio.timeout(10):
                while not node.made("POST", WAIT):  # noqa: ASYNC110 - the node is told by others
                    await asyncio.sleep(0.01)
            renting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await renting

        assert node.count("POST", CANCEL) == 1
        assert node.count("DELETE", f"{MARKET}/demands/*") == 1


async def test_a_refused_cancel_is_no_error_of_its_own() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", WAIT, NOT_YET)
        node.answer("POST", CANCEL, Answer(500, {"message": "Protocol error"}))
        async with golem(node, world=World(clock=HurriedClock())) as session:
            with pytest.raises(shem.NoProvider, match="Timeout while waiting"):
                await session.rent(WASM, timeout=50)

        assert node.count("POST", TERMINATE) == 0


async def test_a_rejected_agreement_is_not_cancelled() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", WAIT, Answer(410, {"message": "Rejected"}))
        async with golem(node, world=World(clock=HurriedClock())) as session:
            with pytest.raises(shem.NoProvider, match="Rejected"):
                await session.rent(WASM, timeout=50)

        assert node.count("POST", CANCEL) == 0


async def test_a_demand_that_is_gone_is_published_again() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer(
            "GET",
            f"{MARKET}/demands/*/events",
            Answer(404, {"message": "Subscription [demand] expired."}),
            ok([proposal("R-1")]),
            ok([proposal("R-3", prev="R-2")]),
        )
        async with golem(node) as session:
            await session.rent(WASM)

        assert node.count("POST", f"{MARKET}/demands") == 2


async def test_a_confirm_without_an_answer_is_looked_up_not_repeated() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", CONFIRM, LOST)
        node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Pending")), ok(agreement()))
        async with golem(node) as session:
            await session.rent(WASM)

        assert node.count("POST", CONFIRM) == 1


async def test_a_confirm_that_did_not_arrive_is_made_again() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", CONFIRM, LOST, Answer(204))
        node.answer("GET", f"{MARKET}/agreements/*", ok(agreement("Proposal")), ok(agreement()))
        async with golem(node) as session:
            await session.rent(WASM)

        assert node.count("POST", CONFIRM) == 2


async def test_an_activity_whose_create_got_no_answer_is_found_not_created_twice() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", "/version/get", ok({"current": {"version": "0.17.6", "name": "a"}}))
        node.answer("POST", HERE, LOST)
        async with golem(node) as session:
            activity = await session.rent(WASM)

        assert activity.id == ACTIVITY_ID
        assert node.count("POST", HERE) == 1


async def test_at_a_yagna_a_create_without_a_trace_is_not_repeated() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", "/version/get", ok({"current": {"version": "0.17.6", "name": "a"}}))
        node.answer("POST", HERE, LOST)
        node.answer("GET", HERE, ok([]))
        async with golem(node) as session:
            with pytest.raises(shem.NotReachable, match="unknown whether it happened"):
                await session.rent(WASM)

        assert node.count("POST", HERE) == 1
        assert node.count("POST", TERMINATE) == 1


async def test_at_a_shem_node_a_create_is_repeated_under_the_same_intent() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", "/version/get", ok({"current": {"version": "0.17.6", "name": "shem"}}))
        node.answer("POST", HERE, LOST, ok({"activityId": ACTIVITY_ID}))
        async with golem(node) as session:
            await session.rent(WASM)

        first, second = node.made("POST", HERE)
        assert first.body == second.body
        assert len(first.body["intentId"]) == 32


async def test_a_failed_deploy_raises_and_terminates_the_agreement() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("GET", HERE + "/*/exec/*", ok(results("no such file", fails=True)))
        async with golem(node) as session:
            with pytest.raises(shem.CommandFailed, match=r"command 0 .* exited with code 3"):
                await session.rent(WASM)

        reason = node.made("POST", TERMINATE)[0].body
        assert reason["golem.requestor.code"] == "InitializationError"


async def test_an_error_in_the_block_ends_the_rental_and_is_not_hidden() -> None:
    async with scripted_node() as node:
        rentable(node)
        node.answer("POST", TERMINATE, Answer(500, {"message": "boom"}))
        with pytest.raises(ZeroDivisionError):
            async with golem(node) as session, session.rent(WASM):
                raise ZeroDivisionError

        assert "error" in node.made("POST", TERMINATE)[0].body["message"]


async def test_what_was_awaited_ends_with_the_golem() -> None:
    async with scripted_node() as node:
        rentable(node)
        async with golem(node) as session:
            await session.rent(WASM)
            assert node.count("POST", TERMINATE) == 0

        assert node.count("POST", TERMINATE) == 1


async def test_one_rental_that_cannot_be_ended_does_not_keep_the_others() -> None:
    async with scripted_node() as node:
        rentable(node)
        other = "7" * 32
        node.answer("POST", HERE, ok({"activityId": ACTIVITY_ID}), ok({"activityId": other}))
        found = [ok([proposal("R-1")]), ok([proposal("R-3", prev="R-2")])]
        node.answer("GET", f"{MARKET}/demands/*/events", *found, *found, ok([]))
        node.answer("POST", TERMINATE, Answer(500, {"message": "boom"}), ok(b""))
        with pytest.raises(shem.NodeRefused, match="boom"):
            async with golem(node) as session:
                await session.rent(WASM)
                await session.rent(WASM)

        destroyed = [call.path.rsplit("/", 1)[1] for call in node.made("DELETE", HERE + "/*")]
        assert destroyed == [ACTIVITY_ID, other]
        assert node.count("POST", TERMINATE) == 2


async def test_a_wrong_key_says_where_to_find_one() -> None:
    async with scripted_node() as node:
        node.answer("GET", "/me", Answer(401, b"Invalid application key"))
        with pytest.raises(shem.PermissionDenied, match="shem app-key list"):
            async with golem(node):
                pass


async def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YAGNA_APPKEY", raising=False)
    with pytest.raises(UsageError, match="YAGNA_APPKEY"):
        async with shem.Golem():
            pass


async def test_a_node_that_is_away_too_long_is_not_reachable() -> None:
    with pytest.raises(shem.NotReachable, match="Is the node running"):
        async with shem.Golem(api_url="http://127.0.0.1:9", app_key="k", patience=0.2):
            pass


@pytest.mark.parametrize("bad", ["", "sha3:", "sha3:zz", "md5:" + "0" * 56, "sha3:" + "0" * 55])
def test_a_package_needs_a_real_hash(bad: str) -> None:
    with pytest.raises(UsageError, match="hash"):
        shem.WasmPackage(url="http://x/y", hash=bad)
