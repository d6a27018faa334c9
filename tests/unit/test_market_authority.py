"""The table of authority: from any two copies, the two sides come to agree."""

from itertools import product

import pytest

from shem.market.authority import COPIES, HAVE_BEEN, UNKNOWN, Again, PeerState, verdict
from shem.market.ids import Role
from shem.market.states import ENDED, AgreementInput, AgreementState, after

S = AgreementState
R, P = Role.REQUESTOR, Role.PROVIDER
LIVE_OF_PROVIDER = (S.PENDING, S.APPROVING, S.APPROVED)
LIVE_OF_REQUESTOR = (S.PROPOSAL, *LIVE_OF_PROVIDER)


class Pair:
    """Both copies, and what the handshake does with them when nothing is lost any more."""

    def __init__(self, requestor: PeerState, provider: PeerState, *, had_approval: bool) -> None:
        self.copies: dict[Role, PeerState] = {R: requestor, P: provider}
        self.had_approval = had_approval

    def compare(self, role: Role) -> None:
        ours, theirs = self.copies[role], self.copies[role.other]
        if not isinstance(ours, S) or ours in ENDED:
            return
        had = self.had_approval if role is R else ours is not S.PENDING
        decision = verdict(role, ours, theirs, had_approval=had)
        if isinstance(decision, Again):
            if theirs in (S.PROPOSAL, S.PENDING):
                self.copies[R] = S.APPROVING
        elif decision is not None:
            self.copies[role] = after(HAVE_BEEN.get((ours, decision), ours), decision)

    def settle_handshake(self) -> None:
        """Deliver the commit of a requestor in `Approving`; end an approval nobody waits for."""
        if self.copies[R] is S.APPROVING:
            self.had_approval = True
            if self.copies[P] in (S.APPROVING, S.APPROVED, S.TERMINATED):
                self.copies[P] = S.APPROVED if self.copies[P] is S.APPROVING else self.copies[P]
                self.copies[R] = S.APPROVED
            else:
                self.copies[R] = S.EXPIRED if self.copies[P] is S.EXPIRED else S.PENDING
        if self.copies[P] is S.APPROVING:
            self.copies[P] = S.PENDING

    @property
    def agrees(self) -> bool:
        requestor, provider = self.copies[R], self.copies[P]
        has_ended = [copy is UNKNOWN or copy in ENDED for copy in (requestor, provider)]
        return all(has_ended) or (requestor, provider) in {
            (S.PENDING, S.PENDING),
            (S.PROPOSAL, UNKNOWN),
            (S.APPROVED, S.APPROVED),
            (UNKNOWN, S.APPROVED),  # as good as away: it may take it up again
        }


@pytest.mark.parametrize("first", [R, P])
@pytest.mark.parametrize("had_approval", [False, True])
def test_whatever_the_copies_are_they_agree_after_two_comparisons(
    first: Role, had_approval: bool
) -> None:
    for requestor, provider in product(
        [*LIVE_OF_REQUESTOR, *ENDED, UNKNOWN], [*LIVE_OF_PROVIDER, *ENDED, UNKNOWN]
    ):
        pair = Pair(requestor, provider, had_approval=had_approval)
        for _ in range(3):
            pair.compare(first)
            pair.settle_handshake()
            pair.compare(first.other)
            pair.settle_handshake()
        assert pair.agrees, (requestor, provider, pair.copies)


def test_copies_that_agree_are_left_alone() -> None:
    for role, state in product(Role, LIVE_OF_PROVIDER):
        assert verdict(role, state, state, had_approval=True) is None


def test_no_word_of_the_peer_brings_an_agreement_into_force_without_our_own_act() -> None:
    theirs = [*AgreementState, UNKNOWN]
    for state, said in product(LIVE_OF_PROVIDER, theirs):
        assert verdict(P, state, said, had_approval=True) is not AgreementInput.COMMIT
    for state, said in product(LIVE_OF_REQUESTOR, theirs):
        assert verdict(R, state, said, had_approval=False) is not AgreementInput.COMMIT


def test_every_end_ends_the_other_copy() -> None:
    for state, said in product((S.PENDING, S.APPROVED), [*ENDED, UNKNOWN]):
        for role in Role:
            found = verdict(role, state, said, had_approval=False)
            may_return = (role, state, said) == (P, S.APPROVED, UNKNOWN)
            assert (found is None) is may_return


def test_every_verdict_is_a_possible_transition() -> None:
    for table in COPIES.values():
        for state, row in table.items():
            for decision in filter(None, row.values()):
                if not isinstance(decision, Again):
                    after(HAVE_BEEN.get((state, decision), state), decision)
        assert all(state not in ENDED for state in table)


@pytest.mark.parametrize("had_approval", [False, True])
def test_a_requestor_that_never_saw_an_approval_is_not_bound_by_one(had_approval: bool) -> None:
    found = verdict(R, S.PENDING, S.APPROVED, had_approval=had_approval)
    assert found is (AgreementInput.COMMIT if had_approval else None)
