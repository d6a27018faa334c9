"""What the notes of a service say: pure, rebuilt from its journal (docs/adr/0009)."""

from dataclasses import dataclass, field
from typing import Final

from shem.kernel.errors import StorageFault
from shem.sdk.journal import Entry
from shem.sdk.service import ServiceState

STATE: Final = "state"
BATCH: Final = "batch"
ENDED: Final = "ended"


@dataclass(slots=True)
class Memory:
    """What the notes of a service say; pure."""

    state: ServiceState = ServiceState.PENDING
    activity_id: str | None = None
    batches: dict[str, str] = field(default_factory=dict)
    """Step → id of its batch, as the node told it."""
    under_way: str | None = None
    """The batch of `run` whose end nobody has noted."""

    @classmethod
    def of(cls, entries: list[Entry]) -> "Memory":
        memory = cls()
        for entry in entries:
            try:
                memory.apply(entry)
            except (KeyError, ValueError, TypeError) as error:
                raise StorageFault(f"the notes of a service are damaged: {error!r}") from error
        return memory

    def apply(self, entry: Entry) -> None:
        """Take in an entry that is on disk."""
        match entry["kind"]:
            case "state":
                state = ServiceState(entry["state"])
                if state is ServiceState.PENDING:
                    self.batches.clear()
                    self.activity_id = self.under_way = None
                self.state = state
                self.activity_id = entry.get("activity", self.activity_id)
            case "batch":
                self.batches[entry["step"]] = entry["batch"]
                if entry["step"] == ServiceState.RUNNING:
                    self.under_way = entry["batch"]
            case "ended":
                if self.under_way == entry["batch"]:
                    self.under_way = None
            case other:
                raise ValueError(f"unknown kind {other!r}")
