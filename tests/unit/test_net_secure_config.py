"""The policy as a setting, and as users see it."""

import pytest

from shem.kernel.config import Encryption, load_node_config
from shem.kernel.errors import UsageError
from shem.net.secure.packets import SCHEME
from tests.unit.test_net_loopback import two_nets


@pytest.mark.parametrize("value", list(Encryption))
def test_policy_is_read_from_the_environment(value):
    assert load_node_config(env={"SHEM_NET_ENCRYPTION": value}).net_encryption is value


def test_policy_is_preferred_unless_said_otherwise():
    assert load_node_config(env={}).net_encryption is Encryption.PREFERRED


@pytest.mark.parametrize("value", ["none", "Required", "0", "preferred "])
def test_an_unknown_policy_is_refused(value):
    with pytest.raises(UsageError, match="SHEM_NET_ENCRYPTION"):
        load_node_config(env={"SHEM_NET_ENCRYPTION": value})


async def test_net_find_tells_whether_the_peer_is_spoken_to_encrypted():
    async with two_nets() as (_, one, two):
        assert (await one.find(two.default_id)).encryption == ()
        assert (await one.connect(two.default_id)).encryption == (SCHEME,)
        assert (await two.find(one.default_id)).encryption == (SCHEME,)


async def test_net_find_tells_that_a_peer_is_spoken_to_in_the_clear():
    async with two_nets(encryption=Encryption.OFF) as (_, one, two):
        assert (await one.connect(two.default_id)).encryption == ()
