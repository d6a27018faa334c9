"""Which identities act just now: unlocked ones, from the moment on that they are.

An identity that is created, imported or unlocked while the node runs is proven to the relay and to
peers, called as and answered for; one that is locked or dropped is so no more
(docs/protocol/gsb-identity.md §3.1). The default identity of the run stays: it is the node's name
on the net. What a dropped identity had published is withdrawn.
"""

from collections.abc import Collection
from types import TracebackType
from typing import Protocol, Self

import structlog

from shem.identity.keys import PrivateKey
from shem.identity.service import IdentityService
from shem.kernel.errors import UsageError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.market.service import MarketService

log = structlog.get_logger()


class Keys(Protocol):
    """What this module needs of `net.service.Net`."""

    def add_key(self, key: PrivateKey) -> None: ...
    def remove_key(self, node_id: NodeId) -> None: ...


class Addresses(Protocol):
    """What this module needs of `bus.remote.RemoteBus`."""

    def add_identity(self, node_id: NodeId) -> None: ...
    def remove_identity(self, node_id: NodeId) -> None: ...


class Presence:
    """Keeps net and bus in step with the identities while its `async with` block lasts.

    `present` are those that both began with.
    """

    def __init__(
        self,
        identity: IdentityService,
        net: Keys,
        addresses: Addresses,
        market: MarketService,
        *,
        present: Collection[NodeId],
    ) -> None:
        self._identity = identity
        self._net = net
        self._addresses = addresses
        self._market = market
        self._present = set(present)
        self._withdrawals = TaskScope()
        self._is_open = False
        identity.on_lock(self._changed)
        identity.on_drop(self._dropped)

    async def __aenter__(self) -> Self:
        await self._withdrawals.__aenter__()
        self._is_open = True
        self._keep_in_step()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_open = False
        await self._withdrawals.__aexit__(kind, error, trace)

    def _changed(self, _what: str, _node_id: NodeId) -> None:
        if self._is_open:
            self._keep_in_step()

    def _keep_in_step(self) -> None:
        keys = self._identity.keys()
        usable = {key.node_id: key for key in keys}
        for node_id in self._present - usable.keys() - {self._identity.default_id}:
            self._present.discard(node_id)
            self._addresses.remove_identity(node_id)
            self._net.remove_key(node_id)
            log.info("identity.absent", identity=node_id)
        for node_id in usable.keys() - self._present:
            try:
                self._net.add_key(usable[node_id])
            except UsageError as error:
                log.warning("identity.not_on_net", identity=node_id, reason=error.message)
                continue
            self._present.add(node_id)
            self._addresses.add_identity(node_id)
            log.info("identity.present", identity=node_id)

    def _dropped(self, node_id: NodeId) -> None:
        if self._is_open:
            self._withdrawals.spawn(self._market.withdraw_orphans(), f"withdrawals of {node_id}")
