"""Creating an activity at a provider, once per intent.

The intent is committed, then CreateActivity is sent with its id; a shem provider answers a repeat
with the same activity, so the call is repeated while its time lasts, and a later call for the same
agreement takes an unanswered intent up again. Intents that stayed unanswered are resolved when the
provider is back (`reconcile`): it says which activity they made, or notes that they never will make
one; what was made waits to be told to the next create. A legacy provider would make another
activity: there one message is sent, and a lost answer is reported as such. Failpoints:
`create.intent_committed`, `create.answered`.
"""

import asyncio
from dataclasses import replace
from typing import Final

import structlog

from shem.activity import messages
from shem.activity.intents import (
    NEVER,
    Intent,
    IntentState,
    Key,
    load_intents,
    load_unanswered,
    save_intent,
)
from shem.activity.messages import (
    FEATURE_INTENT,
    FEATURE_RESOLVE_INTENT,
    EndpointGone,
    ProviderTimedOut,
    RemoteGsbError,
)
from shem.activity.parties import Agreement
from shem.activity.peer import ANSWER_GRACE_S, Peers
from shem.activity.records import Activity, Role, load_activity, save_activity
from shem.activity.states import ActivityState, State
from shem.kernel import failpoints
from shem.kernel.errors import Conflict, ShemError, TimedOut, Unreachable
from shem.kernel.ids import ActivityId, AgreementId, NodeId
from shem.kernel.world import World, new_hex_id
from shem.store.unit import Store
from shem.wire.errors import WireError

log = structlog.get_logger()

ATTEMPT_S: Final = 5.0
"""Towards a shem provider one CreateActivity waits so long before it is repeated."""
PAUSE_S: Final = 0.25


class Creator:
    """The requestor's half of a create."""

    def __init__(self, store: Store, peers: Peers, world: World) -> None:
        self._store = store
        self._peers = peers
        self._world = world
        self._in_flight: set[Key] = set()
        self._resolving: dict[Key, asyncio.Event] = {}

    async def create(
        self, agreement: Agreement, pub_key: str | None, intent_id: str | None, timeout_s: float
    ) -> ActivityId:
        """Return the id of the new activity; TimedOut leaves the intent open."""
        deadline = self._world.clock.monotonic() + timeout_s + ANSWER_GRACE_S
        repeats = await self._repeats(agreement, deadline)
        intent, is_new = await self._intend(agreement, intent_id, repeats)
        resolving = self._resolving.get(intent.key)
        if resolving is not None:
            await resolving.wait()
            intent, is_new = await self._intend(agreement, intent_id, repeats)
        unknown = intent.state is IntentState.OPEN and intent.activity_id is None
        if not is_new and unknown and not repeats:
            raise self._lost(agreement)
        if intent.never:
            text = f"intent {intent.intent_id} is {NEVER}: create under a new one"
            raise Conflict(text, code="create-never")
        if intent.activity_id is not None:
            if intent.state is IntentState.OPEN:
                await self._told(intent)
            return intent.activity_id
        self._in_flight.add(intent.key)
        try:
            failpoints.passing("create.intent_committed")
            activity_id = await self._answer(agreement, intent, pub_key, deadline, repeats)
            failpoints.passing("create.answered")
            await self._done(agreement, intent, activity_id)
        finally:  # until it is done, another create must not take the intent up
            self._in_flight.discard(intent.key)
        return activity_id

    async def _answer(
        self,
        agreement: Agreement,
        intent: Intent,
        pub_key: str | None,
        deadline: float,
        repeats: bool,
    ) -> ActivityId:
        """Send the intent; a refusal that is final is noted."""
        try:
            return await self._send(agreement, intent, pub_key, deadline, repeats)
        except (ProviderTimedOut, EndpointGone) as error:
            await self._failed(intent, error)
            raise
        except (TimedOut, Unreachable, RemoteGsbError, WireError):
            raise
        except ShemError as error:
            await self._failed(intent, error)
            raise

    async def _repeats(self, agreement: Agreement, deadline: float) -> bool:
        """Find out whether a repeat is harmless; before that is known nothing may be sent."""
        clock = self._world.clock
        while True:
            repeats = await self._peers.can(agreement.provider, FEATURE_INTENT)
            if repeats is not None:
                return repeats
            if clock.monotonic() >= deadline:
                path = f"/net/{agreement.provider}/activity/CreateActivity"
                raise Unreachable(f"GSB error: Remote service at `{path}` error: unavailable")
            await clock.sleep(PAUSE_S)

    async def _intend(
        self, agreement: Agreement, intent_id: str | None, repeats: bool
    ) -> tuple[Intent, bool]:
        """Take up the chosen or an unanswered intent, or commit a new one (then True)."""
        async with self._store.unit(agreement.agreement_id) as unit:
            known = await load_intents(unit.fetch, agreement.requestor, agreement.agreement_id)
            for intent in known:
                if intent_id is not None:
                    fits = intent.intent_id == intent_id
                else:
                    waits = intent.state is IntentState.OPEN and intent.key not in self._in_flight
                    fits = repeats and waits and await self._is_of_use(intent)
                if fits:
                    return intent, False
            fresh = Intent(
                intent_id=intent_id or new_hex_id(self._world.rng),
                identity=agreement.requestor,
                agreement_id=AgreementId(agreement.agreement_id),
                provider=agreement.provider,
                state=IntentState.OPEN,
                activity_id=None,
                message=None,
            )
            save_intent(unit, fresh, self._world.clock.wall_ns())
        return fresh, True

    async def _is_of_use(self, intent: Intent) -> bool:
        """Tell whether an unanswered intent made, or may have made, an activity that lives."""
        if intent.activity_id is None:
            return True
        activity = await load_activity(self._store.fetch, intent.activity_id, Role.REQUESTOR)
        return activity is not None and activity.state.alive and activity.destroy_ns is None

    async def _send(
        self,
        agreement: Agreement,
        intent: Intent,
        pub_key: str | None,
        deadline: float,
        repeats: bool,
    ) -> ActivityId:
        clock = self._world.clock
        while (left_s := deadline - clock.monotonic()) > 0:
            started = clock.monotonic()
            body = messages.create_activity(
                agreement.agreement_id,
                agreement.provider,
                max(left_s - ANSWER_GRACE_S, 0.0),
                pub_key,
                intent.intent_id,
            )
            try:
                reply = await self._peers.ask(
                    agreement.requestor,
                    agreement.provider,
                    "activity/CreateActivity",
                    body,
                    timeout_s=min(left_s, ATTEMPT_S) if repeats else left_s,
                )
                return ActivityId(messages.parse_created(reply))
            except ProviderTimedOut:
                raise
            except (TimedOut, Unreachable) as error:
                log.info("create.unanswered", agreement=agreement.agreement_id, reason=str(error))
                if not repeats:
                    raise self._lost(agreement) from error
            spent_s = clock.monotonic() - started
            await clock.sleep(min(max(PAUSE_S - spent_s, 0.0), max(left_s - spent_s, 0.0)))
        raise TimedOut("Timeout: no answer to CreateActivity; a repeat returns the same activity")

    def _lost(self, agreement: Agreement) -> ShemError:
        """Word what an unanswered create towards a legacy provider means."""
        return TimedOut(
            "Timeout: no answer to CreateActivity, and this provider cannot be asked whether it"
            f" made an activity; terminate agreement {agreement.agreement_id} to be safe",
            code="create-unknown",
        )

    async def _failed(self, intent: Intent, error: ShemError) -> None:
        failed = replace(intent, state=IntentState.FAILED, message=error.message)
        async with self._store.unit(intent.agreement_id) as unit:
            save_intent(unit, failed, self._world.clock.wall_ns())

    async def _told(self, intent: Intent) -> None:
        """Note that a program has heard of the activity."""
        async with self._store.unit(intent.agreement_id) as unit:
            done = replace(intent, state=IntentState.DONE)
            save_intent(unit, done, self._world.clock.wall_ns())

    async def _done(self, agreement: Agreement, intent: Intent, activity_id: ActivityId) -> None:
        now_ns = self._world.clock.wall_ns()
        done = replace(intent, state=IntentState.DONE, activity_id=activity_id)
        async with self._store.unit(agreement.agreement_id) as unit:
            save_activity(unit, _made(intent, activity_id, agreement.app_session_id, now_ns))
            save_intent(unit, done, now_ns)

    # --- after an absence -----------------------------------------------------------------------

    async def reconcile(self, provider: NodeId) -> None:
        """Resolve what a provider left unanswered; Unreachable or TimedOut while it is away."""
        intents = await load_unanswered(self._store.fetch, provider)
        if not intents:
            return
        resolves = await self._peers.can(provider, FEATURE_RESOLVE_INTENT)
        if resolves is None:
            raise Unreachable(f"provider {provider} cannot be asked now")
        for intent in intents if resolves else ():
            if intent.key in self._in_flight or intent.key in self._resolving:
                continue
            resolved = self._resolving[intent.key] = asyncio.Event()
            try:
                await self._resolve(intent)
            except (Unreachable, TimedOut):
                raise
            except ShemError as error:
                log.info("intent.not_resolved", intent=intent.intent_id, reason=error.message)
            finally:
                del self._resolving[intent.key]
                resolved.set()

    async def _resolve(self, intent: Intent) -> None:
        reply = await self._peers.ask(
            intent.identity,
            intent.provider,
            "activity/ResolveIntent",
            {"agreementId": intent.agreement_id, "intentId": intent.intent_id},
            timeout_s=ATTEMPT_S,
        )
        found = messages.parse_resolved_intent(reply)
        if found is None:
            resolved = replace(intent, state=IntentState.FAILED, message=NEVER)
        else:
            resolved = replace(intent, activity_id=ActivityId(found))
        now_ns = self._world.clock.wall_ns()
        async with self._store.unit(intent.agreement_id) as unit:
            if resolved.activity_id is not None:
                save_activity(unit, _made(intent, resolved.activity_id, None, now_ns))
            save_intent(unit, resolved, now_ns)
        log.info("intent.resolved", intent=intent.intent_id, activity=found)


def _made(
    intent: Intent, activity_id: ActivityId, app_session_id: str | None, now_ns: int
) -> Activity:
    return Activity(
        activity_id=activity_id,
        role=Role.REQUESTOR,
        identity=intent.identity,
        agreement_id=intent.agreement_id,
        requestor=intent.identity,
        provider=intent.provider,
        app_session_id=app_session_id,
        intent_id=intent.intent_id,
        state=ActivityState(State.INITIALIZED),
        before=None,
        usage=None,
        usage_ns=now_ns,
        destroy_ns=None,
        created_ns=now_ns,
    )
