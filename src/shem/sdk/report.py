"""What a returning program is told in one go: alive or ended, and what ran meanwhile."""

from dataclasses import dataclass
from typing import Final

from shem.rest import models
from shem.rest.errors import CODE_NO_SUCH_PATH, ApiError, Disconnected
from shem.sdk.absence import Absence, Due, how_it_ended, look
from shem.sdk.activity import Activity
from shem.sdk.agreement import Agreement, expires
from shem.sdk.batch import CommandResult, list_batches, result_of
from shem.sdk.errors import Ended, GolemError, NotSupported, explain
from shem.sdk.session import Session
from shem.sdk.ticket import Ticket

ALIVE: Final = "alive"
ENDED: Final = "ended"
UNREACHABLE: Final = "unreachable"
READ_MAX: Final = 500
"""Of so many batches, the latest, an attach reads the results; `batch.results()` has them all."""
PEER_PATIENCE_S: Final = 5.0
"""How long an attach waits for a provider that does not answer."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch as it was found."""

    batch_id: str
    state: str
    commands: int | None
    """How many commands it has; None when the node cannot say."""
    results: tuple[CommandResult, ...]
    """Results that the ticket's holder had not read yet (all of them without a ticket)."""
    finished: bool


@dataclass(frozen=True, slots=True)
class AttachReport:
    """The truth at the moment of attaching."""

    liveness: str
    """`alive`, `ended`, or `unreachable` (the provider does not answer: unknown)."""
    state: str
    """The activity's state: `Ready`, `Terminated`, …"""
    ended: Ended | None
    provider_id: str
    agreement_state: str
    expires: str | None
    due: Due | None
    """What the usage so far costs; None when it is not known."""
    absence: Absence
    """How long you may be away from now on, and what limits it."""
    batches: tuple[BatchReport, ...]
    batches_listed: bool
    """False at a node that cannot list batches: `batches` has only those of the ticket."""

    @property
    def alive(self) -> bool:
        return self.liveness == ALIVE

    @property
    def results(self) -> tuple[CommandResult, ...]:
        """All results that came meanwhile, oldest batch first."""
        return tuple(result for batch in self.batches for result in batch.results)


async def attach(session: Session, activity_id: str, ticket: Ticket | None) -> Activity:
    """Find an activity by its id, verify it, and report on it."""
    agreement = Agreement(session, await _agreement_of(session, activity_id, ticket))
    info = await agreement.info()
    if ticket is not None:
        _verify(ticket, info)
    ended = await agreement.ended()
    state = await _state(session, activity_id)
    if ended is None and state is not None and not state.alive:
        ended = await how_it_ended(session, activity_id, state)
    found = await look(session, activity_id, info, ended=ended is not None)
    liveness = ENDED if ended else UNREACHABLE if state is None else ALIVE
    batches, listed = await _batches(session, activity_id, ticket)
    report = AttachReport(
        liveness=liveness,
        state="Terminated" if ended else state.current if state else "Unknown",
        ended=ended,
        provider_id=info.offer.provider_id,
        agreement_state=info.state,
        expires=expires(info),
        due=found.due,
        absence=found.absence,
        batches=batches,
        batches_listed=listed,
    )
    activity = Activity(session, activity_id, agreement, report)
    for batch in batches:
        activity.read(batch.batch_id, batch.results[-1].index + 1 if batch.results else 0)
    return activity


async def fresh(session: Session, activity_id: str, info: models.Agreement) -> AttachReport:
    """Return the report of an activity that was just created."""
    found = await look(session, activity_id, info)
    return AttachReport(
        liveness=ALIVE,
        state="Initialized",
        ended=None,
        provider_id=info.offer.provider_id,
        agreement_state=info.state,
        expires=expires(info),
        due=found.due,
        absence=found.absence,
        batches=(),
        batches_listed=True,
    )


async def _agreement_of(session: Session, activity_id: str, ticket: Ticket | None) -> str:
    agreement_of = session.rest.activity.agreement
    try:
        return await session.patience.try_ask(lambda: agreement_of(activity_id))
    except (ApiError, Disconnected) as error:
        if isinstance(error, ApiError) and ("ot found" in error.message or error.status == 404):
            if ticket is not None and ticket.requestor_id == session.identity:
                return await _taken_up(session, ticket)
            raise _unknown(activity_id) from error
        raise explain(error) from error


async def _taken_up(session: Session, ticket: Ticket) -> str:
    """Have the node learn from the provider what it does not know: it may be a new one."""
    take_up = session.rest.activity.take_up
    names = (ticket.activity_id, ticket.agreement_id, ticket.provider_id)
    try:
        await session.patience.try_ask(lambda: take_up(*names))
    except ApiError as error:
        if error.code in {CODE_NO_SUCH_PATH, "not-supported"}:
            raise _unknown(ticket.activity_id) from error
        raise explain(error) from error
    except Disconnected as error:
        raise explain(error) from error
    return ticket.agreement_id


def _unknown(activity_id: str) -> GolemError:
    return GolemError(
        f"this node knows no activity {activity_id}: is this the node that rented it,"
        " and the application key of the same identity? Another shem node of that identity"
        " takes it up with a ticket",
        status=404,
        code="not-found",
    )


def _verify(ticket: Ticket, info: models.Agreement) -> None:
    expected = (ticket.agreement_id, ticket.provider_id, ticket.requestor_id)
    found = (info.agreement_id, info.offer.provider_id, info.demand.requestor_id)
    if expected != found:
        raise GolemError(
            f"the ticket does not fit: it names agreement, provider and requestor {expected},"
            f" the node has {found}",
            status=409,
            code="conflict",
        )


async def _state(session: Session, activity_id: str) -> models.ActivityState | None:
    """Return the state, or None when the provider does not answer."""
    state = session.rest.activity.state
    try:
        return await session.patience.try_ask(
            lambda: state(activity_id), patience_s=PEER_PATIENCE_S
        )
    except ApiError as error:
        if error.code in {"peer-unreachable", "timeout", "endpoint-gone"}:
            return None
        raise explain(error) from error
    except Disconnected as error:
        raise explain(error) from error


async def _batches(
    session: Session, activity_id: str, ticket: Ticket | None
) -> tuple[tuple[BatchReport, ...], bool]:
    cursors = {} if ticket is None else ticket.cursors
    try:
        entries = await list_batches(session, activity_id)
        listed = True
    except NotSupported:
        entries = [models.Batch(batch_id=name, state="accepted") for name in cursors]
        listed = False
    else:  # of an activity that was taken up, an ExeUnit may not have told all
        known = {entry.batch_id for entry in entries}
        entries += [
            models.Batch(batch_id=name, state="accepted") for name in cursors if name not in known
        ]
    reports = [_unread(entry) for entry in entries[:-READ_MAX]]
    for entry in entries[-READ_MAX:]:
        cursor = cursors.get(entry.batch_id, 0)
        reports.append(await _read(session, activity_id, entry, cursor, listed))
    return tuple(reports), listed


def _unread(entry: models.Batch) -> BatchReport:
    return BatchReport(entry.batch_id, entry.state, entry.commands, (), entry.is_finished)


async def _read(
    session: Session, activity_id: str, entry: models.Batch, cursor: int, listed: bool
) -> BatchReport:
    raws: list[models.ExeScriptCommandResult] = []
    if entry.state == "accepted":
        results = session.rest.activity.results
        try:
            raws = await session.patience.try_ask(
                lambda: results(activity_id, entry.batch_id, timeout_s=0),
                patience_s=PEER_PATIENCE_S,
            )
        except ApiError as error:
            if error.status in {401, 403}:
                raise explain(error) from error
        except Disconnected as error:
            raise explain(error) from error
    found = tuple(result_of(entry.batch_id, raw) for raw in raws)
    return BatchReport(
        batch_id=entry.batch_id,
        state=entry.state,
        commands=(entry.commands or None) if listed else None,
        results=found[cursor:],
        finished=entry.is_finished or (bool(found) and found[-1].last),
    )
