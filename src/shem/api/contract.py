"""What a route promises: its parameters, its body and its answers.

A table of promises stands beside each table of routes; `openapi` makes the document of them. A
query parameter is declared once, and the same object reads it from a request, so that what is
documented and what is understood are one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from starlette.requests import Request

from shem.api.kit import (
    TIMEOUT_MAX_S,
    Framework,
    query_float,
    query_int,
    query_text,
    query_time,
)
from shem.kernel.errors import UsageError
from shem.kernel.ids import NodeId, parse_node_id

Schema = dict[str, object]
T_co = TypeVar("T_co", covariant=True)

INT32_MAX: Final = (1 << 31) - 1


class ErrorMessage(msgspec.Struct):
    """Why a call failed: words for people, and a stable code for programs."""

    message: str | None
    code: str


class Body(Enum):
    """Answers that are no JSON."""

    EMPTY = "empty"
    EVENTS = "text/event-stream"


def _documented(**schema: object) -> msgspec.Meta:
    """Return words about a type that change nothing in how it is read."""
    return msgspec.Meta(extra_json_schema=schema)


Moment = Annotated[str, _documented(format="date-time")]
"""RFC 3339 in UTC with `Z`."""
NodeIdText = Annotated[str, _documented(pattern="^0x[0-9a-f]{40}$")]
SubscriptionIdText = Annotated[str, _documented(pattern="^[0-9a-f]{32}-[0-9a-f]{64}$")]
ProposalIdText = Annotated[str, _documented(pattern="^[RP]-[0-9a-f]{64}$")]
AgreementIdText = Annotated[str, _documented(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Param(Generic[T_co]):
    """A query parameter: how it is documented, and how it is read."""

    name: str
    about: str
    schema: Schema
    read: Callable[[Request, str], T_co]
    required: bool = False

    def of(self, request: Request) -> T_co:
        """Return the value in this request, or the default."""
        return self.read(request, self.name)


def seconds(name: str, default: float, about: str) -> Param[float]:
    schema: Schema = {"type": "number", "maximum": TIMEOUT_MAX_S, "default": default}
    return Param(name, about, schema, lambda request, key: query_float(request, key, default))


def count(name: str, default: int, about: str, **bounds: int) -> Param[int]:
    """Return a whole number; the bounds are documented, and checked by who uses it."""

    def read(request: Request, key: str) -> int:
        value = query_int(request, key, default)
        if value is None or not -INT32_MAX <= value <= INT32_MAX:
            raise Framework("Query deserialize error: number too large to fit in target type")
        return value

    return Param(name, about, {"type": "integer", "default": default, **bounds}, read)


def text(name: str, about: str) -> Param[str | None]:
    return Param(name, about, {"type": "string"}, query_text)


def moment(name: str, about: str) -> Param[int | None]:
    return Param(name, about, {"type": "string", "format": "date-time"}, query_time)


def choice(name: str, options: Sequence[str], about: str) -> Param[str | None]:
    def read(request: Request, key: str) -> str | None:
        value = query_text(request, key)
        if value is not None and value not in options:
            expected = ", ".join(f"`{option}`" for option in options)
            raise Framework(
                f"Query deserialize error: unknown variant `{value}`, expected one of {expected}"
            )
        return value

    return Param(name, about, {"type": "string", "enum": list(options)}, read)


def node(name: str, about: str) -> Param[NodeId | None]:
    def read(request: Request, key: str) -> NodeId | None:
        value = query_text(request, key)
        try:
            return None if value is None else parse_node_id(value)
        except UsageError as error:
            raise Framework("Query deserialize error: invalid format") from error

    return Param(name, about, {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}, read)


def required(param: Param[T_co]) -> Param[T_co]:
    return replace(param, required=True)


@dataclass(frozen=True, slots=True)
class Promise:
    """What one route takes and gives.

    `answers` names the type of each good answer, `errors` the statuses of the bad ones, whose body
    is an ErrorMessage or plain text. `paths` describes the placeholders in the path.
    """

    summary: str
    answers: Mapping[int, object]
    errors: tuple[int, ...] = ()
    query: tuple[Param[object], ...] = ()
    body: object = None
    paths: Mapping[str, Schema] = field(default_factory=dict)
    is_open: bool = False
    """It needs no application key."""
