"""The provider's node: who may do what, silence, restarts, and the end of the agreement."""

import asyncio
from typing import Any

import pytest

from shem.activity.records import Role
from shem.activity.watch import GRACE_S, SILENT
from shem.bus.types import LOCAL_CALLER, Call, GsbError, RemoteError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Conflict, NotFound, ShemError, TimedOut
from tests.sim.activity_town import AGREEMENT, PROVIDER, REQUESTOR, RUN, STRANGER, Node, Play, Town


async def ask(node: Node, path: str, body: dict[str, Any], *, timeout_s: float = 5) -> object:
    caller = Caller(node.node_id, Assurance.LOCAL)
    address = f"/from/{node.node_id}/to/{PROVIDER}/{path}"
    return await node.bus.request(caller, address, body, timeout_s=timeout_s)


FORBIDDEN = {"forbidden": f"caller: {STRANGER} is not authorized: {REQUESTOR}"}


@pytest.mark.parametrize(
    "message",
    ["CreateActivity", "DestroyActivity", "GetActivityState", "GetActivityUsage"],
)
def test_attack_d5_a_stranger_is_refused_at_the_activity_service(play: Play, message: str) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        body = {"agreementId": AGREEMENT, "activityId": activity, "timeout": 1.0}

        with pytest.raises(RemoteError) as error:
            await ask(town.stranger, f"activity/{message}", body)

        assert error.value.payload == FORBIDDEN
        assert town.agent.events == ["CreateActivity"]

    play(story)


@pytest.mark.parametrize(
    "message",
    [
        "Exec",
        "GetExecBatchResults",
        "GetRunningCommand",
        "ResolveBatch",
        "GetActivityState",
        "GetActivityUsage",
        "CallEncryptedService",
        "GsbHttpCallMessage",
    ],
)
def test_attack_d5_a_stranger_who_knows_the_activity_id_never_reaches_the_exeunit(
    play: Play, message: str
) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        body = {"activityId": activity, "batchId": "00", "exeScript": [], "timeout": 1.0}

        with pytest.raises(RemoteError) as error:
            await ask(town.stranger, f"exeunit/{activity}/{message}", body)

        assert error.value.payload == FORBIDDEN
        assert town.agent.unit.calls == []

    play(story)


def test_attack_d5_a_stranger_gets_no_stream(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        address = f"/transfer/from/{STRANGER}/to/{PROVIDER}/exeunit/{activity}"
        caller = Caller(STRANGER, Assurance.LOCAL)
        stream = town.stranger.bus.stream(
            caller, f"{address}/StreamExecBatchResults", b"", timeout_s=5
        )
        items = [item async for item in stream]
        assert len(items) == 1
        assert b"forbidden" in items[0]

    play(story)


def test_attack_d5_a_stranger_cannot_speak_in_the_requestors_name(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        address = f"/from/{REQUESTOR}/to/{PROVIDER}/exeunit/{activity}/Exec"
        body = {"activityId": activity, "batchId": "00", "exeScript": [], "timeout": 1.0}
        with pytest.raises(GsbError):
            await town.stranger.bus.request(
                Caller(REQUESTOR, Assurance.LOCAL), address, body, timeout_s=5
            )
        assert town.agent.unit.calls == []

    play(story)


def test_the_provider_itself_and_its_processes_may_not_exec(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        body = {"activityId": activity, "batchId": "00", "exeScript": [], "timeout": 1.0}
        for caller in (Caller(PROVIDER, Assurance.LOCAL), LOCAL_CALLER):
            with pytest.raises(RemoteError):
                await town.provider.bus.request(
                    caller, f"/public/exeunit/{activity}/Exec", body, timeout_s=5
                )
        assert town.agent.unit.calls == []

    play(story)


def test_local_services_cannot_be_reached_from_the_net(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        body = {"activityId": activity, "state": {"state": ["Terminated", None]}}
        for path in ("local/activity/SetActivityState", "activity/SetActivityState"):
            with pytest.raises(GsbError, match="endpoint address not found"):
                await ask(town.requestor, path, body)
        assert await town.state(activity) == ["Initialized", None]

    play(story)


def test_only_the_requestor_may_use_its_rest_api(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        service = town.requestor.service
        stranger = Caller(STRANGER, Assurance.LOCAL)
        calls = (
            service.execute(stranger, activity, RUN, None, 5),
            service.destroy(stranger, activity, 5),
            service.results(stranger, activity, "00", timeout_s=0, command_index=None),
            service.batches(stranger, activity),
            service.state(stranger, activity, 5),
            service.create(stranger, AGREEMENT, timeout_s=5),
            service.activities_of(stranger, AGREEMENT),
        )
        for call in calls:
            with pytest.raises(NotFound, match=f"Not found: {AGREEMENT}"):
                await call
        assert await service.activities_of(town.requestor.caller, AGREEMENT) == [activity]

    play(story)


def test_an_activity_that_is_to_end_is_not_handed_out_though_its_exeunit_has_come(
    play: Play,
) -> None:
    async def story(town: Town) -> None:
        town.agent.starts = town.agent.ends = False
        requestor, provider = town.requestor, town.provider
        create = {"intent_id": "i", "timeout_s": 2.0}
        with pytest.raises(TimedOut):
            await requestor.service.create(requestor.caller, AGREEMENT, **create)
        [activity_id] = await provider.service.activities_of(provider.caller, AGREEMENT)
        await town.agent._start(activity_id)

        with pytest.raises(ShemError, match="was abruptly terminated"):
            await requestor.service.create(requestor.caller, AGREEMENT, **create)

    play(story)


def test_an_unknown_message_or_activity_has_no_endpoint(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        for path in (f"exeunit/{activity}/Foo", "exeunit/00/Exec", "exeunit/00", "activity/Foo"):
            with pytest.raises(GsbError, match="endpoint address not found"):
                await ask(town.requestor, path, {})

    play(story)


def test_malformed_messages_are_refused_in_the_words_of_the_reference(play: Play) -> None:
    async def story(town: Town) -> None:
        words = "Bad content: Serde Error: missing field `activityId`"
        with pytest.raises(GsbError, match=words):
            await ask(town.requestor, "activity/GetActivityState", {"activity_id": "00"})
        with pytest.raises(RemoteError) as unknown:
            await ask(town.requestor, "activity/GetActivityState", {"activityId": "00"})
        assert unknown.value.payload == {
            "service": "DAO error: Not found: agreement id for activity: 00"
        }

    play(story)


def test_an_exeunit_that_stops_reporting_is_unresponsive_and_then_destroyed(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        await asyncio.sleep(20)
        assert await town.state(activity) == ["Initialized", None]

        unit.alive = False
        await asyncio.sleep(7)
        assert await town.state(activity) == ["Unresponsive", None]
        assert town.agent.events == ["CreateActivity"]
        await asyncio.sleep(5)
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]
        await asyncio.sleep(60)
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]

    play(story)


def test_one_that_was_destroyed_for_its_silence_says_so(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.agent.unit.alive = False
        await asyncio.sleep(12)
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]

        end = {"state": ["Terminated", None], "reason": "Destroyed", "errorMessage": "by the node"}
        await town.provider.service.set_state(town.provider.caller, activity, end)

        told = await town.provider.service.state(town.provider.caller, activity, 0.0)
        assert told.ended
        assert (told.reason, told.error_message) == (SILENT, None)

    play(story)


def test_a_fresh_report_brings_the_state_back(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        await unit.report_state("Deployed", "Ready")
        unit.alive = False
        await asyncio.sleep(7)
        assert await town.state(activity) == ["Unresponsive", "Ready"]

        await unit.report_usage(1.0)

        assert await town.state(activity) == ["Deployed", "Ready"]

    play(story)


def test_after_a_restart_an_exeunit_has_a_minute_to_come_back(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        unit.alive = False
        await town.provider.restart()

        await asyncio.sleep(GRACE_S - 5)
        assert await town.state(activity) == ["Initialized", None]
        assert town.agent.events == ["CreateActivity"]
        await asyncio.sleep(15)
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]

    play(story)


def test_after_a_restart_calls_wait_for_the_exeunit_and_nothing_runs_twice(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        unit = town.agent.unit
        first = await town.exec(activity)
        await town.provider.restart()
        asyncio.get_running_loop().call_later(3, unit.bind)

        second = await town.exec(activity, timeout_s=5)

        assert len(await town.results(activity, second)) == 1
        assert unit.ran == [f"{first}:0", f"{second}:0"]

    play(story)


def test_an_exeunit_may_bind_each_message_by_itself(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await asyncio.sleep(GRACE_S)
        town.agent.unit.unbind()

        async def accept(_call: Call, body: Any) -> object:
            return body["batchId"]

        town.provider.bus.serve(f"/public/exeunit/{activity}/Exec", accept)
        body = {"activityId": activity, "batchId": "00", "exeScript": [], "timeout": 1.0}
        assert await ask(town.requestor, f"exeunit/{activity}/Exec", body) == "00"

    play(story)


def test_without_an_exeunit_a_call_fails_at_once_once_the_grace_is_over(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await asyncio.sleep(GRACE_S)
        town.agent.unit.unbind()
        clock = town.world.clock
        started = clock.monotonic()

        body = {"activityId": activity, "batchId": "00", "exeScript": [], "timeout": 5.0}
        with pytest.raises(GsbError, match="endpoint address not found"):
            await ask(town.requestor, f"exeunit/{activity}/Exec", body)

        assert clock.monotonic() - started < 1

    play(story)


@pytest.mark.parametrize("told", [True, False])
def test_the_end_of_the_agreement_destroys_its_activities_even_if_nobody_tells(
    play: Play, told: bool
) -> None:
    async def story(town: Town) -> None:
        await town.create()
        town.provider.market.end(tell=told)
        if told:
            await asyncio.sleep(1)
        else:
            await asyncio.sleep(35)
        assert town.agent.events == ["CreateActivity", "DestroyActivity"]
        assert not town.agent.unit.alive

    play(story)


def test_events_after_a_restart_keep_the_agreements_session(play: Play) -> None:
    async def story(town: Town) -> None:
        await town.create()
        town.agent.unit.alive = False
        town.agent.ends = False
        await town.provider.restart()
        await asyncio.sleep(GRACE_S + 15)

        events = await town.provider.service.events(town.provider.caller, 0, "session-1", most=100)

        assert [event.kind for event in events] == ["CreateActivity", "DestroyActivity"]
        assert events[0].event_ns < events[1].event_ns
        others = await town.provider.service.events(town.provider.caller, 0, "session-2", 100)
        assert others == []
        strangers = Caller(STRANGER, Assurance.LOCAL)
        assert await town.provider.service.events(strangers, 0, None, 100) == []

    play(story)


def test_nothing_leaves_terminated(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        service, agent = town.provider.service, town.provider.caller
        await service.set_state(agent, activity, {"state": ["Terminated", None], "reason": "x"})
        await service.set_state(agent, activity, {"state": ["Terminated", None]})
        with pytest.raises(Conflict):
            await service.set_state(agent, activity, {"state": ["Ready", None]})
        with pytest.raises(NotFound):
            await town.requestor.service.set_state(
                town.requestor.caller, activity, {"state": ["Ready", None]}
            )
        state = await service.state(agent, activity, 5)
        assert state.wire() == {"state": ["Terminated", None], "reason": "x"}

    play(story)


def test_local_processes_learn_agreement_and_statistics(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        bus = town.provider.bus
        found = await bus.request(
            LOCAL_CALLER,
            "/local/activity/GetAgreementId",
            {"activityId": activity, "role": Role.PROVIDER.value},
            timeout_s=5,
        )
        stats = await bus.request(LOCAL_CALLER, "/local/activity/Stats", {}, timeout_s=5)
        assert found == AGREEMENT
        assert stats == {
            "total": {"Initialized": 1},
            "last1h": {"Initialized": 1},
            "lastActivityTs": None,
        }
        with pytest.raises(RemoteError) as unknown:
            await bus.request(
                LOCAL_CALLER,
                "/local/activity/SetActivityState",
                {"activityId": "00", "state": {"state": ["Ready", None]}},
                timeout_s=5,
            )
        assert unknown.value.payload == {"service": "DAO error: Diesel error: NotFound"}

    play(story)
