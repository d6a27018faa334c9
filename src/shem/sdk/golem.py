"""`Golem`: one program's session with its node. Start here.

    async with Golem(app="demo") as golem:
        async with golem.rent(WasmPackage(url=…, hash=…)) as activity:
            print((await activity.run("mandel", "render")).stdout)

`rent` and `attach` give something to `async with`, or to `await`. What was rented ends with the
block (or with the Golem's own) unless it was detached: the activity is destroyed and its agreement
terminated. What was attached to runs on unless `on_exit="end"`. A program that is killed ends
nothing: attach again.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypedDict, TypeVar, Unpack

from shem.kernel.config import DEFAULT_API_URL, setting
from shem.kernel.errors import UsageError
from shem.kernel.world import World
from shem.rest.client import RestClient
from shem.rest.endwhen import EndWhen, ResultSink
from shem.rest.errors import ApiError
from shem.sdk.activity import Activity
from shem.sdk.agreement import expires as expires_of
from shem.sdk.demand import platform_of
from shem.sdk.errors import GolemError
from shem.sdk.files import Files
from shem.sdk.leaving import Leaving, OnAbsence
from shem.sdk.opening import Attachment, OnExit, Opening
from shem.sdk.patience import PATIENCE_S, Patience
from shem.sdk.payloads import Payload
from shem.sdk.rental import Rental
from shem.sdk.script import Script
from shem.sdk.session import Session
from shem.sdk.ticket import Ticket

if TYPE_CHECKING:
    from shem.sdk.map import Mapping
    from shem.sdk.running import Running
    from shem.sdk.service import Service

I = TypeVar("I")  # noqa: E741

RENT_TIMEOUT_S: Final = 120.0
EXPIRES: Final = timedelta(hours=1)
NETWORKS: Final = ("hoodi", "holesky")
"""Payment networks a demand names when YAGNA_PAYMENT_NETWORK does not say otherwise."""
END_PATIENCE_S: Final = 20.0
"""How long leaving a block waits for a node or a provider that is away."""


class LeavingOptions(TypedDict, total=False):
    """Options for the time in which nobody watches: `sdk.leaving`."""

    end_when: EndWhen | None
    result_sink: ResultSink | None
    max_absence: timedelta | None
    on_absence: OnAbsence
    keep_results: timedelta | None


class MapOptions(LeavingOptions, total=False):
    """Options of `Golem.map`; their meaning and defaults: `sdk.map.Options`."""

    workers: int
    attempts: int
    silence_s: float
    timeout_s: float | None
    on_exit: OnExit
    fresh: bool
    state_dir: Path | str | None


_COMPUTING: Final = MapOptions.__annotations__.keys() - LeavingOptions.__annotations__.keys()
"""What of a map's options says how it is computed."""


class Golem:
    """A session with a node.

    `app` names the application: the same name in another process finds the same events.
    `patience` is how long the node or a provider may be away before a call fails. `gsb_url` is
    where the node has its bus (GSB_URL), which only files of this machine need.
    """

    def __init__(
        self,
        app: str = "shem",
        *,
        api_url: str | None = None,
        app_key: str | None = None,
        gsb_url: str | None = None,
        subnet: str | None = None,
        network: str | None = None,
        patience: timedelta | float = PATIENCE_S,
        world: World | None = None,
    ) -> None:
        self._app = app
        self._api_url = api_url or setting("API_URL", "YAGNA_API_URL") or DEFAULT_API_URL
        self._app_key = app_key or setting("APPKEY", "YAGNA_APPKEY")
        self._gsb_url = gsb_url
        self._subnet = subnet or setting("SUBNET", "YAGNA_SUBNET") or "public"
        chosen = network or os.environ.get("YAGNA_PAYMENT_NETWORK")
        self._platforms = tuple(map(platform_of, [chosen] if chosen else NETWORKS))
        self._patience_s = patience.total_seconds() if isinstance(patience, timedelta) else patience
        self._world = world or World()
        self._session: Session | None = None
        self._kept: dict[str, tuple[Activity, OnExit]] = {}

    async def __aenter__(self) -> Self:
        if self._app_key is None:
            raise UsageError(
                "no application key: set YAGNA_APPKEY to one of the keys of `shem app-key list`"
            )
        rest = await RestClient(self._api_url, self._app_key).__aenter__()
        patience = Patience(self._world, self._patience_s)
        try:
            me = await patience.ask(rest.identity.me)
        except BaseException:
            await rest.__aexit__(None, None, None)
            raise
        files = Files(self._world, self._gsb_url)
        self._session = Session(
            rest, patience, self._world, self._app, self._subnet, me.identity, files
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._leave_all(error)
        finally:
            session, self._session = self.session, None
            try:
                await session.files.close()
            finally:
                await session.rest.__aexit__(None, None, None)

    async def _leave_all(self, error: BaseException | None) -> None:
        """Leave every activity, also when one cannot be ended; then raise the first failure."""
        failures: list[GolemError] = []
        for activity, _ in tuple(self._kept.values()):
            try:
                await self.leave(activity, error)
            except GolemError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    @property
    def session(self) -> Session:
        if self._session is None:
            raise UsageError("this Golem is not open: use `async with Golem(…) as golem`")
        return self._session

    @property
    def identity(self) -> str:
        """The node id this program acts for."""
        return self.session.identity

    def rent(
        self,
        payload: Payload,
        *,
        expires: timedelta = EXPIRES,
        timeout: timedelta | float = RENT_TIMEOUT_S,
        provider: str | None = None,
        on_exit: OnExit = "end",
        **terms: Unpack[LeavingOptions],
    ) -> Opening:
        """Negotiate an agreement, create an activity, deploy and start the payload.

        `expires` is when the agreement ends by itself; `timeout` how long to look for a provider;
        `provider` takes this node id alone. How the work is to end without us: `end_when`,
        `result_sink`, `max_absence`, `on_absence`, and for how long results can be read afterwards:
        `keep_results` (`sdk.leaving`).
        """
        rental = self._rental(payload, expires, timeout, provider, _leaving(terms))
        return Opening(self, rental, on_exit)

    def _rental(
        self,
        payload: Payload,
        expires: timedelta,
        timeout: timedelta | float,
        provider: str | None,
        leaving: Leaving,
    ) -> Rental:
        timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        lives_s = expires.total_seconds()
        return Rental(payload, lives_s, timeout_s, provider, self._platforms, leaving)

    def map(
        self,
        script_of: Callable[[I], Script],
        inputs: Iterable[I],
        *,
        payload: Payload,
        name: str,
        expires: timedelta = EXPIRES,
        timeout: timedelta | float = RENT_TIMEOUT_S,
        provider: str | None = None,
        **options: Unpack[MapOptions],
    ) -> "Mapping[I]":
        """Compute `script_of(input)` for every input, with its progress kept under `name`.

        Await it for a list of all results, or `async with` it and iterate. A new program with the
        same name and inputs goes on where the last one was killed. Options: `sdk.map.Options`, and
        for each worker those of `rent` that say how it ends without us.
        """
        from shem.sdk.map import Mapping, Options, check_leaving

        computing = Options(**{name: options[name] for name in _COMPUTING if name in options})  # type: ignore[literal-required]
        leaving = check_leaving(_leaving(options), computing)
        return Mapping(
            lambda: self.session,
            script_of,
            inputs,
            name=name,
            rental=self._rental(payload, expires, timeout, provider, leaving),
            options=computing,
        )

    def service(
        self,
        service: "Service",
        *,
        payload: Payload,
        name: str,
        expires: timedelta = EXPIRES,
        timeout: timedelta | float = RENT_TIMEOUT_S,
        provider: str | None = None,
        respawn: bool = False,
        on_exit: OnExit = "end",
        state_dir: Path | str | None = None,
        **terms: Unpack[LeavingOptions],
    ) -> "Running":
        """Start a service, or take it up where an earlier program of the same name left it.

        With `respawn` it is rented and started anew when its activity was lost. Leaving the block
        shuts it down, unless `on_exit="detach"` or `suspend()`. How it is to end without us: as in
        `rent`.
        """
        from shem.sdk.running import Running, check_leaving

        return Running(
            lambda: self.session,
            service,
            name=name,
            rental=self._rental(
                payload, expires, timeout, provider, check_leaving(_leaving(terms))
            ),
            respawn=respawn,
            on_exit=on_exit,
            state_dir=state_dir,
        )

    def attach(self, target: str | Ticket, *, on_exit: OnExit = "detach") -> Opening:
        """Come back to an activity by its id or by a ticket.

        It is verified first; `activity.report` then says whether it lives, how it ended, and what
        its batches did meanwhile. To attach to an activity that has ended is no error.
        """
        ticket = target if isinstance(target, Ticket) else None
        activity_id = target.activity_id if isinstance(target, Ticket) else target
        return Opening(self, Attachment(activity_id, ticket), on_exit)

    async def tickets(self) -> list[Ticket]:
        """Return a ticket for every live activity that this identity has rented.

        They come from the node, so nothing is lost with a program that kept no notes.
        """
        session = self.session
        agreements = session.rest.market.agreements
        entries = await session.patience.ask(lambda: agreements.find(state="Approved"))
        tickets: list[Ticket] = []
        for entry in entries:
            if entry.role == "Requestor":
                tickets += await _tickets_of(session, entry.id)
        return tickets

    def keep(self, activity: Activity, on_exit: OnExit) -> None:
        """Remember what to do with an activity at the end of the block."""
        self._kept[activity.id] = (activity, on_exit)

    async def leave(self, activity: Activity, error: BaseException | None) -> None:
        """End the activity, or let it run on, as was agreed."""
        _, on_exit = self._kept.pop(activity.id, (activity, "detach"))
        if on_exit == "detach" or activity.detached:
            return
        reason = "Finished" if error is None else "The program ended with an error"
        try:
            await activity.end(reason, patience_s=END_PATIENCE_S)
        except GolemError:
            if error is None:
                raise


def _leaving(terms: LeavingOptions) -> Leaving:
    return Leaving(
        terms.get("end_when"),
        terms.get("result_sink"),
        terms.get("max_absence"),
        terms.get("on_absence", "terminate"),
        terms.get("keep_results"),
    )


async def _tickets_of(session: Session, agreement_id: str) -> list[Ticket]:
    info = await session.patience.ask(lambda: session.rest.market.agreements.get(agreement_id))
    of_agreement = session.rest.activity.of_agreement
    found: list[Ticket] = []
    for activity_id in await session.patience.ask(lambda: of_agreement(agreement_id)):
        try:
            state = await session.rest.activity.state(activity_id)
        except ApiError:
            state = None
        if state is None or state.alive:
            found.append(
                Ticket(
                    activity_id=activity_id,
                    agreement_id=agreement_id,
                    provider_id=info.offer.provider_id,
                    requestor_id=info.demand.requestor_id,
                    app=session.app,
                    expires=expires_of(info),
                )
            )
    return found
