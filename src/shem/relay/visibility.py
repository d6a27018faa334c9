"""Can a node be reached from an address it has never spoken to?

Pings are sent from a second socket; a Pong that comes back there in time makes the node
public. Verdicts last a minute per address. Pure. Spec: docs/protocol/net.md §5.2.
"""

from dataclasses import dataclass, field
from typing import Final

Address = tuple[str, int]

CHECK_INTERVAL_S: Final = 0.1
CHECK_TRIES: Final = 6
"""On a bad line half of them come to nothing."""
CHECK_TIMEOUT_S: Final = 0.7
"""Enough for three round trips; nobody behind a router is visible sooner after moving."""
VERDICT_LIFETIME_S: Final = 60.0
CHECKS_MAX: Final = 4_096
WAITING_MAX: Final = 8
"""Register requests that wait for one check: a client sends at most four."""


@dataclass(slots=True)
class Check:
    """One address under test."""

    address: Address
    session_id: bytes
    deadline: float
    next_try: float
    tries_left: int = CHECK_TRIES
    waiting: list[int] = field(default_factory=list)
    """Request ids to answer with the verdict."""


class Visibility:
    """Checks under way, and the verdicts of the last minute."""

    def __init__(self) -> None:
        self._checks: dict[Address, Check] = {}
        self._verdicts: dict[Address, tuple[bool, float]] = {}

    def verdict(self, address: Address, now: float) -> bool | None:
        known = self._verdicts.get(address)
        if known is None or known[1] < now:
            return None
        return known[0]

    def begin(self, address: Address, session_id: bytes, request_id: int, now: float) -> None:
        """Start a check, or let this request wait for the one under way."""
        check = self._checks.get(address)
        if check is None or check.session_id != session_id:
            if len(self._checks) >= CHECKS_MAX:
                return
            check = Check(address, session_id, now + CHECK_TIMEOUT_S, now)
            self._checks[address] = check
        if request_id not in check.waiting and len(check.waiting) < WAITING_MAX:
            check.waiting.append(request_id)

    def answered(self, address: Address, session_id: bytes, now: float) -> Check | None:
        """Take a Pong at the second socket; return the check that it ends."""
        check = self._checks.get(address)
        if check is None or check.session_id != session_id:
            return None
        return self._end(check, is_public=True, now=now)

    def due(self, now: float) -> tuple[list[Check], list[Check]]:
        """Return the checks that need another Ping, and those that have failed."""
        again, failed = [], []
        for check in tuple(self._checks.values()):
            if check.deadline <= now:
                failed.append(self._end(check, is_public=False, now=now))
            elif check.tries_left and check.next_try <= now:
                check.tries_left -= 1
                check.next_try = now + CHECK_INTERVAL_S
                again.append(check)
        return again, failed

    def next_deadline(self) -> float | None:
        times = [
            min(check.deadline, check.next_try) if check.tries_left else check.deadline
            for check in self._checks.values()
        ]
        return min(times, default=None)

    def forget_old(self, now: float) -> None:
        for address in [a for a, (_, until) in self._verdicts.items() if until < now]:
            del self._verdicts[address]

    def _end(self, check: Check, *, is_public: bool, now: float) -> Check:
        del self._checks[check.address]
        self._verdicts[check.address] = (is_public, now + VERDICT_LIFETIME_S)
        return check
