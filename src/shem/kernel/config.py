"""Settings: option, then `SHEM_…`, then yagna's name, then the default.

yagna's environment variables are honoured as aliases, so that an existing set-up switches by
changing the binary (docs/config.md lists all of them). A value that cannot be used is a UsageError
that names the variable.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shem.kernel.errors import UsageError

DEFAULT_API_URL: Final = "http://127.0.0.1:7465"
DEFAULT_GSB_URL: Final = "unix:/tmp/yagna.sock"
DEFAULT_GSB_PORT: Final = 7464
DEFAULT_BIND_URL: Final = "udp://0.0.0.0:11500"
DEFAULT_RELAY_LISTEN: Final = "0.0.0.0:7477"
DEFAULT_RELAY_PORT: Final = 7477
DEFAULT_RELAY_METRICS: Final = "127.0.0.1:7477"
DEFAULT_DATADIR: Final = "~/.local/share/shem"


class Encryption(StrEnum):
    """How a node deals with peers that do not speak encrypted (docs/protocol/encryption.md §5)."""

    REQUIRED = "required"
    """It does not deal with them."""
    PREFERRED = "preferred"
    """In the clear, unless they once spoke encrypted."""
    OFF = "off"
    """All in the clear, as yagna does it."""


def setting(name: str, *aliases: str, env: Mapping[str, str] | None = None) -> str | None:
    """Return the first non-empty of `SHEM_<name>` and the aliases, or None."""
    source = os.environ if env is None else env
    for variable in (f"SHEM_{name}", *aliases):
        if value := source.get(variable):
            return value
    return None


def flag(name: str, *, env: Mapping[str, str] | None = None, default: bool = False) -> bool:
    """Return whether `SHEM_<name>` is set to 1 or to 0; the default when it is not set."""
    value = setting(name, env=env) or str(int(default))
    if value not in {"0", "1"}:
        raise UsageError(f"SHEM_{name} {value!r} is not 0 or 1")
    return value == "1"


def parse_host_port(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Read `HOST:PORT` (IPv6 in brackets); UsageError when either part is unusable."""
    parts = urlsplit(text if "//" in text else f"//{text}")
    try:
        port = parts.port if parts.port is not None else default_port
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from error
    if not parts.hostname or port is None:
        raise UsageError(f"{text!r} is not HOST:PORT")
    return parts.hostname, port


@dataclass(frozen=True, slots=True)
class GsbAddress:
    """Where the bus socket is: a unix path, or a TCP host and port."""

    path: Path | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_GSB_PORT

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp://{self.host}:{self.port}"


def parse_gsb_url(text: str) -> GsbAddress:
    """Read `unix:/path` or `tcp://host:port`; without a scheme it is TCP."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:").removeprefix("//"))
        if not path.is_absolute():
            raise UsageError(f"GSB_URL {text!r}: a unix socket needs an absolute path")
        return GsbAddress(path=path)
    host, port = parse_host_port(text, default_port=DEFAULT_GSB_PORT)
    return GsbAddress(host=host, port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Settings of `shem node run`."""

    datadir: Path
    api_url: str = DEFAULT_API_URL
    gsb_url: str = DEFAULT_GSB_URL
    bind_url: str = DEFAULT_BIND_URL
    relay_host: str | None = None
    net_encryption: Encryption = Encryption.PREFERRED
    database_url: str | None = None
    autoconf_appkey: str | None = None
    autoconf_id_secret: str | None = None
    max_rest_timeout_s: float = 60.0
    market_exact_failures: bool = False

    @property
    def api_address(self) -> tuple[str, int]:
        return parse_host_port(self.api_url, default_port=7465)

    @property
    def bind_address(self) -> tuple[str, int]:
        return parse_host_port(self.bind_url, default_port=11500)

    @property
    def relay_address(self) -> tuple[str, int] | None:
        if self.relay_host is None:
            return None
        return parse_host_port(self.relay_host, default_port=DEFAULT_RELAY_PORT)


def load_node_config(
    *,
    datadir: str | None = None,
    api_url: str | None = None,
    gsb_url: str | None = None,
    env: Mapping[str, str] | None = None,
) -> NodeConfig:
    """Gather the node's settings from options and the environment."""

    def pick(option: str | None, name: str, *aliases: str) -> str | None:
        return option or setting(name, *aliases, env=env)

    chosen = pick(datadir, "DATADIR", "YAGNA_DATADIR") or DEFAULT_DATADIR
    timeout = setting("MAX_REST_TIMEOUT", "MAX_REST_TIMEOUT", env=env) or "60"
    try:
        max_rest_timeout_s = float(timeout)
    except ValueError as error:
        raise UsageError(f"MAX_REST_TIMEOUT {timeout!r} is not a number of seconds") from error
    encryption = pick(None, "NET_ENCRYPTION") or Encryption.PREFERRED
    if encryption not in set(Encryption):
        raise UsageError(
            f"SHEM_NET_ENCRYPTION {encryption!r} is not one of {', '.join(Encryption)}"
        )
    return NodeConfig(
        datadir=Path(chosen).expanduser().absolute(),
        api_url=pick(api_url, "API_URL", "YAGNA_API_URL") or DEFAULT_API_URL,
        gsb_url=pick(gsb_url, "GSB_URL", "GSB_URL") or DEFAULT_GSB_URL,
        bind_url=pick(None, "NET_BIND_URL", "YA_NET_BIND_URL") or DEFAULT_BIND_URL,
        relay_host=pick(None, "NET_RELAY_HOST", "YA_NET_RELAY_HOST"),
        net_encryption=Encryption(encryption),
        database_url=pick(None, "DATABASE_URL"),
        autoconf_appkey=pick(None, "AUTOCONF_APPKEY", "YAGNA_AUTOCONF_APPKEY"),
        autoconf_id_secret=pick(None, "AUTOCONF_ID_SECRET", "YAGNA_AUTOCONF_ID_SECRET"),
        max_rest_timeout_s=max_rest_timeout_s,
        market_exact_failures=flag("MARKET_EXACT_FAILURES", env=env),
    )
