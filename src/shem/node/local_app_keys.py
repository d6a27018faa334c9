"""`/local/appkey`: what the command line asks about application keys.

Messages and error values: docs/protocol/gsb-identity.md §3.4. The autoconfigured key ends every
page and is not counted.
"""

from types import TracebackType
from typing import Final, Self

from shem.bus.router import Binding, Bus
from shem.bus.types import Call, RemoteError
from shem.identity.app_keys import AUTOCONFIGURED, ROLE
from shem.identity.records import AppKeyInfo
from shem.identity.service import IdentityService
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import NotFound, ShemError, UsageError
from shem.kernel.times import to_naive
from shem.node import bodies
from shem.node.local_events import Subscribers

BASE: Final = "/local/appkey"
EVENT: Final = "AppKey__Event"
ORIGINS_MAX: Final = 64
PER_PAGE_MAX: Final = 1_000


class LocalAppKeys:
    """Answers from the identity service while its `async with` block lasts."""

    def __init__(self, bus: Bus, identity: IdentityService) -> None:
        self._bus = bus
        self._identity = identity
        self._subscribers = Subscribers(bus, EVENT)
        self._bindings: list[Binding] = []
        identity.on_app_key(self._tell)

    async def __aenter__(self) -> Self:
        await self._subscribers.__aenter__()
        served = {
            "Create": self._create,
            "Get": self._get,
            "GetByName": self._get_by_name,
            "List": self._list,
            "Remove": self._remove,
            "Subscribe": self._subscribe,
        }
        self._bindings = [
            self._bus.serve(f"{BASE}/{name}", fn, error=_error_value) for name, fn in served.items()
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._bindings:
            self._bindings.pop().close()
        await self._subscribers.__aexit__(kind, error, trace)

    async def _create(self, _call: Call, body: object) -> object:
        found = bodies.fields(body)
        owner = bodies.node_id(found.get("identity"))
        if bodies.text(found, "role") != ROLE:
            raise NotFound("no such role")
        info = await self._identity.create_app_key(
            bodies.text(found, "name"),
            identity=owner,
            allow_origins=bodies.texts(found, "allowOrigins", limit=ORIGINS_MAX),
        )
        return info.key

    async def _get(self, _call: Call, body: object) -> object:
        key = bodies.text(bodies.fields(body), "key")
        return _only([info for info in await self._identity.app_keys() if info.key == key])

    async def _get_by_name(self, _call: Call, body: object) -> object:
        name = bodies.text(bodies.fields(body), "name")
        return _only([info for info in await self._identity.app_keys() if info.name == name])

    async def _list(self, _call: Call, body: object) -> object:
        found = bodies.fields(body)
        page = bodies.number(found, "page")
        per_page = bodies.number(found, "perPage")
        if page < 1 or not 1 <= per_page <= PER_PAGE_MAX:
            message = f"page starts at 1, perPage is 1 to {PER_PAGE_MAX}"
            raise RemoteError({"code": 400, "message": message})
        owner = bodies.optional_text(found, "identity")
        every = await self._identity.app_keys()
        stored = [info for info in every if info.name != AUTOCONFIGURED]
        fitting = [info for info in stored if owner in (None, info.identity)]
        shown = fitting[(page - 1) * per_page : page * per_page]
        shown += [info for info in every if info.name == AUTOCONFIGURED]
        return [[_shown(info) for info in shown], -(-len(stored) // per_page)]

    async def _remove(self, _call: Call, body: object) -> object:
        found = bodies.fields(body)
        owner = found.get("identity")
        await self._identity.drop_app_key(
            bodies.text(found, "name"), identity=None if owner is None else bodies.node_id(owner)
        )
        return None

    async def _subscribe(self, _call: Call, body: object) -> object:
        return self._subscribers.add(bodies.text(bodies.fields(body), "endpoint"))

    def _tell(self, what: str, info: AppKeyInfo) -> None:
        caller = Caller(self._identity.default_id, Assurance.LOCAL)
        self._subscribers.tell(caller, {what: _shown(info)})


def _only(found: list[AppKeyInfo]) -> object:
    if not found:
        raise NotFound("no such app-key")
    return _shown(found[0])


def _shown(info: AppKeyInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "key": info.key,
        "role": info.role,
        "identity": info.identity,
        "createdDate": to_naive(info.created_ns),
        "allowOrigins": list(info.allow_origins),
    }


def _error_value(error: ShemError) -> object:
    """Say it as the real node does: what is missing is a failure of its database."""
    if isinstance(error, NotFound):
        return {"code": 500, "message": "DAO error: NotFound"}
    return {"code": 400 if isinstance(error, UsageError) else 500, "message": error.message}
