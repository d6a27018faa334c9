"""Seeded lives of two nodes: talk, faults, outages, restarts, disconnects; then the link heals.

A failing case names its seed in the test id: `pytest "tests/sim/test_vtcp_sim.py::…[seed]"`.
"""

from dataclasses import dataclass, field

import pytest

from shem.net.types import Channel
from shem.net.vtcp.connection import USER_TIMEOUT_S
from tests.sim.stream_link import NODES, Faults, Link

SEEDS = range(250)
DRAIN_BOUND_S = 60.0
CHANNELS = (Channel.RELIABLE, Channel.TRANSFER)


@dataclass(slots=True)
class Life:
    """One run: the link, and what was sent where."""

    link: Link
    sent: dict[tuple[int, Channel], list[bytes]] = field(default_factory=dict)
    delivered: dict[tuple[int, Channel], list[bytes]] = field(default_factory=dict)
    restarted: bool = False

    def send(self) -> None:
        draw = self.link.random
        side, channel = draw.randrange(2), draw.choice(CHANNELS)
        size = draw.choice((20, 200, 2000, 20_000, 200_000))
        number = sum(map(len, self.sent.values()))
        message = number.to_bytes(4) + draw.randbytes(draw.randrange(1, size))
        self.sent.setdefault((1 - side, channel), []).append(message)
        self.link.send(side, channel, message)

    def harvest(self) -> None:
        """Move what arrived out of the nodes, so that a restart does not hide it."""
        for side, end in enumerate(self.link.ends):
            for channel, messages in end.messages.items():
                self.delivered.setdefault((side, channel), []).extend(messages)
            end.messages = {}

    def restart(self) -> None:
        self.harvest()
        self.restarted = True
        self.link.restart(self.link.random.randrange(2))

    def disconnect(self) -> None:
        side = self.link.random.randrange(2)
        self.link.ends[side].streams.drop_peer(NODES[1 - side], self.link.now)

    def outage(self) -> None:
        faults, self.link.faults = self.link.faults, Faults(loss=1.0)
        self.link.run(self.link.random.choice((0.5, 5, 40, USER_TIMEOUT_S + 10)))
        self.link.faults = faults


def draw_faults(link: Link) -> Faults:
    draw = link.random
    return Faults(
        loss=draw.choice((0, 0, 0.01, 0.05, 0.2)),
        repeat=draw.choice((0, 0, 0.05, 0.3)),
        delay_s=draw.choice((0.0002, 0.005, 0.05, 0.2)),
        jitter_s=draw.choice((0, 0.001, 0.05)),
        corrupt=draw.choice((0, 0, 0.02)),
    )


def live(seed: int) -> Life:
    life = Life(Link(seed))
    draw = life.link.random
    actions = [life.send] * 8
    for action in (life.restart, life.disconnect, life.outage):
        actions += [action] * draw.choice((0, 0, 1))
    for _ in range(draw.randrange(5, 25)):
        if draw.random() < 0.2:
            life.link.faults = draw_faults(life.link)
        draw.choice(actions)()
        life.link.run(draw.choice((0, 0.001, 0.05, 0.3, 2, 35)))
    life.link.faults = Faults(delay_s=0.01)
    life.link.run_until_quiet(DRAIN_BOUND_S)
    life.harvest()
    return life


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_arrive_once_in_order_and_are_missed_only_when_told(seed):
    life = live(seed)

    lost = {(side, told.channel) for side in (0, 1) for told in life.link.ends[side].lost}
    for (side, channel), messages in life.sent.items():
        arrived = life.delivered.get((side, channel), [])
        known = set(arrived)
        assert arrived == [message for message in messages if message in known]
        if not life.restarted and (1 - side, channel) not in lost:
            assert arrived == messages


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_the_link_works_again_after_everything(seed):
    life = live(seed)

    for attempt in (b"first", b"second"):  # the first may hit a connection the peer has forgotten
        for side in (0, 1):
            life.link.send(side, Channel.RELIABLE, attempt)
        life.link.run(3)

    for side in (0, 1):
        assert life.link.received(side)[-1] == b"second"
