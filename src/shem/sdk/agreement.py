"""A handle of an Agreement: who, in which state, how it ended; and the way to end it."""

from typing import Any, Final

from shem.kernel import times
from shem.rest import models
from shem.rest.errors import ApiError, Disconnected
from shem.rest.terms import EXPIRATION
from shem.sdk.errors import Ended, GolemError, explain
from shem.sdk.session import Session

DONE: Final = frozenset({"Terminated", "Cancelled", "Rejected", "Expired"})
"""States from which an agreement does not come back."""
EXPIRY: Final = "Expiry"
"""Who ended it, when nobody did: its own terms."""


class Agreement:
    """One agreement, by its id; all state is fetched."""

    def __init__(self, session: Session, agreement_id: str) -> None:
        self._session = session
        self.id = agreement_id

    def __repr__(self) -> str:
        return f"Agreement({self.id!r})"

    async def info(self) -> models.Agreement:
        """Fetch the agreement with both its sides."""
        return await self._session.patience.ask(
            lambda: self._session.rest.market.agreements.get(self.id)
        )

    async def ended(self) -> Ended | None:
        """Say by whom, when and why it ended; None while it is in force."""
        info = await self.info()
        if info.state == "Terminated":
            return await self._termination()
        if info.state in DONE:
            by = EXPIRY if info.state == "Expired" else "unknown"
            return Ended(by, expires(info), info.state.lower())
        return None

    async def terminate(
        self,
        reason: str = "Finished",
        *,
        code: str | None = None,
        patience_s: float | None = None,
    ) -> None:
        """End the agreement, and so its activities. Ending one that has ended is harmless."""
        body: dict[str, Any] = {"message": reason}
        if code is not None:
            body["golem.requestor.code"] = code
        call = self._session.rest.market.agreements.terminate
        try:
            await self._session.patience.try_ask(lambda: call(self.id, body), patience_s=patience_s)
        except (ApiError, Disconnected) as error:
            if isinstance(error, ApiError) and error.status == 410:
                return
            raise explain(error) from error

    async def _termination(self) -> Ended:
        try:
            event = await self._session.patience.ask(
                lambda: self._session.rest.market.agreements.termination(self.id)
            )
        except GolemError:
            return Ended("unknown", None, "terminated; the node does not say why")
        reason = event.reason or {}
        code = reason.get("golem.provider.code") or reason.get("golem.requestor.code")
        return Ended(
            by=EXPIRY if code == "Expired" else event.terminator or "unknown",
            at=event.event_date,
            why=str(reason.get("message", "")),
            code=None if code is None else str(code),
        )


def expires(info: models.Agreement) -> str | None:
    """Return when the agreement expires by its terms, RFC 3339; None when they do not say."""
    moment = info.demand.properties.get(EXPIRATION)
    if isinstance(moment, bool) or not isinstance(moment, int | float):
        return None
    return times.to_rfc3339(int(moment) * 1_000_000)
