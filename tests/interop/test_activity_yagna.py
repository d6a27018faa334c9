"""Activities between our node and a real yagna, both ways round: the same story, the same words.

Agent and ExeUnit are thin clients of the provider's REST and bus, so that the test holds the
ExeUnit in its hands; our real ones are in `test_provider_yagna`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from shem.bus.client import BusClient
from shem.bus.types import Call
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import Conflict, NotFound, ShemError, TimedOut
from shem.rest.errors import ApiError
from shem.rest.models import ActivityState
from tests.interop.deal import SESSION, Deal, Party, text_of
from tests.interop.town import PAIRS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

RUN = '[{"run": {"entry_point": "/bin/x", "args": ["1"]}}]'
BATCH = "0123456789abcdef" * 2
DATE = "2026-11-23T20:00:00.123456Z"


def as_yagna(error: ShemError) -> object:
    if isinstance(error, TimedOut):
        return "timeout"
    kind = {NotFound: "notFound", Conflict: "badRequest"}.get(type(error), "service")
    return {kind: error.message}


class ExeUnit:
    """Answers on the provider's bus as a legacy ExeUnit does: no repeats, nothing resolved."""

    def __init__(self, bus: BusClient, activity_id: str) -> None:
        self.activity_id = activity_id
        self.scripts: dict[str, list[Any]] = {}
        self.callers: set[str] = set()
        self._bus = bus

    async def run(self) -> None:
        """Serve, report the start, then report usage once a second."""
        prefix = f"/public/exeunit/{self.activity_id}"
        await self._bus.serve(f"{prefix}/Exec", self._exec, error=as_yagna)
        await self._bus.serve(f"{prefix}/GetExecBatchResults", self._results, error=as_yagna)
        state = {"state": ["Initialized", None]}
        await self._report("SetActivityState", {"state": state})
        while True:
            usage = {"currentUsage": [1.0, 2.0], "timestamp": 1}
            await self._report("SetActivityUsage", {"usage": usage})
            await asyncio.sleep(1)

    async def stop(self) -> None:
        prefix = f"/public/exeunit/{self.activity_id}"
        await self._bus.unbind(f"{prefix}/Exec")
        await self._bus.unbind(f"{prefix}/GetExecBatchResults")
        state = {"state": ["Terminated", None], "reason": "Finished"}
        await self._report("SetActivityState", {"state": state})

    async def _report(self, name: str, body: dict[str, Any]) -> None:
        message = {"activityId": self.activity_id, "timeout": None, **body}
        await self._bus.request(f"/local/activity/{name}", message, timeout_s=5)

    async def _exec(self, call: Call, body: Any) -> object:
        self.callers.add(call.caller_text)
        if body["batchId"] in self.scripts:
            raise Conflict(f"Batch {body['batchId']} already exists")
        self.scripts[body["batchId"]] = body["exeScript"]
        return body["batchId"]

    async def _results(self, _call: Call, body: Any) -> object:
        script = self.scripts.get(body["batchId"])
        if script is None:
            raise NotFound(f"batch_id = {body['batchId']}")
        last = len(script) - 1
        return [
            {
                "index": index,
                "result": "Ok",
                "stdout": f"out{index}\n",
                "stderr": None,
                "message": None,
                "isBatchFinished": index == last,
                "eventDate": DATE,
            }
            for index in range(len(script))
        ]


class Agent:
    """Starts and stops thin ExeUnits as the provider's events say."""

    def __init__(self, provider: Party, bus: BusClient) -> None:
        self.units: dict[str, ExeUnit] = {}
        self._provider = provider
        self._bus = bus
        self._running: dict[str, asyncio.Task[None]] = {}
        self._since = text_of(datetime.now(UTC))

    async def run(self) -> None:
        after = self._since
        while True:
            events = await self._provider.rest.activity.events(
                after=after, app_session_id=SESSION, timeout_s=2
            )
            for event in events:
                after = event.event_date
                if event.kind == "CreateActivity":
                    unit = self.units[event.activity_id] = ExeUnit(self._bus, event.activity_id)
                    self._running[event.activity_id] = asyncio.create_task(unit.run())
                elif (running := self._running.pop(event.activity_id, None)) is not None:
                    running.cancel()
                    await self.units[event.activity_id].stop()

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()


@asynccontextmanager
async def agent_at(provider: Party) -> AsyncIterator[Agent]:
    async with BusClient(parse_gsb_url(provider.daemon.gsb_url)) as bus:
        await bus.connected()
        agent = Agent(provider, bus)
        loop = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            loop.cancel()
            await agent.close()


async def post(party: Party, path: str, body: object) -> tuple[int, Any]:
    """Call REST with a body of our own making."""
    headers = {"Authorization": f"Bearer {party.daemon.app_key}"}
    url = f"{party.daemon.api_url}/activity-api/v1{path}"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def settles(question: Callable[[], Awaitable[ActivityState]], current: str) -> ActivityState:
    """Ask until the activity is in a state."""
    async with asyncio.timeout(30):
        while True:
            state = await question()
            if state.current == current:
                return state
            await asyncio.sleep(0.2)


@asynccontextmanager
async def rented(town, pair) -> AsyncIterator[tuple[Deal, Agent, str]]:
    deal = await town.deal(pair)
    await deal.to_approved()
    async with agent_at(deal.provider) as agent:
        activity = await deal.requestor.rest.activity.create(deal.agreement_id, timeout_s=20)
        yield deal, agent, activity


@pytest.mark.parametrize("pair", PAIRS)
async def test_the_life_of_an_activity(town, pair):
    async with rented(town, pair) as (deal, agent, activity):
        asker, giver = deal.requestor.rest.activity, deal.provider.rest.activity
        unit = agent.units[activity]
        assert await asker.of_agreement(deal.agreement_id) == [activity]
        assert await giver.of_agreement(deal.agreement_id) == [activity]
        assert (await asker.state(activity)).current == "Initialized"

        batch = await asker.exec(activity, '[{"deploy": {}}, {"start": {}}]')
        results = await asker.results(activity, batch, timeout_s=5)

        assert unit.scripts[batch] == [
            {"deploy": {"net": [], "hosts": {}, "hostname": None, "env": {}, "progress": None}},
            {"start": {"args": []}},
        ]
        assert [entry.stdout for entry in results] == ["out0\n", "out1\n"]
        assert [entry.is_batch_finished for entry in results] == [False, True]
        assert unit.callers == {deal.requestor.daemon.node_id}
        assert (await asker.usage(activity)).current_usage == [1.0, 2.0]
        status, answer = await post(
            deal.requestor, f"/activity/{activity}/exec", {"text": '[{"bogus":{}}]'}
        )
        assert (status, answer["message"]) == (
            400,
            'Bad request: Error("unknown variant `bogus`, expected one of `sign`, `deploy`, '
            '`start`, `run`, `transfer`, `terminate`", line: 1, column: 9)',
        )

        await asker.destroy(activity, timeout_s=20)
        await asker.destroy(activity, timeout_s=20)

        assert (await asker.state(activity)).current == "Terminated"
        assert (await giver.state(activity)).current == "Terminated"
        with pytest.raises(ApiError, match=r"GSB error: .*endpoint address not found") as gone:
            await asker.exec(activity, RUN, timeout_s=5)
        assert gone.value.status == 500


@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[2]])
async def test_the_end_of_the_agreement_ends_an_activity_of_our_provider(town, pair):
    async with rented(town, pair) as (deal, _agent, activity):
        reason = {"message": "done"}
        await deal.requestor.market.agreements.terminate(deal.agreement_id, reason)
        state = await settles(lambda: deal.provider.rest.activity.state(activity), "Terminated")
        assert state.reason == "Finished"
        body = {"agreementId": deal.agreement_id}
        status, answer = await post(deal.requestor, "/activity?timeout=5", body)
        assert (status, answer["message"]) == (
            400,
            f"Bad request: Agreement {deal.agreement_id} is not Approved."
            " Current state: Terminated",
        )


async def test_our_node_keeps_batches_and_results_of_a_legacy_provider(town):
    async with rented(town, ("shem", "yagna")) as (deal, agent, activity):
        asker = deal.requestor.rest.activity
        unit = agent.units[activity]
        for _ in range(2):
            assert await asker.exec(activity, RUN, batch_id=BATCH) == BATCH
        assert list(unit.scripts) == [BATCH]
        await asker.results(activity, BATCH, timeout_s=5)

        await deal.requestor.restart()
        asker = deal.requestor.rest.activity
        await deal.provider.rest.activity.state(activity)
        await asker.destroy(activity, timeout_s=20)

        [listed] = await asker.batches(activity)
        assert (listed.batch_id, listed.state, listed.results) == (BATCH, "accepted", 1)
        [entry] = await asker.results(activity, BATCH, timeout_s=0)
        assert entry.stdout == "out0\n"
