"""The resource ledger and the shares of a profile."""

from typing import Any

import pytest

from shem.provider.hardware import (
    Capacity,
    Profile,
    Resources,
    Share,
    capacity,
    capped,
)
from shem.provider.ledger import Ledger, resources_of

MACHINE = Resources(8, 32.0, 100.0)
PROFILE = Profile(cpu_threads=4, mem_gib=8.0, storage_gib=40.0)


def ledger(*held: Resources, agreements_max: int = 4, exclusive: bool = False) -> Ledger:
    total = Resources(4, 8.0, 40.0)
    promised = {str(index): one for index, one in enumerate(held)}
    return Ledger(Capacity(total, Resources(1, 2.0, 10.0), exclusive), agreements_max, promised)


def test_what_is_promised_is_no_longer_free() -> None:
    assert ledger(Resources(1, 3.0, 5.0), Resources(1, 1.0, 5.0)).free == Resources(4, 4.0, 30.0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Resources(1, 2.0, 10.0), None),
        (Resources(4, 4.0, 30.0), None),
        (Resources(5, 1.0, 1.0), "Too few threads (5 needed, 4 free)"),
        (Resources(1, 4.1, 1.0), "Too few GiB of memory (4.1 needed, 4 free)"),
        (Resources(1, 9.0, 99.0), "GiB of memory (9 needed, 4 free), GiB of storage (99 needed"),
    ],
)
def test_an_agreement_over_what_is_left_is_a_shortage(
    wanted: Resources, message: str | None
) -> None:
    found = ledger(Resources(4, 4.0, 10.0)).shortage(wanted)

    assert found is None if message is None else message in (found or "")


def test_at_the_limit_of_agreements_there_is_no_capacity() -> None:
    full = ledger(Resources(1, 0.1, 0.1), agreements_max=1)

    assert full.shortage(Resources(1, 0.1, 0.1)) == (
        "No capacity available. Reached Agreements limit: 1"
    )


def test_threads_are_shared_unless_the_profile_says_otherwise() -> None:
    two = Resources(2, 0.5, 0.5)

    assert ledger(two, two).shortage(two) is None
    assert "threads" in (ledger(two, two, exclusive=True).shortage(two) or "")


def test_equal_shares_of_everything_fit_as_often_as_agreements_are_allowed() -> None:
    given = capacity(PROFILE, Resources(8, 7.77, 33.33), agreements_max=3)
    held = dict.fromkeys("ab", given.share)

    assert Ledger(given, 3, held).shortage(given.share) is None


@pytest.mark.parametrize(
    ("profile", "share"),
    [
        (PROFILE, Resources(4, 2.0, 10.0)),
        (Profile(4, 8.0, 40.0, exclusive_threads=True), Resources(1, 2.0, 10.0)),
        (Profile(4, 8.0, 40.0, Share(2, 3.0, 99.0)), Resources(2, 3.0, 40.0)),
        (Profile(99, 999.0, 999.0), Resources(8, 8.0, 25.0)),
        (Profile(1, 0.1, 0.1), Resources(1, 0.1, 0.1)),
    ],
)
def test_one_agreements_share(profile: Profile, share: Resources) -> None:
    assert capacity(profile, MACHINE, agreements_max=4).share == share


def test_options_cap_the_machine() -> None:
    assert capped(MACHINE, (2, None, 5.0)) == Resources(2, 32.0, 5.0)
    assert capped(MACHINE, (99, 99.0, 999.0)) == MACHINE


@pytest.mark.parametrize("value", [None, "4", True, [4]])
def test_an_offer_that_names_no_amount_takes_none(value: Any) -> None:
    assert resources_of({"golem.inf.mem.gib": value}).memory_gib == 0.0
