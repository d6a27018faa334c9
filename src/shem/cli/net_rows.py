"""The rows of `shem net …` in yagna's form, from the bus's (docs/protocol/net.md §10.2). Pure."""

from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
_MIB = 1 << 20


def socket_address(value: Any) -> str | None:
    """Return `host:port` of the bus's form `{"V4": [[a, b, c, d], port]}`."""
    if value is None:
        return None
    ((family, (octets, port)),) = value.items()
    if family == "V4":
        return f"{'.'.join(map(str, octets))}:{port}"
    return f"[{bytes(octets).hex(':', 2)}]:{port}"


def session_row(found: Row) -> Row:
    return {
        "nodeId": found["nodeId"],
        "address": socket_address(found["remoteAddress"]),
        "type": found["sessionType"],
        "seen": _seconds(found["seen"]),
        "time": _seconds(found["duration"]),
        "ping": f"{_milliseconds(found['ping']):.0f}ms",
        "in [MiB]": found["metrics"]["rxTotal"] / _MIB,
        "out [MiB]": found["metrics"]["txTotal"] / _MIB,
    }


def socket_row(found: Row) -> Row:
    return {
        "type": found["protocol"],
        "port": found["localPort"],
        "to addr": found["remoteAddr"],
        "to port": found["remotePort"],
        "state": found["state"],
        "in [KiB/s]": found["metrics"]["rxAvg"] / 1024,
        "out [KiB/s]": found["metrics"]["txAvg"] / 1024,
    }


def ping_row(found: Row) -> Row:
    return {
        "nodeId": found["nodeId"],
        "alias": found["nodeAlias"],
        "p2p": found["isP2p"],
        "ping (tcp)": _ping(found["tcpPing"]),
        "ping (udp)": _ping(found["udpPing"]),
    }


def node_fields(found: Row) -> Row:
    seen = datetime.fromtimestamp(found["seen"], UTC)
    return {
        "identities": found["identities"],
        "endpoints": [socket_address(endpoint) for endpoint in found["endpoints"]],
        "seen": f"{seen:%Y-%m-%d %H:%M:%S} UTC",
        "slot": found["slot"],
        "encryption": found["encryption"],
    }


def _milliseconds(duration: Row) -> float:
    return float(duration["secs"] * 1e3 + duration["nanos"] / 1e6)


def _ping(duration: Row | None) -> str | None:
    return None if duration is None else f"{_milliseconds(duration):.3f}"


def _seconds(duration: Row) -> str:
    """Return `2h 3m 48s`, without the parts that are nothing."""
    minutes, seconds = divmod(duration["secs"], 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return " ".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
