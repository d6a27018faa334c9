"""What the activity API's routes promise (docs/protocol/activity-exeunit.md §2)."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shem.activity.eventlog import EVENTS_MAX
from shem.api import contract
from shem.api.contract import AgreementIdText, Body, Moment, NodeIdText, Promise
from shem.api.kit import DEFAULT_TIMEOUT_S
from shem.rest.models import Standing

Id = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9a-f]{32}$"})]
StateName = Literal["New", "Initialized", "Deployed", "Ready", "Terminated", "Unresponsive"]

TIMEOUT: Final = contract.seconds("timeout", DEFAULT_TIMEOUT_S, "How long to wait, in seconds.")
RESULTS_TIMEOUT: Final = contract.seconds("timeout", 0.0, "How long to wait for a new result.")
COMMAND: Final = contract.count("commandIndex", 0, "Results up to this command.", minimum=0)
AGREEMENT: Final = contract.required(contract.text("agreementId", "Whose activities are listed."))
AFTER: Final = contract.required(contract.moment("afterTimestamp", "Only later events."))
SESSION: Final = contract.text("appSessionId", "Only events of agreements with this session.")
MAX_EVENTS: Final = contract.count(
    "maxEvents", EVENTS_MAX, "The most events in one answer.", minimum=0
)
PATHS: Final[dict[str, contract.Schema]] = {
    "activity_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "batch_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}
REFUSED: Final = (403, 404, 408, 409, 500)


class NewActivity(msgspec.Struct, rename="camel"):
    """The object form of a create; `intentId` makes a repeat return the same activity."""

    agreement_id: str
    requestor_pub_key: str | None = None
    intent_id: str | None = None


class CreatedActivity(msgspec.Struct, rename="camel"):
    """The answer to the object form."""

    activity_id: Id


class Elsewhere(msgspec.Struct, rename="camel"):
    """The agreement and the provider of an activity that was rented with another data directory."""

    agreement_id: AgreementIdText
    provider_id: NodeIdText


class NewBatch(msgspec.Struct, rename="camel"):
    """An ExeScript as a JSON text, and optionally the client's own batch id."""

    text: str
    batch_id: str | None = None


class ActivityState(msgspec.Struct, rename="camel"):
    """Where the activity is, and what it goes to."""

    state: tuple[StateName, StateName | None]
    reason: str | UnsetType = UNSET
    error_message: str | UnsetType = UNSET


class ActivityUsage(msgspec.Struct, rename="camel"):
    """Usage in the order of the agreement's vector; none was reported while it is left out."""

    timestamp: int
    current_usage: list[float] | UnsetType = UNSET


class Result(msgspec.Struct, rename="camel"):
    """How one command ended."""

    index: int
    event_date: Moment
    result: Literal["Ok", "Error"]
    stdout: Any
    stderr: Any
    message: str | None
    is_batch_finished: bool


class Batch(msgspec.Struct, rename="camel"):
    """One batch of an activity."""

    batch_id: Id
    state: Literal["intent", "accepted", "unknown", "refused", "never"]
    script: list[Any]
    created_date: Moment
    results_stored: int
    commands: int | None
    is_finished: bool
    message: str | UnsetType = UNSET


class ProviderEvent(msgspec.Struct, rename="camel"):
    """Something the provider's agent has to do."""

    activity_id: Id
    agreement_id: AgreementIdText
    event_type: dict[str, Any]
    event_date: Moment


def _one(summary: str, answer: object, *query: contract.Param[Any], body: Any = None) -> Promise:
    return Promise(summary, {200: answer}, REFUSED, query=query, body=body, paths=PATHS)


PROMISES: Final[dict[tuple[str, str], Promise]] = {
    ("POST", "/activity"): _one(
        "Create an activity", Id | CreatedActivity, TIMEOUT, body=str | NewActivity
    ),
    ("GET", "/activity"): _one("The activities of an agreement", list[Id], AGREEMENT),
    ("DELETE", "/activity/{activity_id}"): _one("End an activity", None, TIMEOUT),
    ("POST", "/activity/{activity_id}/takeup"): _one(
        "Have an activity here that the identity rented with another data directory",
        None,
        body=Elsewhere,
    ),
    ("GET", "/activity/{activity_id}/state"): _one("Its state", ActivityState, TIMEOUT),
    ("PUT", "/activity/{activity_id}/state"): _one(
        "Report its state (provider)", None, body=ActivityState
    ),
    ("GET", "/activity/{activity_id}/usage"): _one("Its usage", ActivityUsage, TIMEOUT),
    ("GET", "/activity/{activity_id}/agreement"): _one("Its agreement", AgreementIdText),
    ("GET", "/activity/{activity_id}/absence"): _one(
        "How long its requestor may be away, and how it ended", Standing
    ),
    ("GET", "/activity/{activity_id}/command"): _one("What it runs", list[Any], TIMEOUT),
    ("POST", "/activity/{activity_id}/exec"): _one("Run a batch", Id, TIMEOUT, body=NewBatch),
    ("GET", "/activity/{activity_id}/exec"): _one("Its batches, oldest first", list[Batch]),
    ("GET", "/activity/{activity_id}/exec/{batch_id}"): _one(
        "The results of a batch; a stream of its events for who accepts text/event-stream",
        (list[Result], Body.EVENTS),
        RESULTS_TIMEOUT,
        COMMAND,
    ),
    ("GET", "/events"): Promise(
        "What the provider's agent has to do, after a cursor",
        {200: list[ProviderEvent]},
        (408,),
        query=(AFTER, SESSION, TIMEOUT, MAX_EVENTS),
    ),
}
