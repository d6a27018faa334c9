"""The end of work by its terms, by a real process: killed at any step it goes on where it was."""

import asyncio
import io
import json
import signal
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shem.bus.types import RemoteError
from tests.crash.exeunit_site import ENDLESS, SCENE, SETUP, Daemon, Site, run, until
from tests.gftp_town import town

END = "golem.srv.end-when."
SINK = "golem.srv.result-sink."
PRIVATE = {"SHEM_PRIVATE_TRANSFERS": "yes"}
PRICES = {"golem.com.pricing.model.linear.coeffs": [0.0, 1.0, 0.0]}


class Sink:
    """A web server that takes what is put, or refuses it."""

    def __init__(self) -> None:
        self.status = 201
        self.tries = 0
        self.got: dict[str, list[bytes]] = {}
        self.url = ""

    async def put(self, request: web.Request) -> web.Response:
        self.tries += 1
        data = await request.read()
        if self.status < 300:
            self.got.setdefault(request.path, []).append(data)
        return web.Response(status=self.status)

    def document(self) -> Any:
        [data] = self.got["/results"]
        return json.loads(data)

    def terms(self, **end: Any) -> dict[str, Any]:
        return {
            **{END + name.replace("_", "-"): value for name, value in end.items()},
            SINK + "results-url": f"{self.url}/results",
            SINK + "files-url": f"{self.url}/files",
            SINK + "files-path": "/work",
        }


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    app = web.Application()
    app.router.add_put("/{name}", made.put)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        made.url = f"http://{host}:{port}"
        yield made
    finally:
        await runner.cleanup()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    await made.kill_all()


async def test_when_the_batch_is_done_results_and_files_are_delivered_and_it_ends(
    site: Site,
) -> None:
    async with sink() as there, site.daemon() as daemon:
        site.write_agreement(terms=there.terms(batch_done=True))
        process = await site.start(**PRIVATE)
        await daemon.unit_is_bound()
        await daemon.run("b0", *SETUP)
        assert there.tries == 0

        await daemon.run("b1", run("note", "hello"))
        assert await process.wait() == 0

        document = there.document()
        assert document["endedBy"] == "batch-done"
        assert [batch["batchId"] for batch in document["batches"]] == ["b0", "b1"]
        assert document["batches"][1]["results"][0]["result"] == "Ok"
        assert document["files"] == "Finished by its terms: batch-done; delivered: files"
        [archive] = there.got["/files"]
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            note = files.extractfile("ledger.txt")
            assert note is not None
            assert note.read() == b"hello\n"
        assert "delivered: files, results" in (daemon.reasons[-1] or "")
        told = json.loads((site.work_dir / "ended.json").read_text())
        assert told["cause"] == "batch-done"


async def test_while_it_delivers_the_usage_stands_still_and_nothing_new_runs(site: Site) -> None:
    async with sink() as there, site.daemon() as daemon:
        there.status = 503
        site.write_agreement(terms=there.terms(batch_done=True))
        process = await site.start(**PRIVATE)
        await daemon.unit_is_bound()
        await daemon.run("b1", *SETUP, run("note", "hello"))
        await until(lambda: there.tries >= 1)
        before = len(daemon.usages)
        await until(lambda: len(daemon.usages) >= before + 3)

        with pytest.raises(RemoteError, match="is ending: Finished by its terms: batch-done"):
            await daemon.exec("b2", run("note", "late"))
        assert (await daemon.results("b1"))[-1]["result"] == "Ok"
        assert len({tuple(vector) for vector in daemon.usages[before + 1 :]}) == 1
        there.status = 201
        assert await process.wait() == 0

        assert there.document()["usage"]["golem.usage.duration_sec"] == daemon.usages[-1][1]


@pytest.mark.parametrize(
    "point", ["exeunit.end_due", "exeunit.end_quiet", "exeunit.part_delivered"]
)
async def test_killed_at_any_step_the_next_process_goes_on(site: Site, point: str) -> None:
    async with sink() as there, site.daemon() as daemon:
        site.write_agreement(terms=there.terms(batch_done=True))
        process = await site.start(**PRIVATE, SHEM_FAILPOINTS=f"{point}=kill")
        await daemon.unit_is_bound()
        await daemon.exec("b1", *SETUP, run("note", "hello"))
        assert await process.wait() == -signal.SIGKILL

        process = await site.start(**PRIVATE)
        assert await process.wait() == 0

        assert {name: len(times) for name, times in there.got.items()} == {
            "/files": 1,
            "/results": 1,
        }
        assert there.document()["endedBy"] == "batch-done"
        assert site.ledger() == ["hello"]


async def test_a_budget_stops_what_runs_and_says_so(site: Site) -> None:
    async with sink() as there, site.daemon() as daemon:
        site.write_agreement(terms=there.terms(budget="3"), offer=PRICES)
        process = await site.start(**PRIVATE)
        await daemon.unit_is_bound()
        await daemon.run("b0", *SETUP, run("scene", ENDLESS))
        await daemon.exec("b1", run("zoom", "1", "1"))

        assert await process.wait() == 0

        document = there.document()
        assert document["endedBy"] == "budget"
        assert document["batches"][1]["results"][0]["message"] == "the command was stopped"
        assert 3.0 <= document["usage"]["golem.usage.duration_sec"] < 6.0


async def test_without_a_sink_idleness_just_ends_it(site: Site) -> None:
    async with site.daemon() as daemon:
        site.write_agreement(terms={END + "idle-sec": 1.5})
        process = await site.start()
        await daemon.unit_is_bound()

        assert await process.wait() == 0

        assert (daemon.reasons[-1] or "").startswith("Finished by its terms: idle: ")


async def test_the_exit_of_one_program_ends_all(site: Site) -> None:
    async with site.daemon() as daemon:
        site.write_agreement(terms={END + "exit": "mandel"})
        process = await site.start()
        await daemon.unit_is_bound()

        results = await daemon.run("b1", *SETUP, run("scene", SCENE), run("note", "never"))
        assert await process.wait() == 0

        assert [result["result"] for result in results[:3]] == ["Ok", "Ok", "Ok"]
        assert (daemon.reasons[-1] or "").startswith("Finished by its terms: exit: ")


async def test_when_the_requestor_is_away_too_long_what_runs_ends_first(site: Site) -> None:
    async with sink() as there, site.daemon() as daemon:
        site.write_agreement(terms=there.terms())
        process = await site.start(**PRIVATE)
        await daemon.unit_is_bound()
        await daemon.run("b0", *SETUP, run("scene", SCENE))
        await daemon.exec("b1", *(run("zoom", str(n), "16") for n in range(1, 5)))

        process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(0)
        assert await process.wait() == 0

        document = there.document()
        assert document["endedBy"] == "absence"
        results = document["batches"][1]["results"]
        assert [result["result"] for result in results] == ["Ok"] * 4


async def test_what_can_never_be_delivered_is_said_and_does_not_hold_the_rest(site: Site) -> None:
    async with sink() as there, site.daemon() as daemon:
        terms = {**there.terms(batch_done=True), SINK + "files-path": "/nowhere"}
        site.write_agreement(terms=terms)
        process = await site.start(**PRIVATE)
        await daemon.unit_is_bound()
        await daemon.exec("b1", *SETUP, run("note", "hello"))

        assert await process.wait() == 0

        assert "not delivered: files (IO error" in there.document()["files"]
        assert "not delivered: files (IO error" in (daemon.reasons[-1] or "")


async def test_a_sink_in_the_providers_own_network_is_refused_at_once(site: Site) -> None:
    async with sink() as there, site.daemon() as daemon:
        site.write_agreement(terms=there.terms(batch_done=True))
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.exec("b1", *SETUP, run("note", "hello"))

        assert await process.wait() == 0

        assert there.tries == 0
        assert "is not on the internet" in (daemon.reasons[-1] or "")


async def test_results_reach_a_requestors_node_by_gftp_when_it_is_there_again(
    site: Site, tmp_path: Path
) -> None:
    async with town(tmp_path) as there:
        daemon = Daemon(there.bus)
        there.bus.serve("/local/activity/SetActivityState", daemon.set_state)
        there.bus.serve("/local/activity/SetActivityUsage", daemon.set_usage)
        received = tmp_path / "results.json"
        url = await there.publisher.receive(received)
        there.open.clear()
        site.write_agreement(terms={END + "batch-done": True, SINK + "results-url": str(url)})
        process = await site.start()
        await daemon.unit_is_bound()
        await daemon.exec("b1", *SETUP, run("note", "hello"))
        await until(lambda: len(there.calls) >= 2)

        there.open.set()

        assert await process.wait() == 0
        assert json.loads(received.read_text())["endedBy"] == "batch-done"
        assert "delivered: results" in (daemon.reasons[-1] or "")
