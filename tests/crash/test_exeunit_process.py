"""The ExeUnit as a process: it outlives its node, and its journal outlives it."""

import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shem.bus.types import GsbError, RemoteError
from shem.exeunit.core import INTERRUPTED
from shem.kernel.errors import Unreachable
from shem.wire.flexbuffers import unpack
from tests.crash.exeunit_site import ACTIVITY, ENDLESS, SCENE, SETUP, Site, run, until


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    made.write_agreement()
    yield made
    await made.kill_all()


async def test_runs_a_batch_and_reports_all_along(site: Site) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()
        await until(lambda: ["Initialized", None] in daemon.states)

        results = await daemon.run("b1", *SETUP, run("render", "40", "12"), run("bogus"))

        assert [result["result"] for result in results] == ["Ok", "Ok", "Ok", "Error"]
        assert results[2]["stdout"].count("\n") == 12
        assert results[3]["stderr"].startswith("mandel: ")
        assert results[3]["message"] == "ExeScript command exited with code 2"
        assert [result["isBatchFinished"] for result in results] == [False, False, False, True]
        await until(lambda: ["Ready", None] in daemon.states)
        await until(lambda: len(daemon.usages) >= 2)
        assert all(len(vector) == 2 for vector in daemon.usages)
        assert daemon.usages[-1][1] > daemon.usages[0][1]


async def test_sigterm_ends_it_with_a_last_word(site: Site) -> None:
    async with site.daemon() as daemon:
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP, run("scene", ENDLESS))
        await daemon.exec("b2", run("zoom", "1", "1"))
        await until(lambda: len(site.ledger()) == 1)

        process.send_signal(signal.SIGTERM)

        assert await process.wait() == 0
        assert daemon.states[-2:] == [["Ready", "Terminated"], ["Terminated", None]]
        reason = daemon.reasons[-1] or ""
        assert reason.startswith("Interrupted by signal: 15: ")
        assert not daemon.bus.is_bound(f"/public/exeunit/{ACTIVITY}")


async def test_an_expired_agreement_ends_it_though_nobody_is_there(site: Site) -> None:
    site.write_agreement(lives_s=1.5)

    process = await site.start()

    assert await process.wait() == 0


async def test_it_works_on_while_its_node_is_away_and_tells_all_afterwards(site: Site) -> None:
    async with site.daemon() as daemon:
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP, run("scene", SCENE))
        frames = [run("zoom", str(frame), "20", "away") for frame in range(1, 21)]
        await daemon.exec("b2", *frames)
    await until(lambda: len(site.ledger()) == 40)
    assert process.returncode is None

    async with site.daemon() as daemon:
        await daemon.unit_is_bound()

        results = await daemon.results("b2")

        assert [result["result"] for result in results] == ["Ok"] * 20
        await until(lambda: daemon.states[-1:] == [["Ready", None]])
        await until(lambda: len(daemon.usages) >= 1)
        assert await daemon.run("b3", run("ledger"))
        assert len(site.ledger()) == 40


async def test_killed_in_a_run_it_says_so_for_ever_and_does_not_run_it_again(site: Site) -> None:
    async with site.daemon() as daemon:
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP, run("scene", ENDLESS))
        await daemon.exec("b2", run("note", "first"), run("zoom", "1", "1"), run("note", "last"))
        await until(lambda: len(site.ledger()) == 2)
        process.send_signal(signal.SIGKILL)
        await process.wait()

        for _ in range(2):
            again = await site.start()
            await until(lambda: daemon.states[-1:] == [["Ready", None]])
            await daemon.unit_is_bound()
            results = await daemon.results("b2")
            assert [result["message"] for result in results] == [None, INTERRUPTED]
            assert results[1]["isBatchFinished"]
            await daemon.exec(
                "b2", run("note", "first"), run("zoom", "1", "1"), run("note", "last")
            )
            assert site.ledger() == ["first", "begin frame 1 of 1 -"]
            daemon.states.clear()
            again.send_signal(signal.SIGKILL)
            await again.wait()

        await site.start()
        await daemon.unit_is_bound()
        assert (await daemon.run("b3", run("note", "new")))[0]["result"] == "Ok"
        assert len(await daemon.results("b1")) == 3


@pytest.mark.parametrize(
    ("point", "executions", "last"),
    [
        ("exeunit.batch_accepted=kill@2", 0, "Error"),
        ("exeunit.command_done=kill@3", 1, "Error"),
        ("exeunit.result_durable=kill@3", 1, "Ok"),
    ],
)
async def test_killed_at_a_named_point_the_journal_tells_the_truth(
    site: Site, point: str, executions: int, last: str
) -> None:
    async with site.daemon() as daemon:
        process = await site.start(SHEM_FAILPOINTS=point)
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP)
        with suppress(Unreachable):  # the answer may die with the process
            await daemon.exec("b2", run("note", "x"))
        await process.wait()

        await site.start()
        await daemon.unit_is_bound()

        assert await daemon.exec("b2", run("note", "x")) == "b2"
        [result] = await daemon.results("b2")
        assert result["result"] == last
        assert site.ledger() == ["x"] * executions


async def test_two_processes_cannot_serve_one_activity(site: Site) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()

        second = await site.start()

        assert await second.wait() == 1
        assert "another ExeUnit has this journal open" in site.log.read_text()


async def test_a_damaged_journal_is_not_guessed_at(site: Site) -> None:
    async with site.daemon() as daemon:
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    journal = site.work_dir / "journal"
    data = bytearray(journal.read_bytes())
    data[30] ^= 1
    journal.write_bytes(data)

    again = await site.start()

    assert await again.wait() == 1
    assert "damaged" in site.log.read_text()
    assert journal.read_bytes() == data


async def test_events_are_told_live_and_again_to_whoever_comes_late(site: Site) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP)
        await daemon.exec("b2", run("render", "20", "4", stream=True), run("bogus"))

        live = [read_event(item) async for item in daemon.events("b2")]
        late = [read_event(item) async for item in daemon.events("b2")]

        kinds = [(event["index"], next(iter(event["kind"]))) for event in live]
        assert (kinds[0], kinds[-1]) == ((0, "started"), (1, "finished"))
        assert (0, "stdout") in kinds
        assert live[-1]["kind"]["finished"]["return_code"] == 2
        text = "".join(event["kind"].get("stdout", "") for event in live)
        assert text.count("\n") == 4
        assert "".join(event["kind"].get("stdout", "") for event in late) == text


def read_event(item: bytes) -> dict[str, Any]:
    answer = unpack(item)
    assert isinstance(answer, dict)
    event = answer["Ok"]
    assert isinstance(event, dict)
    return event


async def test_terminate_stops_what_runs_and_starts_afresh(site: Site) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP, run("scene", ENDLESS))
        await daemon.exec("b2", run("zoom", "1", "1"), run("note", "never"))
        await until(lambda: len(site.ledger()) == 1)
        running = await daemon.request("GetRunningCommand", timeout=1.0)
        assert running == [
            {"command": "Run", "progress": None, "params": ["mandel", "zoom", "1", "1"]}
        ]

        [ended] = await daemon.run("b3", {"terminate": {}})

        assert ended["result"] == "Ok"
        [stopped] = await daemon.results("b2")
        assert (stopped["result"], stopped["message"]) == ("Error", "the command was stopped")
        assert await daemon.request("GetActivityState", timeout=1.0) == {
            "state": ["Initialized", None]
        }
        results = await daemon.run("b4", *SETUP, run("note", "after"))
        assert [result["result"] for result in results] == ["Ok"] * 3
        assert "never" not in site.ledger()


async def test_signing_needs_an_enclave_and_says_so(site: Site) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()

        [signed] = await daemon.run("b1", {"sign": {}})

        assert signed["result"] == "Error"
        assert "signing not supported" in signed["message"]


@pytest.mark.parametrize(
    ("method", "fields", "error"),
    [
        ("Exec", {"batchId": "b", "exeScript": [{"bogus": {}}]}, "badRequest"),
        ("Exec", {"batchId": "no id", "exeScript": []}, "badRequest"),
        ("Exec", {"batchId": "b1", "exeScript": [{"sign": {}}]}, "badRequest"),
        ("Exec", {"activityId": "other", "batchId": "b", "exeScript": []}, "service"),
        ("GetExecBatchResults", {"batchId": "none", "timeout": 0.0}, "notFound"),
        ("GetExecBatchResults", {"batchId": "b1", "commandIndex": -1}, "badRequest"),
        ("GetRunningCommand", {}, "notFound"),
    ],
)
async def test_refusals_have_the_protocols_own_form(
    site: Site, method: str, fields: dict[str, Any], error: str
) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()
        await daemon.run("b1", {"deploy": {}})

        with pytest.raises(RemoteError) as refused:
            await daemon.request(method, **fields)

        assert isinstance(refused.value.payload, dict)
        assert list(refused.value.payload) == [error]


async def test_a_batch_asked_about_before_it_came_never_comes(site: Site) -> None:
    async with site.daemon() as daemon:
        process = await site.start()
        await daemon.unit_is_bound()
        assert await daemon.request("ResolveBatch", batchId="late") == {"accepted": False}
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await site.start()
        await daemon.unit_is_bound()

        with pytest.raises(RemoteError, match="never accepted"):
            await daemon.exec("late", {"deploy": {}})
        assert await daemon.request("ResolveBatch", batchId="late") == {"accepted": False}


async def test_unknown_messages_have_no_endpoint(site: Site) -> None:
    async with site.daemon() as daemon:
        await site.start()
        await daemon.unit_is_bound()

        with pytest.raises(GsbError, match="endpoint address not found"):
            await daemon.request("CallEncryptedService")
        with pytest.raises(GsbError, match="missing field `batchId`"):
            await daemon.request("Exec", exeScript=[])
