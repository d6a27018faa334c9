"""How the market's requests are read: ids in paths, bodies, polls.

Words and statuses are the real daemon's (docs/protocol/market.md §3).
"""

from collections.abc import Callable
from typing import Final, TypeVar, cast

from starlette.requests import Request

from shem.api import contract
from shem.api.kit import DEFAULT_TIMEOUT_S, PathError, read_json
from shem.api.market_models import Terms
from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.kernel.ids import AgreementId, ProposalId, SubscriptionId
from shem.market.ids import parse_agreement_id, parse_proposal_id, parse_subscription_id
from shem.market.messages import TIME_MAX_NS, Reason
from shem.market.properties import Json
from shem.market.queues import EVENTS_DEFAULT, EVENTS_MAX, check_max_events

BASE: Final = "/market-api/v1"
TIMEOUT: Final = contract.seconds("timeout", DEFAULT_TIMEOUT_S, "How long to wait, in seconds.")
MAX_EVENTS: Final = contract.count(
    "maxEvents", EVENTS_DEFAULT, "The most events in one answer.", minimum=1, maximum=EVENTS_MAX
)
SESSION: Final = contract.text(
    "appSessionId", "A word of the program's own, kept with its agreements."
)
PATHS: Final[dict[str, contract.Schema]] = {
    "sub": {"type": "string", "pattern": "^[0-9a-f]{32}-[0-9a-f]{64}$"},
    "prop": {"type": "string", "pattern": "^[RP]-[0-9a-f]{64}$"},
    "agreement": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "scan": {"type": "string", "pattern": "^[0-9]{1,19}$"},
}

T = TypeVar("T")


async def read_terms(request: Request) -> tuple[Json, str]:
    body = await read_json(request, Terms, plain_errors=False)
    return cast("Json", body.properties), body.constraints


async def read_reason(request: Request) -> Reason | None:
    """Read a Reason, or null, which counts as none."""
    body = await read_json(request, object, plain_errors=False)
    if body is None:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        raise UsageError("Json deserialize error: missing field `message`")
    return cast("Reason", body)


def subscription_of(request: Request) -> SubscriptionId:
    return _parsed(parse_subscription_id, request.path_params["sub"])


def proposal_of(request: Request) -> ProposalId:
    return _parsed(parse_proposal_id, request.path_params["prop"])


def agreement_of(request: Request) -> AgreementId:
    return parse_agreement_id(request.path_params["agreement"])


def poll_of(request: Request) -> tuple[float, int]:
    """Return how long to wait and for how many events."""
    return TIMEOUT.of(request), check_max_events(MAX_EVENTS.of(request))


def storable_time(ns: int) -> int:
    """Keep a client's time within what can be stored."""
    return max(0, min(ns, TIME_MAX_NS))


def body_time(text: str) -> int:
    try:
        return storable_time(times.parse(text))
    except UsageError as error:
        raise UsageError(f"Json deserialize error: {error.message}") from error


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except UsageError as error:
        raise PathError(f"Path deserialize error: {error.message}") from error
