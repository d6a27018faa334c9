"""Whatever is lost, late, repeated or restarted: a batch runs at most once and is never lied about.

The machine plays requestor and provider around the batch table. Messages wait in the network until
they are delivered, delivered once more, or lost; answers that come after their call gave up are
ignored, as the bus does.
"""

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shem.activity.batches import FINAL, SENDABLE, TRANSITIONS, BatchState, News, learn


@dataclass(eq=False)
class Call:
    """One message on its way, or its answer on its way back."""

    is_exec: bool
    waiting: bool = True
    """The requestor still listens for the answer."""
    answer: News | None = None


class BatchMachine(RuleBasedStateMachine):
    """One batch id, one requestor's row, one ExeUnit's journal."""

    def __init__(self) -> None:
        super().__init__()
        self.row = BatchState.INTENT
        self.sent = False
        self.calls: list[Call] = []
        self.there = True
        self.ran = 0
        self.never = False

    def _learn(self, news: News) -> None:
        state = learn(self.row, news)
        assert state is not None, (self.row, news)
        self.row = state

    def _busy(self) -> bool:
        return any(call.waiting for call in self.calls)

    @rule()
    def exec(self) -> None:
        if self.row not in SENDABLE or self._busy():
            return
        if self.row is BatchState.INTENT and self.sent:
            self._learn(News.SILENCE)
        self.sent = True
        self.calls.append(Call(is_exec=True))

    @rule()
    def ask(self) -> None:
        if self.row not in SENDABLE or self._busy():
            return
        if self.row is BatchState.INTENT:
            self._learn(News.SILENCE)
        self.calls.append(Call(is_exec=False))

    @precondition(lambda self: any(call.answer is None for call in self.calls))
    @rule(pick=st.randoms(use_true_random=False), again=st.booleans())
    def arrive(self, pick: Random, again: bool) -> None:
        call = pick.choice([call for call in self.calls if call.answer is None])
        answer = self._provider(call)
        if again and self.there:
            answer = self._provider(call)
        call.answer = answer

    def _provider(self, call: Call) -> News:
        if not self.there:
            return News.GONE
        if call.is_exec:
            if self.never:
                return News.REFUSED
            self.ran += not self.ran
            return News.ACCEPTED
        if self.ran:
            return News.ACCEPTED
        self.never = True
        return News.NEVER

    @precondition(lambda self: any(call.answer is not None for call in self.calls))
    @rule(pick=st.randoms(use_true_random=False))
    def answer(self, pick: Random) -> None:
        call = pick.choice([call for call in self.calls if call.answer is not None])
        self.calls.remove(call)
        if not call.waiting:
            return
        assert call.answer is not None
        if call.is_exec or call.answer is not News.GONE:
            self._learn(call.answer)

    @precondition(lambda self: bool(self.calls))
    @rule(pick=st.randoms(use_true_random=False))
    def lose(self, pick: Random) -> None:
        call = pick.choice(self.calls)
        self._give_up(call)
        self.calls.remove(call)

    @rule()
    def time_out(self) -> None:
        for call in self.calls:
            self._give_up(call)

    def _give_up(self, call: Call) -> None:
        if call.waiting:
            call.waiting = False
            if call.is_exec:
                self._learn(News.SILENCE)

    @rule()
    def restart_requestor(self) -> None:
        for call in self.calls:
            call.waiting = False

    @rule(there=st.booleans())
    def exeunit(self, there: bool) -> None:
        self.there = there

    @invariant()
    def at_most_once(self) -> None:
        assert self.ran <= 1
        assert not (self.ran and self.never)

    @invariant()
    def what_is_told_is_true(self) -> None:
        if self.row is BatchState.ACCEPTED:
            assert self.ran == 1
        if self.row in (BatchState.NEVER, BatchState.REFUSED):
            assert self.ran == 0
            on_its_way = [call for call in self.calls if call.is_exec and call.answer is None]
            assert self.never or not on_its_way


BatchMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
test_a_batch_runs_at_most_once_and_is_never_lied_about = BatchMachine.TestCase


@pytest.mark.parametrize("known", sorted(FINAL))
@pytest.mark.parametrize("news", sorted(News))
def test_what_was_proven_stays(known: BatchState, news: News) -> None:
    assert learn(known, news) in (known, None)


def test_contradictions_are_not_believed() -> None:
    assert learn(BatchState.NEVER, News.ACCEPTED) is None
    assert learn(BatchState.REFUSED, News.ACCEPTED) is None
    assert learn(BatchState.ACCEPTED, News.NEVER) is None


def test_nothing_becomes_an_intent_again() -> None:
    assert BatchState.INTENT not in TRANSITIONS.values()
