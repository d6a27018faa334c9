"""The REST client that the SDK, the provider agent and the command line share.

`RestClient` speaks yagna's paths and JSON (docs/protocol/market.md §3, activity-exeunit.md §2,
gsb-identity.md §4), so it works with a shem node and with a yagna. It imports fast: aiohttp is
loaded when the first client opens. Reading order: `errors`, `models`, `transport`, `market`,
`activity`, `client`. What agreements may say, for both of its sides: `terms`, `endwhen`, `manifest`
with `destinations`, `scriptrules`, `patterns` and `pattern_syntax`.
"""

from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected

__all__ = ["ApiError", "Disconnected", "RestClient"]
