"""What earlier programs of a named work have rented: found at the node, not in notes.

Every agreement of a work carries the work's own session id, so a program that died between any two
steps leaves nothing behind that the next one does not find (docs/adr/0009).
"""

from dataclasses import dataclass

from shem.rest.errors import ApiError, Disconnected
from shem.sdk.activity import Activity
from shem.sdk.agreement import Agreement
from shem.sdk.errors import ActivityGone, CommandFailed, GolemError, explain
from shem.sdk.patience import passing
from shem.sdk.rental import give_up, launch
from shem.sdk.script import Start
from shem.sdk.session import Session


@dataclass(frozen=True, slots=True)
class Claim:
    """One agreement in force, and its living activity, if it has one."""

    agreement_id: str
    activity_id: str | None


async def claims(session: Session) -> list[Claim]:
    """Return what this work holds, oldest first."""
    agreements = session.rest.market.agreements
    entries = await session.patience.ask(
        lambda: agreements.find(state="Approved", app_session_id=session.app_session_id)
    )
    mine = sorted((entry.timestamp, entry.id) for entry in entries if entry.role == "Requestor")
    return [Claim(name, await _living(session, name)) for _, name in mine]


async def take_up(session: Session, claim: Claim, start: Start) -> Activity | None:
    """Return the claim's activity, deployed and started; None when it came to nothing."""
    agreement = Agreement(session, claim.agreement_id)
    try:
        return await launch(session, agreement, start, claim.activity_id)
    except (ActivityGone, CommandFailed):
        await give_up(agreement)
        return None
    except GolemError as error:
        if error.status in {400, 404, 410}:
            await give_up(agreement)
            return None
        raise


async def _living(session: Session, agreement_id: str) -> str | None:
    """Return the agreement's activity that is not known to have ended."""
    activities = session.rest.activity
    found = await session.patience.ask(lambda: activities.of_agreement(agreement_id))
    for activity_id in reversed(found):
        try:
            state = await activities.state(activity_id)
        except (ApiError, Disconnected) as error:
            if isinstance(error, ApiError) and passing(error):
                return activity_id
            raise explain(error) from error
        if state.alive:
            return activity_id
    return None
