"""When the work under an agreement is over, the agreement is ended: whoever else is there."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shem.provider.records import AgreementState
from tests.provider_site import WORD, site, until
from tests.rented import AGREEMENT_ID


async def test_work_that_ended_by_its_terms_ends_the_agreement(tmp_path: Path) -> None:
    async with site(tmp_path, multi=True) as there:
        await there.create("a" * 32)
        there.leave_word("a" * 32)
        there.puppets.made[0].code.set_result(0)

        await until(lambda: len(there.terminations()) == 1)

        assert there.terminations() == [
            {"message": f"Finished with success. {WORD}", "golem.provider.code": "Success"}
        ]
        await until(lambda: there.agreements.ledger.promised == {})
        assert there.agreements.in_force(AGREEMENT_ID) is None


async def test_an_agreement_for_one_activity_ends_with_it(tmp_path: Path) -> None:
    async with site(tmp_path, multi=False) as there:
        await there.create("a" * 32)
        await there.create("b" * 32)
        await until(lambda: there.activities.of(AGREEMENT_ID) == ["a" * 32])
        assert there.terminations() == []

        await there.activities.destroy("a" * 32, "enough")

        await until(lambda: len(there.terminations()) == 1)
        assert there.terminations()[0]["message"] == "Finished with success."


async def test_an_agreement_for_several_activities_outlives_one(tmp_path: Path) -> None:
    async with site(tmp_path, multi=True) as there:
        await there.create("a" * 32)
        await there.activities.destroy("a" * 32, "enough")
        await until(lambda: there.activities.of(AGREEMENT_ID) == [])

        assert there.terminations() == []
        assert there.agreements.in_force(AGREEMENT_ID) is not None


@pytest.mark.parametrize("multi", [True, False])
async def test_work_that_ended_while_no_agent_was_there_is_not_begun_again(
    tmp_path: Path, multi: bool
) -> None:
    async with site(tmp_path, multi=multi) as there:
        await there.create("a" * 32)
        await there.records.set_process("a" * 32, 1, 1.0, restarts=0)
        there.leave_word("a" * 32)

    async with site(tmp_path, multi=multi, agree=False) as there:
        await until(lambda: len(there.terminations()) == 1)

        assert there.puppets.made == []
        assert WORD in there.terminations()[0]["message"]


async def test_an_agreement_may_end_while_another_is_being_broken_off(tmp_path: Path) -> None:
    expired = ("e" * 64, "f" * 64)
    async with site(tmp_path) as before:
        body = before.agreements.in_state(AgreementState.APPROVED)[0].body
        for agreement_id in expired:
            await before.records.add_agreement(agreement_id, body, expires_ns=1)
            await before.records.set_agreement(agreement_id, AgreementState.APPROVED)

    async with site(tmp_path, agree=False) as there:
        with capture_logs() as logs:
            async with there.records._store.unit(expired[0]):  # so that it takes long
                watching = asyncio.create_task(there.agreements.watch())
                await until(lambda: any(log["event"] == "agreement.breaking" for log in logs))
                ended = there.agreements.ended_elsewhere(expired[1], "AgreementTerminatedEvent")
                await asyncio.create_task(ended)
            await until(lambda: len(there.agreements.in_state(AgreementState.APPROVED)) == 1)

        assert [log["agreement"] for log in logs if log["event"] == "agreement.breaking"] == [
            expired[0]
        ]
        assert not watching.done()
        watching.cancel()
        await asyncio.wait((watching,))
