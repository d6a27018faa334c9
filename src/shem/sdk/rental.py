"""From a payload to a running activity: agreement, activity, deploy, start.

If a step fails, what the steps before it made is ended again.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from shem.kernel import times
from shem.rest.errors import ApiError, Disconnected
from shem.sdk import report
from shem.sdk.activity import Activity
from shem.sdk.agreement import Agreement
from shem.sdk.demand import write_demand
from shem.sdk.errors import GolemError, explain
from shem.sdk.negotiation import Negotiation
from shem.sdk.patience import passing
from shem.sdk.payloads import Payload
from shem.sdk.script import Deploy, Start
from shem.sdk.session import Session

CREATE_TIMEOUT_S: Final = 30.0
CREATE_ATTEMPTS_MAX: Final = 3
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

    async def run(self, session: Session) -> Activity:
        now_ns = session.world.clock.wall_ns()
        demand = write_demand(
            self.payload,
            subnet=session.subnet,
            requestor=session.identity,
            app=session.app,
            expires_ms=(now_ns + int(self.expires_s * times.NS_PER_S)) // 1_000_000,
            platforms=self.platforms,
        )
        agreement_id = await Negotiation(session, demand, self.timeout_s, self.provider).run()
        agreement = Agreement(session, agreement_id)
        try:
            activity_id = await _create(session, agreement_id)
            found = report.fresh(await agreement.info())
            activity = Activity(session, activity_id, agreement, found)
            batch = await activity.submit([Deploy(), Start()])
            await batch.wait(START_TIMEOUT_S, check=True)
        except BaseException:
            await _give_up(agreement)
            raise
        return activity


async def _create(session: Session, agreement_id: str) -> str:
    """Create the activity once: after a call without an answer the node is asked what exists."""
    activities = session.rest.activity
    pauses = session.patience.pauses()
    attempts = 0
    while True:
        attempts += 1
        try:
            return await activities.create(agreement_id, timeout_s=CREATE_TIMEOUT_S)
        except (ApiError, Disconnected) as error:
            if not passing(error):
                raise explain(error) from error
            unsent = isinstance(error, Disconnected) and not error.sent
            attempts -= unsent
            if attempts >= CREATE_ATTEMPTS_MAX or not await pauses.next():
                raise explain(error) from error
        known = await session.patience.ask(lambda: activities.of_agreement(agreement_id))
        for activity_id in known:
            state = await session.patience.ask(partial(activities.state, activity_id))
            if state.alive and state.current != "New":
                return activity_id


async def _give_up(agreement: Agreement) -> None:
    """End an agreement under which nothing came to run, if the node can be told so."""
    try:
        await agreement.terminate("The activity could not be started", code="InitializationError")
    except GolemError:
        """It expires by itself."""
