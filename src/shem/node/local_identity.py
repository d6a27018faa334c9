"""`/local/identity`: what the command line asks about this node's identities.

Messages and error values: docs/protocol/gsb-identity.md §3.1. Renaming, locking, dropping and
exporting identities are not built yet and say so.
"""

from typing import Final

from shem.bus.router import Binding, Bus
from shem.bus.types import Call, RemoteError
from shem.identity.keys import PrivateKey
from shem.identity.service import IdentityInfo, IdentityService
from shem.kernel.errors import Conflict, NotFound, NotSupported, ShemError
from shem.node import bodies

BASE: Final = "/local/identity"
_DIGEST_SIZE: Final = 32
_NOT_BUILT: Final = ("Lock", "Unlock", "DropId", "GetKeyFile", "Subscribe", "Unsubscribe")


class LocalIdentity:
    """Answers from the identity service."""

    def __init__(self, identity: IdentityService) -> None:
        self._identity = identity

    def bind(self, bus: Bus) -> list[Binding]:
        served = {
            "List": self._list,
            "Get": self._get,
            "CreateGenerated": self._create,
            "Update": self._update,
            "Sign": self._sign,
            "GetPubKey": self._public_key,
            **dict.fromkeys(_NOT_BUILT, not_supported),
        }
        return [bus.serve(f"{BASE}/{name}", fn, error=_error_value) for name, fn in served.items()]

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

    async def _update(self, call: Call, body: object) -> object:
        """Answer the update that follows every creation and changes nothing; refuse others."""
        found = bodies.fields(body)
        wanted = bodies.node_id(found.get("nodeId"))
        alias = bodies.optional_text(found, "alias")
        set_default = bodies.flag(found, "setDefault")
        for info in await self._identity.identities():
            if info.node_id == wanted:
                if alias not in (None, info.alias) or (set_default and not info.is_default):
                    return await not_supported(call, body)
                return _shown(info)
        raise RemoteError({"NodeNotFound": wanted})

    async def _sign(self, _call: Call, body: object) -> object:
        found = bodies.fields(body)
        payload = bodies.raw(found, "payload")
        key = self._key(found.get("nodeId"))
        if len(payload) != _DIGEST_SIZE:
            raise RemoteError({"InternalErr": "sign error"})
        return key.sign(payload)

    async def _public_key(self, _call: Call, body: object) -> object:
        return self._key(body).public_key

    def _key(self, value: object) -> PrivateKey:
        node_id = bodies.node_id(value)
        try:
            return self._identity.key(node_id)
        except NotFound:
            raise RemoteError({"NodeNotFound": node_id}) from None


async def not_supported(call: Call, _body: object) -> object:
    """Refuse a message that is known and not built."""
    raise NotSupported(f"{call.address} is not supported yet")


def _shown(info: IdentityInfo) -> dict[str, object]:
    return {
        "alias": info.alias,
        "nodeId": info.node_id,
        "isLocked": info.is_locked,
        "isDefault": info.is_default,
        "deleted": info.is_deleted,
    }


def _error_value(error: ShemError) -> object:
    return "AlreadyExists" if isinstance(error, Conflict) else {"InternalErr": error.message}
