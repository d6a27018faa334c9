"""Progress of a map: one accepted result per input, and honest recomputations."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.kernel.errors import StorageFault, UsageError
from shem.sdk.batch import CommandResult
from shem.sdk.progress import Progress, result_fields

DIGESTS = [f"digest-{index}" for index in range(4)]
Entry = dict[str, Any]


def result(text: str) -> CommandResult:
    return CommandResult("b", 0, True, text, "", None, "2026-11-23T20:10:00Z", True)


def entry(kind: str, index: int, batch: str = "b", **more: Any) -> Entry:
    made = {"kind": kind, "input": index, "digest": DIGESTS[index], "activity": "a", "batch": batch}
    return {**made, "provider": "0xp", **more}


def assigned(index: int, batch: str = "b") -> Entry:
    return entry("assigned", index, batch)


def done(index: int, batch: str = "b", text: str = "x") -> Entry:
    return entry("done", index, batch, results=[result_fields(result(text))])


def lost(index: int, batch: str = "b", *, ran: bool = True) -> Entry:
    return entry("lost", index, batch, ran=ran, why="gone")


steps = st.one_of(
    *(
        st.builds(make, st.integers(0, 3), st.sampled_from(["b1", "b2"]))
        for make in (assigned, done, lost)
    ),
    st.just({"kind": "fresh"}),
)


@given(st.lists(steps, max_size=30))
def test_every_input_is_in_exactly_one_place(entries: list[Entry]) -> None:
    progress = Progress.of("m", DIGESTS, entries)
    for index in range(len(DIGESTS)):
        is_pending = index in progress.pending
        places = [is_pending, index in progress.in_flight, index in progress.done]
        assert sum(places) >= 1
        assert not (is_pending and index in progress.done)
        assert not (is_pending and index in progress.in_flight)


@given(st.lists(steps, max_size=30))
def test_the_first_accepted_result_is_the_result(entries: list[Entry]) -> None:
    progress = Progress.of("m", DIGESTS, entries)
    since = max((n + 1 for n, e in enumerate(entries) if e["kind"] == "fresh"), default=0)
    for index, kept in progress.done.items():
        first = next(e for e in entries[since:] if e["kind"] == "done" and e["input"] == index)
        assert kept.results[0].batch_id == first["batch"]


@given(st.lists(steps, max_size=30), st.integers(0, 30))
def test_a_program_that_continues_knows_what_the_last_one_knew(
    entries: list[Entry], cut: int
) -> None:
    live = Progress.of("m", DIGESTS, entries[:cut])
    for item in entries[cut:]:
        live.apply(item)
    assert live == Progress.of("m", DIGESTS, entries)


def test_the_life_of_an_input() -> None:
    progress = Progress.of("m", DIGESTS[:1], [])
    assert list(progress.pending) == [0] and not progress.finished
    progress.apply(assigned(0, "b1"))
    assert progress.in_flight[0].batch_id == "b1" and not progress.pending
    progress.apply(lost(0, "b1"))
    assert list(progress.pending) == [0] and progress.attempts_lost(0) == 1
    progress.apply(assigned(0, "b2"))
    progress.apply(done(0, "b2", "out"))
    assert progress.finished
    assert progress.done[0].results[0].stdout == "out"
    assert [(r.index, r.batch_id) for r in progress.recomputed] == [(0, "b1")]


def test_a_batch_that_never_ran_is_no_recomputation() -> None:
    progress = Progress.of("m", DIGESTS, [assigned(1), lost(1, ran=False)])
    assert progress.recomputed == [] and 1 in progress.pending


def test_a_yagnas_own_id_replaces_ours() -> None:
    progress = Progress.of("m", DIGESTS, [assigned(1, "mine"), entry("renamed", 1, "theirs")])
    assert progress.in_flight[1].batch_id == "theirs" and progress.in_flight[1].confirmed


def test_other_inputs_under_the_same_name_are_refused() -> None:
    with pytest.raises(UsageError, match="input 1 of map 'm' is not the one"):
        Progress.of("m", ["digest-0", "other"], [done(1)])


def test_inputs_may_be_added_and_left_out_at_the_end() -> None:
    grown = Progress.of("m", [*DIGESTS, "new"], [done(0)])
    shrunk = Progress.of("m", DIGESTS[:1], [done(0), done(3)])
    assert list(grown.pending) == [1, 2, 3, 4] and shrunk.finished


@pytest.mark.parametrize(
    "break_it",
    [
        lambda e: e.pop("batch"),
        lambda e: e.update(results=[{}]),
        lambda e: e.update(kind="odd"),
        lambda e: e.update(input="x"),
    ],
)
def test_damaged_notes_are_said(break_it: Callable[[Entry], object]) -> None:
    broken = done(0)
    break_it(broken)
    with pytest.raises(StorageFault, match="is damaged"):
        Progress.of("m", DIGESTS, [broken])
