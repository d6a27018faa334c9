"""GAP-17 scenario 1.2: results outlive their ExeUnit, however it ended, and the daemons in between.

The requestor is away while its batch ends and its activity as well; the provider's node has the
results. Real processes.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

import shem
from shem.devnet.program import FIRST_TAG, FRAMES, frames
from shem.rest.client import RestClient
from shem.rest.errors import ApiError
from tests.e2e.keyed import KeyedDevnet, until

pytestmark = pytest.mark.timeout(240)
SCENE = "centre -0.743643887 0.131825904\nwidth 0.02 0.01\nsize 240 180\niterations 2500\n"
"""Frames long enough for a process to be killed among them."""
INTERRUPTED = "interrupted, outcome unknown"
GIVES_UP_AFTER = 4
STREAM_ENDS_S = 30.0


async def left_alone(net: KeyedDevnet) -> tuple[shem.Ticket, str]:
    """Rent, start a batch, and let the requestor's daemon die before it has read anything of it."""
    async with net.golem() as golem:
        activity = await golem.rent(net.package)
        await activity.run("mandel", "scene", SCENE, check=True)
        batch = await activity.submit(frames(FIRST_TAG))
        ticket = await activity.detach()
    await net.requestor.kill()
    return ticket, batch.id


async def terminate_at_provider(net: KeyedDevnet, agreement_id: str) -> None:
    async with net.provider.rest() as rest:
        await rest.market.agreements.terminate(agreement_id, {"message": "the machine is needed"})


async def no_units(net: KeyedDevnet) -> bool:
    return net.exe_units() == []


async def each_frame_once(net: KeyedDevnet) -> None:
    marks = [line for line in net.begun() if FIRST_TAG in line]
    assert len(marks) == len(set(marks))


async def test_read_after_the_agreements_end_and_a_restart_of_the_providers_daemon(
    short_dir: Path,
) -> None:
    async with KeyedDevnet(short_dir) as net:
        ticket, batch_id = await left_alone(net)
        await until(lambda: ended_batch(net, FRAMES))
        await terminate_at_provider(net, ticket.agreement_id)
        await until(lambda: no_units(net))
        await net.handed_over(ticket.activity_id)
        await net.agent.kill()
        await net.provider.kill()
        await net.provider.start()

        await net.requestor.start()

        async with net.golem() as golem, golem.attach(ticket) as attached:
            results = await attached.batch(batch_id).wait()
            report = attached.report
        assert [result.ok for result in results] == [True] * FRAMES
        assert report.liveness == "ended"
        assert report.ended is not None and report.ended.why.endswith("the machine is needed")
        await each_frame_once(net)


async def ended_batch(net: KeyedDevnet, frames_done: int) -> bool:
    """Tell, from the ExeUnit's journal, whether so many commands of the batch have ended."""
    journals = (net.directory / "agent" / "data").glob("exe-unit/work/*/*/journal")
    text = "".join(path.read_text(errors="replace") for path in journals)
    return text.count('"kind":"result"') >= frames_done + 3  # deploy, start, scene


async def test_read_with_nothing_but_the_key_and_a_ticket(short_dir: Path) -> None:
    async with KeyedDevnet(short_dir) as net:
        ticket, batch_id = await left_alone(net)
        net.empty_requestor()
        await until(lambda: ended_batch(net, FRAMES))
        await terminate_at_provider(net, ticket.agreement_id)
        await net.handed_over(ticket.activity_id)
        await net.provider.kill()
        await net.provider.start()

        await net.requestor.start()

        async with net.golem() as golem, golem.attach(ticket) as attached:
            assert attached.report.liveness == "ended"
            assert batch_id in [batch.batch_id for batch in attached.report.batches]
            results = await attached.batch(batch_id).wait()
        assert [result.ok for result in results] == [True] * FRAMES


async def test_after_a_reboot_of_the_providers_host_what_was_finished_is_there(
    short_dir: Path,
) -> None:
    async with KeyedDevnet(short_dir) as net:
        ticket, batch_id = await left_alone(net)
        await until(lambda: ended_batch(net, 2))
        [unit] = net.exe_units()
        await net.agent.kill()
        await net.provider.kill()
        os.kill(unit, signal.SIGKILL)
        await until(lambda: no_units(net))

        await net.provider.start()
        await net.agent.start()
        await net.requestor.start()

        async with net.golem() as golem, golem.attach(ticket) as attached:
            results = await attached.batch(batch_id).wait()
            assert (await attached.run("mandel", "note", "after the reboot")).ok
            await attached.end("done")
            await net.handed_over(ticket.activity_id)
            again = await attached.batch(batch_id).wait()
        finished, last = results[:-1], results[-1]
        assert len(finished) >= 2 and all(result.ok for result in finished)
        assert not last.ok and (last.message or "").startswith(INTERRUPTED)
        assert again == results
        await each_frame_once(net)


async def test_an_exe_unit_that_keeps_dying_leaves_its_results(short_dir: Path) -> None:
    async with KeyedDevnet(short_dir) as net:
        ticket, batch_id = await left_alone(net)
        await until(lambda: ended_batch(net, 2))
        seen: set[int] = set()

        async def another() -> bool:
            return bool(set(net.exe_units()) - seen)

        for _ in range(GIVES_UP_AFTER):
            await until(another)
            (unit,) = set(net.exe_units()) - seen
            os.kill(unit, signal.SIGKILL)
            seen.add(unit)
        await net.handed_over(ticket.activity_id)
        await net.requestor.start()

        async with net.golem() as golem, golem.attach(ticket) as attached:
            results = await attached.batch(batch_id).wait()
            report = attached.report
        assert len(results) >= 3 and all(result.ok for result in results[:-1])
        assert (results[-1].message or "").startswith(INTERRUPTED)
        assert report.ended is not None and "execution aborted" in report.ended.why


async def test_an_exe_unit_that_hangs_at_its_end_leaves_its_results(short_dir: Path) -> None:
    async with KeyedDevnet(short_dir) as net:
        async with net.golem() as golem:
            activity = await golem.rent(net.package)
            noted = await activity.run("mandel", "note", "once", check=True)
            ticket = await activity.detach()
        await net.requestor.kill()
        net.empty_requestor()
        [unit] = net.exe_units()
        os.kill(unit, signal.SIGSTOP)
        await terminate_at_provider(net, ticket.agreement_id)
        await net.handed_over(ticket.activity_id)

        await net.requestor.start()
        async with net.golem() as golem, golem.attach(ticket) as attached:
            [found] = await attached.batch(noted.batch_id).wait()
        assert found == noted


async def test_a_stranger_with_the_ticket_is_told_nothing(short_dir: Path) -> None:
    async with KeyedDevnet(short_dir) as net:
        ticket, batch_id = await left_alone(net)
        await until(lambda: ended_batch(net, FRAMES))
        await terminate_at_provider(net, ticket.agreement_id)
        await net.handed_over(ticket.activity_id)
        net.empty_requestor()
        env = dict(net.requestor.program.env)
        env.pop("YAGNA_AUTOCONF_ID_SECRET")
        net.requestor.program.env = env

        await net.requestor.start()

        async with net.golem() as golem:
            assert golem.identity != ticket.requestor_id
            with pytest.raises(shem.GolemError):
                await golem.attach(ticket)
        async with RestClient(net.requestor.api_url, net.requestor.app_key) as rest:
            with pytest.raises(ApiError, match="ot found"):
                await rest.activity.results(ticket.activity_id, batch_id)


async def test_a_journal_that_cannot_be_read_is_said_and_nothing_is_guessed(
    short_dir: Path,
) -> None:
    async with KeyedDevnet(short_dir) as net:
        ticket, batch_id = await left_alone(net)
        await until(lambda: ended_batch(net, 2))
        [journal] = (net.directory / "agent" / "data").glob("exe-unit/work/*/*/journal")
        damage(journal)
        [unit] = net.exe_units()
        os.kill(unit, signal.SIGKILL)
        await net.handed_over(ticket.activity_id)
        assert "results.lost" in net.log_of("provider")
        await net.requestor.start()

        async with net.golem() as golem, golem.attach(ticket) as attached:
            results = await attached.batch(batch_id).wait()
            ended = (await golem.attach(ticket)).report.ended
        assert (results[-1].message or "").startswith(INTERRUPTED)
        assert ended is not None and "execution aborted" in ended.why


def damage(journal: Path) -> None:
    with journal.open("r+b") as file:
        file.seek(4)
        file.write(b"????")


async def test_a_stream_of_an_exe_unit_that_dies_ends(short_dir: Path) -> None:
    async with (
        KeyedDevnet(short_dir) as net,
        net.golem() as golem,
        golem.rent(net.package) as activity,
    ):
        await activity.run("mandel", "scene", SCENE, check=True)
        batch = await activity.submit(frames(FIRST_TAG))
        async with asyncio.timeout(STREAM_ENDS_S):
            async for _ in batch.stream():
                for unit in net.exe_units():
                    os.kill(unit, signal.SIGKILL)
        results = await batch.wait()
        assert (results[-1].message or "").startswith(INTERRUPTED)
