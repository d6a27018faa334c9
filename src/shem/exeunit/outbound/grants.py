"""Which places programs may reach: host and port, as the manifest names them. Pure."""

from dataclasses import dataclass, field

from shem.rest.manifest import Outbound


@dataclass(frozen=True, slots=True)
class Grants:
    """What the agreement grants."""

    endpoints: frozenset[tuple[str, int]] = field(default_factory=frozenset)
    unrestricted: bool = False

    @classmethod
    def of(cls, outbound: Outbound) -> "Grants":
        wanted = (place for place in outbound.destinations if place.scheme != "udp")
        return cls(frozenset(place.endpoint for place in wanted), outbound.unrestricted)

    def permit(self, host: str, port: int) -> bool:
        return self.unrestricted or (host, port) in self.endpoints
