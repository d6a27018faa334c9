"""From a payload to a running activity: agreement, activity, deploy, start.

If a step fails, what the steps before it made is ended again.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from shem.kernel import times
from shem.kernel.world import new_hex_id
from shem.rest.errors import ApiError, Disconnected
from shem.sdk import report
from shem.sdk.activity import Activity
from shem.sdk.agreement import Agreement
from shem.sdk.demand import write_demand
from shem.sdk.errors import GolemError, explain
from shem.sdk.leaving import NOTHING_SAID, Leaving
from shem.sdk.negotiation import Negotiation
from shem.sdk.patience import passing
from shem.sdk.payloads import Payload, start_args
from shem.sdk.script import Deploy, Start
from shem.sdk.session import Session
from shem.sdk.steps import submit_step

READY: Final = "Ready"
CODE_NEVER_MADE: Final = "create-never"
"""The provider noted that it will not make this intent's activity."""
CREATE_TIMEOUT_S: Final = 30.0
START_TIMEOUT_S: Final = 300.0
"""For deploy (the provider fetches the package) and start."""


@dataclass(frozen=True, slots=True)
class Rental:
    """What is wanted, and for how long."""

    payload: Payload
    expires_s: float
    timeout_s: float
    provider: str | None
    platforms: tuple[str, ...]
    leaving: Leaving = NOTHING_SAID

    async def run(self, session: Session) -> Activity:
        """Return a running activity of a new agreement."""
        agreement = Agreement(session, await self.negotiate(session))
        try:
            return await launch(session, agreement, self.start)
        except BaseException:
            await give_up(agreement)
            raise

    @property
    def start(self) -> Start:
        return Start(start_args(self.payload))

    async def negotiate(self, session: Session) -> str:
        """Return the id of a new agreement."""
        now_ns = session.world.clock.wall_ns()
        demand = write_demand(
            self.payload,
            subnet=session.subnet,
            requestor=session.identity,
            app=session.app,
            expires_ms=(now_ns + int(self.expires_s * times.NS_PER_S)) // 1_000_000,
            platforms=self.platforms,
            leaving=self.leaving,
        )
        return await Negotiation(session, demand, self.timeout_s, self.provider).run()


async def launch(
    session: Session, agreement: Agreement, start: Start, activity_id: str | None = None
) -> Activity:
    """Create an activity under an agreement, or take up one that was left; deploy and start it."""
    is_new = activity_id is None
    if activity_id is None:
        activity_id = await _create(session, agreement.id)
    found = await report.fresh(session, activity_id, await agreement.info())
    activity = Activity(session, activity_id, agreement, found)
    if not is_new and (await activity.state()).current == READY:
        return activity
    batch = await submit_step(activity, [Deploy(), start], "launch")
    await batch.wait(START_TIMEOUT_S, check=True)
    return activity


async def _create(session: Session, agreement_id: str) -> str:
    """Create the activity once, whatever becomes of the calls.

    A shem node answers a repeat under the same intent with the same activity. Any other node is
    asked which activities it knows, and is not called again when it knows none.
    """
    activities = session.rest.activity
    intent_id = new_hex_id(session.world.rng)
    pauses = session.patience.pauses()
    while True:
        try:
            return await activities.create(
                agreement_id, intent_id=intent_id, timeout_s=CREATE_TIMEOUT_S
            )
        except (ApiError, Disconnected) as error:
            cause = error
        if isinstance(cause, ApiError) and cause.code == CODE_NEVER_MADE:
            intent_id = new_hex_id(session.world.rng)
            continue
        if not passing(cause) or not await pauses.next():
            raise explain(cause) from cause
        if isinstance(cause, Disconnected) and not cause.sent:
            continue
        if not await is_shem(session):
            return await _created_meanwhile(session, agreement_id, cause)


async def is_shem(session: Session) -> bool:
    """Tell whether the node repeats creates and execs without doubling them; a yagna does not."""
    version = await session.patience.ask(session.rest.identity.version)
    return version.current is not None and "shem" in version.current.name.lower()


async def _created_meanwhile(
    session: Session, agreement_id: str, cause: ApiError | Disconnected
) -> str:
    """Return the living activity that the node knows, or raise: it is unknown what happened."""
    activities = session.rest.activity
    known = await session.patience.ask(lambda: activities.of_agreement(agreement_id))
    for activity_id in known:
        state = await session.patience.ask(partial(activities.state, activity_id))
        if state.alive and state.current != "New":
            return activity_id
    raise explain(cause) from cause


async def give_up(agreement: Agreement) -> None:
    """End an agreement under which nothing came to run, if the node can be told so."""
    try:
        await agreement.terminate("The activity could not be started", code="InitializationError")
    except GolemError:
        """It expires by itself."""
