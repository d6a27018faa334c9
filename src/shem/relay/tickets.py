"""Session ids that prove themselves: the relay keeps nothing until a challenge is solved.

A session id is a nonce, its time of issue, and a code over both and the asker's address under a
salt of this process; the challenge follows from the id. Whoever spoofs an address never gets a
ticket for it, and a restarted node gets a fresh one. Pure. Spec: docs/protocol/net.md §5.1.
"""

import hashlib
import hmac
from typing import Final

Address = tuple[str, int]

TICKET_LIFETIME_S: Final = 600
SALT_SIZE: Final = 16
_NONCE_SIZE: Final = 4
_TIME_SIZE: Final = 4
_CODE_SIZE: Final = 8


class Tickets:
    """Issues and checks session ids."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def issue(self, address: Address, nonce: bytes, now: float) -> bytes:
        head = nonce[:_NONCE_SIZE] + int(now).to_bytes(_TIME_SIZE, "big")
        return head + self._code(head, address)

    def challenge(self, session_id: bytes) -> bytes:
        """Return the 16 bytes that the holder of this ticket has to work on."""
        return hmac.digest(self._salt, b"challenge" + session_id, hashlib.sha256)[:16]

    def is_valid(self, session_id: bytes, address: Address, now: float) -> bool:
        """Tell whether this process issued it to this address, lately."""
        head, code = session_id[: _NONCE_SIZE + _TIME_SIZE], session_id[-_CODE_SIZE:]
        age = int(now) - int.from_bytes(head[_NONCE_SIZE:], "big")
        genuine = hmac.compare_digest(code, self._code(head, address))
        return genuine and 0 <= age <= TICKET_LIFETIME_S

    def _code(self, head: bytes, address: Address) -> bytes:
        text = f"{address[0]} {address[1]}".encode()
        return hmac.digest(self._salt, b"session" + head + text, hashlib.sha256)[:_CODE_SIZE]
