"""What all handles of one `Golem` share: the REST client, patience, and who we are."""

import hashlib
from dataclasses import dataclass, replace

from shem.kernel.world import World
from shem.rest.client import RestClient
from shem.sdk.files import Files
from shem.sdk.patience import Patience


@dataclass(frozen=True, slots=True)
class Session:
    """One program's connection to its node."""

    rest: RestClient
    patience: Patience
    world: World
    app: str
    subnet: str
    identity: str
    """The node id that the application key acts for."""
    files: Files
    """Files of this machine that are on their way."""
    work: str = ""
    """The named work (a map, a service) whose agreements these are; empty for all others."""

    def named(self, work: str) -> "Session":
        """Return the same session for a work of its own, whose agreements can be found again."""
        return replace(self, work=work)

    @property
    def app_session_id(self) -> str:
        """The same in every process of an application, so that it finds its own events again."""
        name = f"{self.app}/{self.work}" if self.work else self.app
        return hashlib.sha256(f"shem-app:{name}".encode()).hexdigest()[:32]
