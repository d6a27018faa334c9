"""How long a requestor may be away, and how an activity ended: told by its own node, in words."""

import asyncio

import pytest

from shem.activity.messages import ActivityEnded, EndpointGone
from tests.sim.activity_town import RUN, STRANGER, Play, Town
from tests.sim.test_activity_rest import Client


async def standing(town: Town, activity_id: str):
    return await town.requestor.service.standing(town.requestor.caller, activity_id)


def test_what_limits_an_absence_is_told_while_the_provider_is_away(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await town.requestor.service.usage(town.requestor.caller, activity, 5)
        town.cut()
        await asyncio.sleep(120)

        found = (await Client(town.requestor)("GET", f"/activity/{activity}/absence")).json

        assert (found["alive"], found["ended"]) == (True, None)
        assert found["limitedBy"] == "agreement-expiration"
        assert found["seconds"] == pytest.approx(10 * 3600 - 120, abs=20)
        assert found["until"].startswith("2027-01-15T18:00:00")
        limits = {limit["kind"]: limit for limit in found["limits"]}
        assert limits["debit-notes"]["applies"] is False
        assert limits["idle-agreement"]["effect"] == "ends-agreement"
        assert found["resultsUntil"] == limits["agreement-expiration"]["at"]
        assert (found["due"]["amount"], found["due"]["isEstimate"]) == ("0", True)
        assert found["due"]["usage"].keys() == {"golem.usage.cpu_sec", "golem.usage.duration_sec"}

    play(story)


@pytest.mark.parametrize(
    ("by", "code", "told"),
    [("Provider", "NoActivity", "Provider"), ("Provider", "Expired", "Expiry")],
)
def test_the_end_of_the_agreement_is_the_end_of_the_activity(
    play: Play, by: str, code: str, told: str
) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await asyncio.sleep(60)
        town.requestor.market.end(by=by, code=code)

        found = await standing(town, activity)

        assert not found.alive and found.seconds is None and found.ended is not None
        assert (found.ended.by, found.ended.code) == (told, code)
        assert found.ended.why == "agreement terminated: so be it"
        assert found.ended.at is not None and found.ended.at.startswith("2027-01-15T08:01:")

    play(story)


def test_an_exec_after_the_end_says_who_ended_it_and_why(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await town.agent.unit.report_state("Terminated", None, reason="execution aborted")
        assert await town.state(activity) == ["Terminated", None]

        answer = await Client(town.requestor)("POST", f"/activity/{activity}/exec", {"text": RUN})

        assert (answer.status, answer.json["code"]) == (500, "activity-ended")
        message = answer.json["message"]
        assert f"Activity {activity} has ended: by Provider at " in message
        assert "execution aborted" in message
        assert "GSB error" in message and "endpoint address not found" in message

    play(story)


def test_an_end_that_this_node_has_not_heard_of_is_asked_for(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await asyncio.sleep(100)
        town.agent.unit.alive = False
        town.agent.unit.unbind()
        await town.agent.unit.report_state("Terminated", None, reason="execution aborted")

        with pytest.raises(ActivityEnded, match=r"by Provider .*: execution aborted"):
            await town.exec(activity)

    play(story)


def test_calls_that_meet_no_exeunit_learn_of_the_agreements_end(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        await asyncio.sleep(100)
        town.agent.unit.unbind()
        with pytest.raises(EndpointGone) as alive:
            await town.requestor.service.running_command(town.requestor.caller, activity, 1)
        assert not isinstance(alive.value, ActivityEnded)
        town.requestor.market.end(tell=False)

        for call in (
            town.requestor.service.running_command(town.requestor.caller, activity, 1),
            town.results(activity, "b" * 32),
            town.exec(activity),
        ):
            with pytest.raises(ActivityEnded, match=r"by Provider.*so be it.*NoActivity"):
                await call

    play(story)


def test_a_destroyed_activity_was_ended_by_its_requestor(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        town.cut()
        await town.destroy(activity, timeout_s=1)
        waiting = (await standing(town, activity)).ended
        town.join()
        await asyncio.sleep(120)
        town.requestor.market.end()
        done = (await standing(town, activity)).ended

        assert waiting is not None and "not confirmed" in waiting.why
        assert done is not None and (done.by, done.why) == ("Requestor", "destroyed")

    play(story)


def test_the_standing_is_for_parties_alone(play: Play) -> None:
    async def story(town: Town) -> None:
        activity = await town.create()
        assert (await Client(town.provider)("GET", f"/activity/{activity}/absence")).json["alive"]
        stranger = Client(town.requestor, STRANGER)
        assert (await stranger("GET", f"/activity/{activity}/absence")).status == 404

    play(story)
