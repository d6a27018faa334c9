"""Identities that come and go while the net runs: proven before they speak, nothing disturbed."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.config import Encryption
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.world import SystemRng, World
from shem.net.keyring import Keyring
from shem.net.service import Net
from shem.net.types import Channel
from shem.relay.service import Relay
from shem.wire.relay import IDENTITIES_MAX

LOOPBACK = ("127.0.0.1", 0)


def new_key():
    return PrivateKey.generate(SystemRng())


class Pair:
    """Two nets over a relay, which have spoken with each other; what each got is kept."""

    def __init__(self, relay, one, two):
        self.relay, self.one, self.two = relay, one, two
        self.heard = {net: asyncio.Queue() for net in (one, two)}
        self.missed = []
        self.lost = []
        for net in (one, two):
            net.on_message(lambda *message, net=net: self.heard[net].put_nowait(message))
            net.on_lost(lambda *what: self.lost.append(what))

    async def say(self, speaker, to, message, target=None, **settings):
        """Have one node say something to the other; return as whom it is known there."""
        receiver = target or to.default_id
        await speaker.send(receiver, Channel.RELIABLE, message, timeout_s=5, **settings)
        async with asyncio.timeout(5):
            while True:
                peer, _, heard = await self.heard[to].get()
                if heard == message:
                    return peer
                self.missed.append(heard)

    async def relay_session(self):
        """Return the id of the one's session with the relay."""
        return next(row.session_id for row in self.one.sessions() if row.kind == "relay")

    async def registered_anew(self, before):
        async with asyncio.timeout(10):
            while await self.relay_session() == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def pair(encryption, *, relayed=False, monkeypatch):
    if relayed:
        monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK, difficulty=4))
        nets = [
            await stack.enter_async_context(
                Net(World(), [new_key()], LOOPBACK, relay.address, encryption=encryption)
            )
            for _ in range(2)
        ]
        for net in nets:
            await net.wait_online(5)
        town = Pair(relay, *nets)
        await town.say(*nets, b"hello")
        await town.say(*reversed(nets), b"hello")
        yield town


MODES = pytest.mark.parametrize("encryption", [Encryption.PREFERRED, Encryption.OFF])
WAYS = pytest.mark.parametrize("relayed", [False, True], ids=["direct", "relayed"])


@MODES
@WAYS
async def test_new_identity_is_known_to_whom_it_speaks_at_once(encryption, relayed, monkeypatch):
    async with pair(encryption, relayed=relayed, monkeypatch=monkeypatch) as town:
        key = new_key()

        town.one.add_key(key)
        peer = await town.say(town.one, town.two, b"as the new one", sender=key.node_id)

        assert peer.node_id == town.one.default_id
        assert peer.identities == {town.one.default_id, key.node_id}
        assert town.lost == []


@MODES
@WAYS
async def test_new_identity_is_found_by_peers_who_have_a_session(encryption, relayed, monkeypatch):
    async with pair(encryption, relayed=relayed, monkeypatch=monkeypatch) as town:
        key, before = new_key(), await town.relay_session()

        town.one.add_key(key)
        await town.registered_anew(before)

        assert (await town.two.find(key.node_id)).node_id == town.one.default_id
        peer = await town.say(town.two, town.one, b"to the new one", target=key.node_id)
        assert peer.node_id == town.two.default_id
        assert town.lost == []


@MODES
@WAYS
async def test_traffic_goes_on_while_identities_come_and_go(encryption, relayed, monkeypatch):
    async with pair(encryption, relayed=relayed, monkeypatch=monkeypatch) as town:
        keys = [new_key() for _ in range(3)]
        messages = [f"{n}".encode() * 5_000 for n in range(120)]

        async def talk():
            for message in messages:
                await town.one.send(town.two.default_id, Channel.RELIABLE, message, timeout_s=5)
                await asyncio.sleep(0.002)

        talking = asyncio.create_task(talk())
        for key in keys:
            town.one.add_key(key)
            await asyncio.sleep(0.03)
            await town.say(town.one, town.two, key.node_id.encode(), sender=key.node_id)
            town.one.remove_key(key.node_id)
        await talking
        while len(town.missed) < len(messages):
            async with asyncio.timeout(5):
                town.missed.append((await town.heard[town.two].get())[2])

        assert town.missed == messages

        assert town.lost == []


async def test_messages_are_in_order_and_whole_across_a_change(monkeypatch):
    async with pair(Encryption.PREFERRED, monkeypatch=monkeypatch) as town:
        sent = [f"{n}".encode() for n in range(200)]
        for n, message in enumerate(sent):
            if n == 50:
                town.one.add_key(new_key())
            await town.one.send(town.two.default_id, Channel.RELIABLE, message, timeout_s=5)

        async with asyncio.timeout(5):
            heard = [(await town.heard[town.two].get())[2] for _ in sent]

        assert heard == sent


async def test_session_with_a_peer_lives_on_where_it_is_encrypted(monkeypatch):
    async with pair(Encryption.PREFERRED, monkeypatch=monkeypatch) as town:
        key = new_key()
        before = {row.session_id for row in town.two.sessions() if row.kind == "p2p"}

        town.one.add_key(key)
        await town.say(town.one, town.two, b"new", sender=key.node_id)

        after = {row.session_id for row in town.two.sessions() if row.kind == "p2p"}
        assert before == after != set()


@MODES
async def test_removed_identity_is_found_no_more(encryption, monkeypatch):
    async with pair(encryption, monkeypatch=monkeypatch) as town:
        key = new_key()
        town.one.add_key(key)
        await town.say(town.one, town.two, b"new", sender=key.node_id)

        town.one.remove_key(key.node_id)

        async with asyncio.timeout(10):
            with pytest.raises(ShemError, match="404"):
                while await town.two.find(key.node_id):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        with pytest.raises(ShemError):
            await town.one.send(
                town.two.default_id,
                Channel.RELIABLE,
                b"as it",
                timeout_s=0.3,
                sender=key.node_id,
            )


async def test_one_that_was_removed_comes_back(monkeypatch):
    async with pair(Encryption.PREFERRED, monkeypatch=monkeypatch) as town:
        key = new_key()
        for _ in range(3):
            town.one.add_key(key)
            await town.say(town.one, town.two, b"there", sender=key.node_id)
            town.one.remove_key(key.node_id)

        assert (await town.say(town.one, town.two, b"still")).node_id == town.one.default_id


async def test_identity_that_the_relay_cannot_yet_know_waits_for_no_relay(monkeypatch):
    async with pair(Encryption.PREFERRED, monkeypatch=monkeypatch) as town:
        await town.relay.__aexit__(None, None, None)
        key = new_key()

        town.one.add_key(key)
        peer = await town.say(town.one, town.two, b"without a relay", sender=key.node_id)

        assert key.node_id in peer.identities
        await town.relay.__aenter__()


async def test_stranger_is_never_taken_for_an_identity_that_the_relay_invents(monkeypatch):
    async with pair(Encryption.PREFERRED, monkeypatch=monkeypatch) as town:
        claimed = new_key().node_id
        core = town.relay._core
        session = core.directory.find(town.one.default_id)
        core.directory.registry.withdraw(session)
        session.identities = (*session.identities, (claimed, bytes(64)))
        core.directory.registry.publish(session)

        with pytest.raises(ShemError):
            await town.two.send(claimed, Channel.RELIABLE, b"secret", timeout_s=3)

        assert town.heard[town.one].empty()


def test_keyring_keeps_its_default_and_knows_its_limit():
    first, *others = [new_key() for _ in range(IDENTITIES_MAX)]
    keyring = Keyring([first])

    assert not keyring.remove(first.node_id)
    assert all(keyring.add(key) for key in others)
    assert not keyring.add(others[0])
    with pytest.raises(UsageError, match="at most"):
        keyring.add(new_key())
    assert keyring.default_id == first.node_id
    assert keyring.remove(others[0].node_id)
    assert not keyring.remove(others[0].node_id)
    assert others[0].node_id not in keyring
