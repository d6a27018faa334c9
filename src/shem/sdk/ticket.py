"""A Ticket: what one process hands to another so that it can attach. JSON, versioned, no secrets.

Everything in it can also be had from the node (`golem.tickets()`); what only the ticket knows is
how far its holder has read each batch (`cursors`).
"""

from pathlib import Path
from typing import Final

import msgspec

from shem.kernel.errors import UsageError

VERSION: Final = 1
TICKET_SIZE_MAX: Final = 1024 * 1024


class Ticket(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Names of one rented activity."""

    version: int = VERSION
    activity_id: str
    agreement_id: str
    provider_id: str
    requestor_id: str
    app: str
    cursors: dict[str, int] = {}
    """Batch id → index of the next result that was not read yet."""
    expires: str | None = None

    def dumps(self) -> str:
        return msgspec.json.encode(self).decode()

    def save(self, path: Path | str) -> None:
        Path(path).write_text(self.dumps() + "\n", encoding="utf-8")

    @classmethod
    def loads(cls, text: str) -> "Ticket":
        """Read a ticket; UsageError when it is none, or of a version that we do not know."""
        if len(text) > TICKET_SIZE_MAX:
            raise UsageError(f"a ticket has at most {TICKET_SIZE_MAX} characters")
        try:
            ticket = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise UsageError(f"this is not a ticket: {error}") from error
        if ticket.version != VERSION:
            raise UsageError(f"ticket version {ticket.version} is not supported yet by this SDK")
        return ticket

    @classmethod
    def load(cls, path: Path | str) -> "Ticket":
        try:
            return cls.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"no ticket can be read from {path}: {error}") from error
