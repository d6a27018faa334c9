"""When the work under an agreement is over, the agreement is ended: whoever else is there."""

from pathlib import Path

import pytest

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
