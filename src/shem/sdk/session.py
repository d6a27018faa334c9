"""What all handles of one `Golem` share: the REST client, patience, and who we are."""

import hashlib
from dataclasses import dataclass

from shem.kernel.world import World
from shem.rest.client import RestClient
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

    @property
    def app_session_id(self) -> str:
        """The same in every process of an application, so that it finds its own events again."""
        return hashlib.sha256(f"shem-app:{self.app}".encode()).hexdigest()[:32]
