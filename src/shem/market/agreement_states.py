"""What two nodes tell each other of their copies of agreements.

Among shem nodes (docs/protocol/extensions.md) `AgreementStates` asks for many at once. A legacy
node is asked by `GetAgreement`, one by one, which shows `Approving` as `Pending` and neither reason
nor terminator. A party is told of its own agreements; others do not exist for it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from shem.bus.types import Call, RemoteError
from shem.kernel.errors import PeerError
from shem.kernel.ids import AgreementId, NodeId
from shem.market.agreement_access import READ, is_allowed, state_of
from shem.market.agreement_rows import load_agreement, load_log
from shem.market.authority import UNKNOWN, PeerState
from shem.market.context import Context
from shem.market.ids import Role
from shem.market.messages import (
    OPTIONAL_TEXT,
    PUBLIC,
    REASON,
    TEXT,
    GetAgreement,
    Kind,
    Wire,
    decode,
    encode,
)
from shem.market.records import read_reason
from shem.market.refusals import error_value, find
from shem.market.states import AgreementState

FEATURE: Final = "market.agreement-states"
"""The peer answers `AgreementStates`."""
FEATURES: Final = frozenset({FEATURE})
BATCH: Final = 100
"""Agreements in one question."""
ADDRESS: Final = "/market"


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > BATCH:
        raise PeerError(f"a list of at most {BATCH} ids was expected")
    return tuple(TEXT.read(item) for item in value)


@dataclass(frozen=True, slots=True)
class AgreementStates:
    """Ask for one role's copies of these agreements; the ids are bare."""

    NAME: ClassVar[str] = "AgreementStates"
    agreement_ids: Annotated[tuple[str, ...], Wire("agreementIds", Kind(_texts, list))]
    role: Annotated[str, Wire("role", TEXT)]


@dataclass(frozen=True, slots=True)
class CompareAgreements:
    """Ask a node to compare its copies with ours, some of which have just changed."""

    NAME: ClassVar[str] = "CompareAgreements"


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy: `state` is null when there is none."""

    agreement_id: Annotated[AgreementId, Wire("agreementId", TEXT)]
    state: Annotated[str | None, Wire("state", OPTIONAL_TEXT)]
    terminator: Annotated[str | None, Wire("terminator", OPTIONAL_TEXT)]
    reason: Annotated[Any, Wire("reason", REASON)]
    """A Reason or None."""

    @property
    def seen(self) -> PeerState:
        return UNKNOWN if self.state is None else AgreementState(self.state)


def serve(context: Context, compare_with: Callable[[NodeId], None]) -> None:
    """Answer `AgreementStates`; `CompareAgreements` calls `compare_with` with the caller."""

    async def states(call: Call, body: object) -> object:
        request = decode(AgreementStates, body)
        if request.role not in set(Role):
            raise PeerError(f"{request.role!r} is no role")
        role = Role(request.role)
        return [
            encode(await _copy(context, call, AgreementId(agreement_id), role))
            for agreement_id in request.agreement_ids
        ]

    async def compare(call: Call, body: object) -> object:
        decode(CompareAgreements, body)
        compare_with(call.caller.node_id)
        return None

    context.bus.serve(f"{PUBLIC}/{AgreementStates.NAME}", states, error=error_value)
    context.bus.serve(f"{PUBLIC}/{CompareAgreements.NAME}", compare, error=error_value)


async def _copy(context: Context, call: Call, agreement_id: AgreementId, role: Role) -> Copy:
    row = await load_agreement(context.store.fetch, agreement_id, role)
    if row is None or not is_allowed(context, call.caller, row, READ[role.other]):
        return Copy(agreement_id, None, None, None)
    state = state_of(context, row)
    ended = [
        event
        for event in await load_log(context.store.fetch, agreement_id, role)
        if event.kind is state and state is not AgreementState.APPROVED
    ]
    if not ended:
        return Copy(agreement_id, state, None, None)
    return Copy(agreement_id, state, ended[-1].terminator, read_reason(ended[-1].reason))


async def ask_many(
    context: Context, own: NodeId, peer: NodeId, role: Role, ids: Sequence[AgreementId]
) -> AsyncIterator[Copy]:
    """Ask a shem node for the copies that it keeps as `role`."""
    for start in range(0, len(ids), BATCH):
        wanted = ids[start : start + BATCH]
        answer = await context.ask(own, peer, ADDRESS, AgreementStates(tuple(wanted), role))
        if not isinstance(answer, list) or len(answer) != len(wanted):
            raise PeerError(f"a list of {len(wanted)} agreements was expected")
        for agreement_id, item in zip(wanted, answer, strict=True):
            found = decode(Copy, item)
            if found.agreement_id == agreement_id and _is_readable(found):
                yield found


async def ask_one_by_one(
    context: Context, own: NodeId, peer: NodeId, role: Role, ids: Sequence[AgreementId]
) -> AsyncIterator[Copy]:
    """Ask a legacy node; what it says nothing usable about is left out."""
    for agreement_id in ids:
        try:
            answer = await context.ask(own, peer, ADDRESS, GetAgreement(agreement_id, role))
        except RemoteError as error:
            if find(error.payload, "notFound") is not None:
                yield Copy(agreement_id, None, None, None)
            continue
        state = answer.get("state") if isinstance(answer, dict) else None
        if isinstance(state, str) and state in set(AgreementState):
            yield Copy(agreement_id, state, None, None)


def _is_readable(found: Copy) -> bool:
    return (found.state is None or found.state in set(AgreementState)) and (
        found.terminator is None or found.terminator in set(Role)
    )
