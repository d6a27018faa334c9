"""Old files go, and nothing that anybody may still need."""

import json
import os
from pathlib import Path

import pytest

from shem.cli.provider_clean import clean_now
from shem.kernel.ids import NodeId
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.provider.cleaning import KEPT_S, Leftovers, clean
from shem.provider.config import ProviderConfig
from shem.provider.records import ActivityPhase, AgreementState, Records
from shem.provider.stand_in import PREFIX
from shem.store.open import open_store
from tests.rented import PROVIDER

OLD_S = KEPT_S + 86_400


def made(path: Path, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    moment = World().clock.wall_ns() / NS_PER_S - age_s
    for changed in (path, *list(path.parents)[:2]):
        os.utime(changed, (moment, moment))
    return path


@pytest.mark.parametrize(
    ("state", "is_kept"),
    [(None, False), (AgreementState.APPROVED, True), (AgreementState.ENDED, True)],
)
async def test_an_old_work_directory_goes_when_its_agreement_is_long_over(
    tmp_path: Path, state: AgreementState | None, is_kept: bool
) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path)
    old = made(config.work_dir / "agreement" / "activity" / "journal", OLD_S)
    new = made(config.work_dir / "other" / "activity" / "journal", KEPT_S / 2)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    records = Records(store, World(), NodeId(PROVIDER))
    if state is not None:
        await records.add_agreement("agreement", {}, 0)
        await records.set_agreement("agreement", state)

    await clean(config, records, World())

    await store.close()
    assert old.exists() is is_kept
    assert new.exists()


async def test_the_operator_may_clean_sooner(tmp_path: Path) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path)
    over = made(config.work_dir / "over" / "activity" / "journal", 7_200)
    alive = made(config.work_dir / "alive" / "activity" / "journal", 7_200)
    image = made(config.cache_dir / "image", 7_200)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    records = Records(store, World(), NodeId(PROVIDER))
    await records.add_agreement("alive", {}, 0)

    tried = clean_now(tmp_path, age_s=3_600, dry_run=True)
    assert over.exists()
    done = clean_now(tmp_path, age_s=3_600, dry_run=False)

    await store.close()
    assert [old.path.name for old in tried] == [old.path.name for old in done] == ["over", "image"]
    assert (over.exists(), image.exists(), alive.exists()) == (False, False, True)
    assert clean_now(tmp_path / "nowhere", age_s=0, dry_run=False) == []


async def test_images_stay_while_an_activity_may_need_one(tmp_path: Path) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path)
    old = made(config.cache_dir / "old.img", OLD_S)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    records = Records(store, World(), NodeId(PROVIDER))
    await records.add_activity("activity", "agreement")

    await clean(config, records, World())

    await store.close()
    assert old.exists()


async def test_old_images_go_and_a_missing_directory_is_nothing(tmp_path: Path) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path)
    old = made(config.cache_dir / "old.img", OLD_S)
    new = made(config.cache_dir / "new.img", 1)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")

    await clean(config, Records(store, World(), NodeId(PROVIDER)), World())

    await store.close()
    assert not old.exists()
    assert new.exists()


async def speak_for(records: Records, directory: Path) -> None:
    """Note, as the stand-in does, that a journal is the only copy of promised results."""
    duty = {"activity_id": directory.name, "directory": str(directory), "requestor": "0x"}
    await records.set(PREFIX + directory.name, json.dumps(duty | {"until_ns": 1}))


async def test_results_that_only_the_journal_has_stay_until_their_time_is_over(
    tmp_path: Path,
) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path)
    journal = made(config.work_dir / "agreement" / "activity" / "journal", OLD_S)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    records = Records(store, World(), NodeId(PROVIDER))
    await speak_for(records, journal.parent)

    await clean(config, records, World())
    assert clean_now(tmp_path, age_s=3_600, dry_run=False) == []
    assert journal.exists()

    await records.forget(PREFIX + "activity")
    await clean(config, records, World())
    await store.close()
    assert not journal.exists()


@pytest.mark.parametrize("is_wanted", [False, True])
async def test_the_files_of_an_ended_activity_go_at_once_where_the_operator_wants_it(
    tmp_path: Path, is_wanted: bool
) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path, clears_activities=is_wanted)
    ended = made(config.work_dir / "agreement" / "ended" / "journal", 0)
    spoken_for = made(config.work_dir / "agreement" / "spoken-for" / "journal", 0)
    other = made(config.work_dir / "agreement" / "other" / "journal", 0)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    records = Records(store, World(), NodeId(PROVIDER))
    await speak_for(records, spoken_for.parent)

    for path in (ended, spoken_for):
        await Leftovers(config, records).activity_ended(path.parent)

    await store.close()
    assert ended.parent.exists() is not is_wanted
    assert spoken_for.exists()
    assert other.exists()


async def test_an_agreements_directory_goes_when_nothing_of_it_is_needed(tmp_path: Path) -> None:
    config = ProviderConfig(app_key="k", data_dir=tmp_path, clears_agreements=True)
    journal = made(config.work_dir / "agreement" / "activity" / "journal", 0)
    store = await open_store(tmp_path / "agent.db", world=World(), migrations="agent")
    records = Records(store, World(), NodeId(PROVIDER))
    leftovers = Leftovers(config, records)
    await records.add_agreement("agreement", {}, 0)
    await records.add_activity("activity", "agreement")

    await leftovers.activity_ended(journal.parent)
    assert journal.exists()  # the agreement is in force
    await records.set_agreement("agreement", AgreementState.ENDED)
    await leftovers.agreement_ended("agreement")
    assert journal.exists()  # the activity has not ended
    await records.set_activity("activity", ActivityPhase.ENDED)
    await speak_for(records, journal.parent)
    await leftovers.activity_ended(journal.parent)
    assert journal.exists()  # its results are promised
    await records.forget(PREFIX + "activity")
    await leftovers.activity_ended(journal.parent)

    await store.close()
    assert not journal.parent.parent.exists()
    await leftovers.agreement_ended("nowhere")
