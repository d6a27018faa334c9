"""Old files go, and nothing that anybody may still need."""

import os
from pathlib import Path

import pytest

from shem.cli.provider_clean import clean_now
from shem.kernel.ids import NodeId
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.provider.cleaning import KEPT_S, clean
from shem.provider.config import ProviderConfig
from shem.provider.records import AgreementState, Records
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
