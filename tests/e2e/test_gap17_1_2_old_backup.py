"""GAP-17 scenario 1.2: the requestor's daemon comes back with an old backup of its data directory.

What it lacks it learns, what is stale is refused or corrected, and either is said. Real processes.
"""

from pathlib import Path

import pytest

import shem
from shem.devnet.program import FIRST_TAG, FRAMES, frames
from shem.rest.errors import ApiError
from tests.e2e.keyed import KeyedDevnet, until

pytestmark = pytest.mark.timeout(240)
CHOSEN = "0123456789abcdef" * 2


async def backed_up(net: KeyedDevnet) -> Path:
    """Stop the requestor's daemon, copy its data directory, and start it again."""
    await net.requestor.program.stop()
    copy = net.back_up()
    await net.requestor.start()
    return copy


async def put_back(net: KeyedDevnet, copy: Path) -> None:
    await net.requestor.kill()
    net.restore(copy)
    await net.requestor.start()


def notes(net: KeyedDevnet) -> list[str]:
    """Return what the payloads of all activities have written down."""
    found = (net.directory / "agent" / "data").glob("exe-unit/work/*/*/vol-*/ledger.txt")
    return sorted(line for path in found for line in path.read_text().splitlines())


async def state_at_provider(net: KeyedDevnet, agreement_id: str) -> str:
    async with net.provider.rest() as rest:
        return (await rest.market.agreements.get(agreement_id)).state


async def test_what_ended_after_the_backup_stays_ended_and_what_began_is_taken_up(
    short_dir: Path,
) -> None:
    async with KeyedDevnet(short_dir) as net:
        async with net.golem() as golem:
            activity = await golem.rent(net.package)
            await activity.run("mandel", "note", "one", check=True)
            old = await activity.detach()
        copy = await backed_up(net)
        async with net.golem() as golem:
            activity = await golem.attach(old)
            two = await activity.submit(shem.Run("mandel", "note", "two"), batch_id=CHOSEN)
            await two.wait(check=True)
            await activity.agreement.terminate("done with it")
            later = await golem.rent(net.package)
            await later.run("mandel", "note", "three", check=True)
            new = await later.detach()
        await net.handed_over(old.activity_id)

        await put_back(net, copy)

        async with net.golem() as golem:

            async def known() -> bool:
                return (await golem.attach(old)).report.ended is not None

            await until(known)
            gone = await golem.attach(old)
            assert gone.report.agreement_state == "Terminated"
            assert gone.report.ended is not None
            assert (gone.report.ended.by, gone.report.ended.why) == ("Requestor", "done with it")
            [result] = await gone.batch(CHOSEN).wait()
            assert result.ok
            with pytest.raises(shem.GolemError, match="ended"):
                await gone.submit(shem.Run("mandel", "note", "two"), batch_id=CHOSEN)
            with pytest.raises(shem.GolemError):
                await gone.run("mandel", "note", "four")
            async with net.requestor.rest() as rest:
                with pytest.raises(ApiError, match="is not Approved"):
                    await rest.activity.create(old.agreement_id)

            taken = await golem.attach(new)
            assert taken.report.alive
            await taken.run("mandel", "note", "five", check=True)
            assert await state_at_provider(net, old.agreement_id) == "Terminated"
            assert await state_at_provider(net, new.agreement_id) == "Approved"
            await taken.end("done")
        assert notes(net) == ["five", "one", "three", "two"]
        said = net.log_of("requestor")
        assert "market.reconciled" in said and "batches.found" in said


async def test_a_batch_that_began_after_the_backup_goes_on_and_is_not_run_twice(
    short_dir: Path,
) -> None:
    async with KeyedDevnet(short_dir) as net:
        async with net.golem() as golem:
            activity = await golem.rent(net.package)
            ticket = await activity.detach()
        copy = await backed_up(net)
        async with net.golem() as golem:
            activity = await golem.attach(ticket)
            await activity.submit(frames(FIRST_TAG), batch_id=CHOSEN)

        await put_back(net, copy)

        async with net.golem() as golem, golem.attach(ticket, on_exit="end") as attached:
            assert CHOSEN in [batch.batch_id for batch in attached.report.batches]
            again = await attached.submit(frames(FIRST_TAG), batch_id=CHOSEN)
            results = await again.wait(check=True)
            with pytest.raises(shem.GolemError, match="already exists"):
                await attached.submit(shem.Run("mandel", "note", "other"), batch_id=CHOSEN)
            assert len(results) == FRAMES
            marks = notes(net)
            assert len(marks) == len(set(marks)) == 2 * FRAMES
