"""What was acknowledged while the peer was away is delivered, though the speaker died meanwhile.

Nobody says anything twice here: only the outbox can bring it about.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shem.rest.client import RestClient
from shem.rest.errors import Disconnected
from tests.crash.slice_siege import Siege, kill, rent, siege, start_up

OWED_WITHIN_S = 20.0


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(OWED_WITHIN_S):
        while not await condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.05)


async def ended_at(node: RestClient, activity_id: str) -> bool:
    return (await node.activity.state(activity_id)).state == ("Terminated", None)


async def back(under: Siege) -> None:
    """Both daemons die, and come back."""
    daemons = (under.net.requestor.program, under.net.provider.program)
    await kill(daemons)
    await asyncio.gather(*(start_up(daemon) for daemon in daemons))


@pytest.mark.timeout(180)
async def test_a_destroy_and_a_terminate_reach_a_provider_that_was_away(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        ours, theirs = under.load.rest, under.load.provider
        destroyed, left = await rent(under.net), await rent(under.net)
        agreement_id = await ours.activity.agreement(left)
        await kill([under.net.provider.program])

        await ours.activity.destroy(destroyed, timeout_s=0.5)
        await ours.market.agreements.terminate(agreement_id, {"message": "over"})
        await back(under)

        for activity_id in (destroyed, left):
            await until(lambda activity_id=activity_id: ended_at(theirs, activity_id))
            await until(lambda activity_id=activity_id: ended_at(ours, activity_id))
        assert (await theirs.market.agreements.get(agreement_id)).state == "Terminated"
        told = await theirs.market.agreements.termination(agreement_id)
        assert (told.terminator, told.reason) == ("Requestor", {"message": "over"})
        await under.settle()

    under.require_unbroken(0)


@pytest.mark.timeout(180)
async def test_a_wish_to_destroy_is_carried_out_though_nobody_asks_again(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        program, activity_id = under.net.requestor.program, await rent(under.net)
        clean = program.env
        await program.kill()
        program.env = {**clean, "SHEM_FAILPOINTS": "destroy.posted=kill"}
        await start_up(program)

        with pytest.raises(Disconnected):
            await under.load.rest.activity.destroy(activity_id)
        program.env = clean
        await start_up(program)

        await until(lambda: ended_at(under.load.provider, activity_id))
        await until(lambda: ended_at(under.load.rest, activity_id))
        await under.settle()

    under.require_unbroken(0)


@pytest.mark.timeout(180)
async def test_the_providers_terminate_reaches_a_requestor_that_was_away(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        ours, theirs = under.load.rest, under.load.provider
        agreement_id = await ours.activity.agreement(await rent(under.net))
        await kill([under.net.requestor.program])

        await theirs.market.agreements.terminate(agreement_id, {"message": "closing"})
        await back(under)

        async def known() -> bool:
            return (await ours.market.agreements.get(agreement_id)).state == "Terminated"

        await until(known)
        told = await ours.market.agreements.termination(agreement_id)
        assert (told.terminator, told.reason) == ("Provider", {"message": "closing"})
        events = await ours.market.agreements.events(timeout_s=0)
        ends = [e.event_type for e in events if e.agreement_id == agreement_id]
        assert ends == ["AgreementApprovedEvent", "AgreementTerminatedEvent"]
        await under.settle()

    under.require_unbroken(0)
