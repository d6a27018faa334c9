"""Pollers miss no change, whatever comes first."""

import asyncio

from shem.store.topics import TOPICS_MAX, Topics


async def test_a_change_before_the_wait_is_not_missed() -> None:
    topics = Topics()
    since = topics.version("t")
    topics.bump("t")

    assert await topics.changed("t", since, 0) is True


async def test_a_change_during_the_wait_wakes_all_pollers_of_the_topic() -> None:
    topics = Topics()
    pollers = [asyncio.create_task(topics.changed("t", 0, 10)) for _ in range(3)]
    other = asyncio.create_task(topics.changed("other", 0, 0.05))
    await asyncio.sleep(0)
    topics.bump("t")

    assert await asyncio.gather(*pollers) == [True, True, True]
    assert await other is False


async def test_no_change_ends_with_the_timeout() -> None:
    topics = Topics()

    assert await topics.changed("t", topics.version("t"), 0.01) is False
    assert topics._waiting == {}


async def test_a_cancelled_poller_leaves_nothing_behind() -> None:
    topics = Topics()
    poller = asyncio.create_task(topics.changed("t", 0, 10))
    await asyncio.sleep(0)
    poller.cancel()
    await asyncio.wait((poller,))

    assert topics._waiting == {}


async def test_forgotten_topics_wake_once_too_often_and_never_too_seldom() -> None:
    topics = Topics()
    topics.bump("mine")
    since = topics.version("mine")
    for number in range(TOPICS_MAX + 1):
        topics.bump(f"topic {number}")

    assert len(topics._versions) == TOPICS_MAX
    assert topics.version("mine") >= since
    quiet = topics.version("mine")
    assert await topics.changed("mine", quiet, 0) is False
    topics.bump("mine")
    assert await topics.changed("mine", quiet, 0) is True


async def test_all_pollers_wake_when_changes_may_have_been_missed() -> None:
    topics = Topics()
    pollers = [asyncio.create_task(topics.changed(name, 0, 10)) for name in "abc"]
    await asyncio.sleep(0)
    topics.bump_all()

    assert await asyncio.gather(*pollers) == [True, True, True]


async def test_after_closing_nobody_waits() -> None:
    topics = Topics()
    topics.close()

    assert await topics.changed("t", topics.version("t"), 600) is False
