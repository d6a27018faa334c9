"""Addresses of the internet: the provider's own network is not for requestors.

Unless the operator says so (`SHEM_PRIVATE_TRANSFERS`), nothing is fetched from, or connected to, an
address that is not reachable for all, or that is on a link of this machine: many a home's devices
have addresses of the internet behind a wall that we stand inside of. Addresses that carry another
within them count as that one.
"""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Final

import psutil

from shem.kernel.config import setting

_WRAPPED_IPV4: Final = tuple(
    (ipaddress.ip_network(network), shift)
    for network, shift in (
        ("::ffff:0:0/96", 0),
        ("64:ff9b::/96", 0),
        ("::/96", 0),
        ("2002::/16", 80),
    )
)
"""IPv6 networks that stand for IPv4 ones, and where the address is."""


class PrivateAddress(OSError):
    """The address is not on the internet."""


def private_allowed() -> bool:
    return (setting("PRIVATE_TRANSFERS") or "no").lower() in {"yes", "1", "true"}


def require_public(host: str) -> None:
    """Refuse an address that is not on the internet; ValueError when it is no address."""
    address = ipaddress.ip_address(host)
    inner = _wrapped(address) if isinstance(address, ipaddress.IPv6Address) else None
    for found in (address, inner):
        if found is not None and (not found.is_global or found.is_multicast):
            raise PrivateAddress(
                f"{host} is not on the internet; this provider fetches from nowhere else"
            )
    if any(address in network for network in _own_networks()):
        raise PrivateAddress(f"{host} is in this provider's own network")


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    for network, shift in _WRAPPED_IPV4:
        if address in network:
            return ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return None


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _own_networks() -> Iterator[_Network]:
    """Yield the networks that this machine is linked to."""
    for addresses in psutil.net_if_addrs().values():
        for found in addresses:
            if found.family not in (socket.AF_INET, socket.AF_INET6) or not found.netmask:
                continue
            bits = int(ipaddress.ip_address(found.netmask)).bit_count()
            place = found.address.partition("%")[0]
            yield ipaddress.ip_network(f"{place}/{bits}", strict=False)
