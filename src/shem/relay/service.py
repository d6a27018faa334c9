"""The relay as a process: two sockets, one timer, one file (docs/protocol/net.md §5).

The slot file holds 20-byte node ids in slot order. It is appended to without a sync: a slot that a
power cut loses is one that no session refers to any more.
"""

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from shem.kernel.datagrams import Address, Batch, DatagramSocket
from shem.kernel.world import World
from shem.relay.core import DIFFICULTY, RelayCore, SaveSlot, SendCheck, SendDatagram
from shem.relay.directory import parse_slots, slot_entry
from shem.wire.forward import FORWARD_BYTE

SLOT_FILE: Final = "slots.bin"

log = structlog.get_logger()


class Relay:
    """A relay server; `async with` runs it."""

    def __init__(
        self,
        world: World,
        listen: Address,
        state_dir: Path | None = None,
        *,
        difficulty: int = DIFFICULTY,
    ) -> None:
        self._world = world
        self._listen = listen
        self._difficulty = difficulty
        self._slot_file = state_dir / SLOT_FILE if state_dir else None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the real port when 0 was asked for."""
        return self._main.address

    @property
    def nodes(self) -> int:
        """Count the registered nodes."""
        return len(self._core.directory.by_slot)

    async def __aenter__(self) -> Self:
        clock = self._world.clock
        self._core = RelayCore(
            self._world.rng,
            slots=self._load_slots(),
            unix_offset_s=clock.wall_ns() / 1e9 - clock.monotonic(),
            difficulty=self._difficulty,
            now=clock.monotonic(),
        )
        self._main = DatagramSocket(self._listen, self._on_batch)
        self._check = DatagramSocket((self._listen[0], 0), self._on_check)
        self._arm()
        log.info("relay.up", address=self.address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._main.close()
        self._check.close()
        log.info("relay.down")

    def _on_batch(self, batch: Batch) -> None:
        now = self._world.clock.monotonic()
        core, send = self._core, self._main.send
        for data, source in batch:
            if data[:1] == FORWARD_BYTE:
                if forwarded := core.forward(data, source, now):
                    send(*forwarded)
            else:
                self._receive(data, source, now)
        self._carry_out()

    def _receive(self, data: bytes, source: Address, now: float) -> None:
        try:
            self._core.receive(data, source, now)
        except Exception:
            log.exception("relay.datagram_failed", source=source)

    def _on_check(self, batch: Batch) -> None:
        now = self._world.clock.monotonic()
        for data, source in batch:
            self._core.receive_check(data, source, now)
        self._carry_out()

    def _on_timer(self) -> None:
        self._timer = None
        self._core.tick(self._world.clock.monotonic())
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
                    self._save_slot(slot_entry(node_id))
        if outputs or self._timer is None:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = self._core.next_deadline() - self._world.clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._on_timer)

    def _load_slots(self) -> list[bytes]:
        if self._slot_file is None:
            return []
        self._slot_file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            stored = self._slot_file.read_bytes()
            slots = parse_slots(stored)
            if len(stored) != 20 * len(slots):
                self._slot_file.write_bytes(b"".join(slots))
            return slots
        return []

    def _save_slot(self, entry: bytes) -> None:
        if self._slot_file is None:
            return
        try:
            with self._slot_file.open("ab") as file:
                file.write(entry)
        except OSError as error:
            log.warning("relay.slot_unsaved", reason=str(error))
