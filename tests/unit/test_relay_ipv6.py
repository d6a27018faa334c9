"""Addresses of IPv6, as the relay tells them: a real yagna reads `address:port`."""

import pytest

from shem.kernel.ids import node_id_to_bytes
from shem.net.registry import read_endpoints
from shem.wire import relay as r
from tests.relay_town import Client, Town, joined


@pytest.fixture
def town():
    return Town()


def test_a_nodes_address_of_ipv6_is_told_in_brackets_and_read_by_our_node(town):
    one, other = Client(town, 1, host="fd00::9").open(), joined(town, 2)

    registered = one.register().content.body.endpoints
    found = other.ask(r.FindNode(node_id_to_bytes(one.node_id))).content.body.endpoints

    assert registered == found == (r.Endpoint("[fd00::9]", 1),)
    assert read_endpoints(found) == (one.address,)


def test_an_address_of_ipv4_is_told_as_it_is(town):
    one = Client(town, 1).open()

    assert one.register().content.body.endpoints == (r.Endpoint("10.0.0.9", 1),)
