"""`/local/identity`: what the command line, and any other process, asks about our identities.

Messages, error values and events: docs/protocol/gsb-identity.md §3.1.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from shem.bus.router import Binding, Bus
from shem.bus.types import Call, RemoteError
from shem.identity.keystore import BadKeystore, WrongPassword
from shem.identity.records import DefaultKept, IdentityInfo
from shem.identity.service import IdentityService
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Conflict, Gone, NotFound, ShemError
from shem.kernel.ids import NodeId
from shem.node import bodies
from shem.node.local_events import Subscribers

BASE: Final = "/local/identity"
EVENT: Final = "Identity__Event"
_DIGEST_SIZE: Final = 32

Act = Callable[[NodeId, bodies.Fields], Awaitable[object]]


class LocalIdentity:
    """Answers from the identity service while its `async with` block lasts."""

    def __init__(self, bus: Bus, identity: IdentityService) -> None:
        self._bus = bus
        self._identity = identity
        self._subscribers = Subscribers(bus, EVENT)
        self._bindings: list[Binding] = []
        identity.on_lock(self._tell)

    async def __aenter__(self) -> Self:
        await self._subscribers.__aenter__()
        served = {
            "List": self._list,
            "Get": self._get,
            "CreateGenerated": self._create,
            "Update": _about(self._update),
            "Lock": _about(self._lock),
            "Unlock": _about(self._unlock),
            "DropId": _about(self._drop),
            "Sign": _about(self._sign),
            "GetPubKey": _of(self._public_key),
            "GetKeyFile": _of(self._key_file),
            "Subscribe": self._subscribe,
            "Unsubscribe": self._unsubscribe,
        }
        errors = {"DropId": _drop_error_value}
        self._bindings = [
            self._bus.serve(f"{BASE}/{name}", fn, error=errors.get(name, _error_value))
            for name, fn in served.items()
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

    async def _list(self, _call: Call, body: object) -> object:
        bodies.fields(body)
        return [_shown(info) for info in await self._identity.identities()]

    async def _get(self, _call: Call, body: object) -> object:
        kind, value = bodies.variant(body)
        infos = await self._identity.identities()
        if kind == "byAlias" and isinstance(value, str):
            found = [info for info in infos if info.alias == value]
        elif kind == "byNodeId":
            wanted = bodies.node_id(value)
            found = [info for info in infos if info.node_id == wanted]
        elif kind == "byDefault":
            found = [info for info in infos if info.is_default]
        else:
            bodies.bad_content(f"unknown variant `{kind}`")
        return _shown(found[0]) if found else None

    async def _create(self, _call: Call, body: object) -> object:
        found = bodies.fields(body)
        info = await self._identity.create_identity(
            alias=bodies.optional_text(found, "alias"),
            keystore=bodies.optional_text(found, "fromKeystore"),
        )
        return _shown(info)

    async def _update(self, node_id: NodeId, found: bodies.Fields) -> object:
        alias = bodies.optional_text(found, "alias")
        set_default = bodies.flag(found, "setDefault")
        return _shown(await self._identity.update(node_id, alias=alias, set_default=set_default))

    async def _lock(self, node_id: NodeId, found: bodies.Fields) -> object:
        new_password = bodies.optional_text(found, "setPassword")
        return _shown(await self._identity.lock(node_id, new_password=new_password))

    async def _unlock(self, node_id: NodeId, found: bodies.Fields) -> object:
        return _shown(await self._identity.unlock(node_id, bodies.text(found, "password")))

    async def _drop(self, node_id: NodeId, _found: bodies.Fields) -> object:
        return _shown(await self._identity.drop(node_id))

    async def _sign(self, node_id: NodeId, found: bodies.Fields) -> object:
        payload = bodies.raw(found, "payload")
        key = self._identity.key(node_id)
        if len(payload) != _DIGEST_SIZE:
            raise RemoteError({"InternalErr": "sign error"})
        return key.sign(payload)

    async def _public_key(self, node_id: NodeId) -> object:
        return self._identity.key(node_id).public_key

    async def _key_file(self, node_id: NodeId) -> object:
        return await self._identity.export(node_id)

    async def _subscribe(self, _call: Call, body: object) -> object:
        self._subscribers.add(bodies.text(bodies.fields(body), "endpoint"))
        return {}

    async def _unsubscribe(self, _call: Call, body: object) -> object:
        self._subscribers.remove(bodies.text(bodies.fields(body), "endpoint"))
        return {}

    def _tell(self, what: str, node_id: NodeId) -> None:
        caller = Caller(self._identity.default_id, Assurance.LOCAL)
        self._subscribers.tell(caller, {what: {"identity": node_id}})


def _about(act: Act) -> Callable[[Call, object], Awaitable[object]]:
    """Read whom a message is about; say NodeNotFound with that id when it is not ours."""

    async def answer(_call: Call, body: object) -> object:
        found = bodies.fields(body)
        node_id = bodies.node_id(found.get("nodeId"))
        try:
            return await act(node_id, found)
        except NotFound:
            raise RemoteError({"NodeNotFound": node_id}) from None

    return answer


def _of(act: Callable[[NodeId], Awaitable[object]]) -> Callable[[Call, object], Awaitable[object]]:
    """The same for messages that are a bare node id."""

    async def answer(call: Call, body: object) -> object:
        return await _about(lambda node_id, _found: act(node_id))(call, {"nodeId": body})

    return answer


def _shown(info: IdentityInfo) -> dict[str, object]:
    return {
        "alias": info.alias,
        "nodeId": info.node_id,
        "isLocked": info.is_locked,
        "isDefault": info.is_default,
        "deleted": info.is_deleted,
    }


def _error_value(error: ShemError) -> object:
    if isinstance(error, WrongPassword):
        return "InvalidPassword"
    if isinstance(error, Conflict):
        return "AlreadyExists"
    kind = "BadKeyStoreFormat" if isinstance(error, BadKeystore) else "InternalErr"
    return {kind: error.message}


def _drop_error_value(error: ShemError) -> object:
    if isinstance(error, Gone):
        return "AlreadyDeleted"
    return "DefaultIdentity" if isinstance(error, DefaultKept) else {"InternalErr": error.message}
