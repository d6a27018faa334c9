from shem.cli.net_rows import node_fields, ping_row, session_row, socket_address


def test_a_session_is_shown_as_yagna_does() -> None:
    found = {
        "nodeId": "0x00",
        "remoteAddress": {"V4": [[127, 0, 0, 1], 7477]},
        "sessionType": "relay",
        "seen": {"secs": 0, "nanos": 999_999_999},
        "duration": {"secs": 3 * 60 + 48, "nanos": 5},
        "ping": {"secs": 0, "nanos": 1_234_567},
        "metrics": {"rxTotal": 3 << 20, "txTotal": 1 << 19},
    }

    assert session_row(found) == {
        "nodeId": "0x00",
        "address": "127.0.0.1:7477",
        "type": "relay",
        "seen": "0s",
        "time": "3m 48s",
        "ping": "1ms",
        "in [MiB]": 3.0,
        "out [MiB]": 0.5,
    }


def test_a_ping_without_an_answer_is_none() -> None:
    found = {
        "nodeId": "0x00",
        "nodeAlias": None,
        "isP2p": True,
        "tcpPing": {"secs": 1, "nanos": 500_000_000},
        "udpPing": None,
    }

    assert ping_row(found) == {
        "nodeId": "0x00",
        "alias": None,
        "p2p": True,
        "ping (tcp)": "1500.000",
        "ping (udp)": None,
    }


def test_a_found_node_has_readable_addresses_and_times() -> None:
    endpoints = [{"V4": [[10, 0, 0, 1], 5]}, {"V6": [[0] * 15 + [1], 6]}]
    found = {"identities": ["0x00"], "endpoints": endpoints, "seen": 5, "slot": 2, "encryption": []}

    assert node_fields(found) == {
        "identities": ["0x00"],
        "endpoints": ["10.0.0.1:5", "[0000:0000:0000:0000:0000:0000:0000:0001]:6"],
        "seen": "1970-01-01 00:00:05 UTC",
        "slot": 2,
        "encryption": [],
    }
    assert socket_address(None) is None
