"""The relay as a process: two sockets, one timer, a folder of state (docs/protocol/net.md §5).

In the folder: the slot file, and between a stop and the next start the snapshot of sessions.
"""

import asyncio
import os
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from shem.kernel.datagrams import Address, Batch, DatagramSocket
from shem.kernel.world import World
from shem.relay.core import DIFFICULTY, RelayCore
from shem.relay.mesh import Mesh
from shem.relay.outputs import SaveSlot, SendCheck, SendDatagram, SendRelay
from shem.relay.registry import Registry
from shem.relay.slots import SlotFile
from shem.relay.snapshot import encode_snapshot, restore_snapshot

SLOT_FILE: Final = "slots.bin"
SNAPSHOT_FILE: Final = "sessions.bin"

log = structlog.get_logger()


class Relay:
    """A relay server; `async with` runs it.

    Several relays serve one network when they share a `registry` and a `mesh`, each by its `name`.
    """

    def __init__(
        self,
        world: World,
        listen: Address,
        state_dir: Path | None = None,
        *,
        difficulty: int = DIFFICULTY,
        metrics: Address | None = None,
        name: str = "",
        registry: Registry | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self._world = world
        self._listen = listen
        self._state_dir = state_dir
        self._difficulty = difficulty
        self._metrics = metrics
        self._name = name
        self._registry = registry
        self._mesh = mesh
        self._slot_file = SlotFile(state_dir / SLOT_FILE if state_dir else None)
        self._timer: asyncio.TimerHandle | None = None
        self._stack = AsyncExitStack()
        self.metrics_address: Address | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the real port when 0 was asked for."""
        return self._main.address

    @property
    def nodes(self) -> int:
        """Count the registered nodes."""
        return len(self._core.directory.by_slot)

    async def __aenter__(self) -> Self:
        self._started_s = self._now()
        if self._state_dir is not None:
            self._state_dir.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            self._main = DatagramSocket(self._listen, self._on_batch)
            stack.callback(self._main.close)
            self._check = DatagramSocket((self._listen[0], 0), self._on_check)
            stack.callback(self._check.close)
            self._core = RelayCore(
                self._world.rng,
                slots=self._slot_file.load(),
                registry=self._registry,
                name=self._name,
                unix_offset_s=self._unix_s() - self._started_s,
                difficulty=self._difficulty,
                now=self._started_s,
            )
            if self._metrics is not None:
                from shem.relay.metrics import serving_metrics

                server = serving_metrics(self._metrics, self._core, self.status)
                self.metrics_address = await stack.enter_async_context(server)
            self._stack = stack.pop_all()
        restored = self._restore()
        if self._mesh is not None:
            self._mesh.join(self._name, self._on_relay)
        self._arm()
        log.info("relay.up", address=self.address, restored=restored)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._mesh is not None:
            self._mesh.leave(self._name)
        await self._stack.aclose()
        self._save()
        log.info("relay.down")

    def status(self) -> dict[str, object]:
        """Return what `shem relay status` shows."""
        directory, counts = self._core.directory, self._core.counts
        nodes = directory.by_slot.values()
        return {
            "version": version("shem"),
            "address": "{}:{}".format(*self.address),
            "upSeconds": round(self._now() - self._started_s, 1),
            "sessions": len(directory.sessions),
            "nodes": len(nodes),
            "publicNodes": sum(node.is_public for node in nodes),
            "slots": directory.registry.slots,
            "handshakes": counts.handshakes,
            "questions": counts.questions,
            "expiredSessions": counts.expired,
            "forwardedDatagrams": counts.forwarded,
            "forwardedBytes": counts.forwarded_bytes,
            "refused": dict(sorted(counts.refused.items())),
        }

    # --- datagrams

    def _on_batch(self, batch: Batch) -> None:
        try:
            self._main.send_all(self._core.receive_batch(batch, self._now()))
        except Exception:
            log.exception("relay.batch_failed")
        self._carry_out()

    def _on_check(self, batch: Batch) -> None:
        now = self._now()
        for data, source in batch:
            self._core.receive_check(data, source, now)
        self._carry_out()

    def _on_relay(self, message: bytes) -> None:
        self._core.receive_relay(message, self._now())
        self._carry_out()

    def _on_timer(self) -> None:
        self._timer = None
        self._core.tick(self._now())
        self._carry_out()

    def _carry_out(self) -> None:
        outputs = self._core.outputs()
        for output in outputs:
            match output:
                case SendDatagram(data, address):
                    self._main.send(data, address)
                case SendCheck(data, address):
                    self._check.send(data, address)
                case SaveSlot(node_id):
                    self._slot_file.append(node_id)
                case SendRelay(relay, message) if self._mesh is not None:
                    self._mesh.send(self._name, relay, message)
        if outputs or self._timer is None:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = self._core.next_deadline() - self._now()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._on_timer)

    # --- state

    def _restore(self) -> int:
        """Go on with the sessions of the relay that stopped here a moment ago."""
        if self._state_dir is None:
            return 0
        path = self._state_dir / SNAPSHOT_FILE
        try:
            stored = path.read_bytes()
            path.unlink()  # it is true for one start
        except FileNotFoundError:
            return 0
        except OSError as error:
            log.warning("relay.snapshot_unread", reason=str(error))
            return 0
        return restore_snapshot(stored, self._core.directory, self._now(), self._unix_s())

    def _save(self) -> None:
        if self._state_dir is None:
            return
        data = encode_snapshot(self._core.directory, self._now(), self._unix_s())
        path = self._state_dir / SNAPSHOT_FILE
        try:
            with suppress(FileNotFoundError):
                path.unlink()
            with os.fdopen(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(data)
        except OSError as error:
            log.warning("relay.snapshot_unsaved", reason=str(error))

    def _now(self) -> float:
        return self._world.clock.monotonic()

    def _unix_s(self) -> float:
        return self._world.clock.wall_ns() / 1e9
