"""The userland internet does to packets what it says."""

import multiprocessing
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from shem.devnet.internet import Weather
from shem.devnet.namespace import NAMED, Namespace, sweep

PORT = 9000


class Box:
    """A UDP socket on a host."""

    def __init__(self, host, port=PORT):
        with host.space.entered():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(("0.0.0.0", port))
        self.socket.setblocking(False)

    def say(self, data, address, port=PORT):
        self.socket.sendto(data, (address, port))

    def hear(self, timeout_s=2.0):
        ready, _, _ = select.select([self.socket], [], [], timeout_s)
        if not ready:
            return None
        return self.socket.recvfrom(2048)

    def hear_all(self, quiet_s=0.3):
        heard = []
        while (got := self.hear(quiet_s)) is not None:
            heard.append(got[0])
        return heard


@pytest.fixture
def boxes():
    opened = []

    def open_box(host, port=PORT):
        opened.append(Box(host, port))
        return opened[-1]

    yield open_box
    for box in opened:
        box.socket.close()


def test_a_packet_reaches_the_other_host_and_an_answer_comes_back(net, boxes):
    one, two = net.host("one"), net.host("two")
    here, there = boxes(one), boxes(two)

    here.say(b"hello", two.address)

    assert there.hear() == (b"hello", (one.address, PORT))
    there.say(b"back", one.address)
    assert here.hear() == (b"back", (two.address, PORT))


def test_nothing_but_the_other_hosts_can_be_reached(net, boxes):
    one = net.host("one")
    here = boxes(one)

    with pytest.raises(OSError, match="unreachable"):
        here.say(b"x", "8.8.8.8")
    here.say(b"x", "198.18.99.1")

    assert here.hear(0.1) is None


def test_losses_and_repeats_come_as_often_as_asked_for(net, boxes):
    one, two = net.host("one"), net.host("two")
    here, there = boxes(one), boxes(two)
    net.weather = Weather(loss=0.2, duplicates=0.1)

    heard = []
    for number in range(1000):
        here.say(str(number).encode(), two.address)
        if number % 100 == 99:
            heard += there.hear_all(0.05)
    heard += there.hear_all()

    assert 740 < len(set(heard)) < 860
    assert 40 < len(heard) - len(set(heard)) < 130


def test_delay_is_within_its_bounds_and_reorders(net, boxes):
    one, two = net.host("one"), net.host("two")
    here, there = boxes(one), boxes(two)
    net.weather = Weather(delay_s=(0.1, 0.2))

    started = time.monotonic()
    for number in range(50):
        here.say(bytes([number]), two.address)
    first = there.hear()
    took_s = time.monotonic() - started
    rest = there.hear_all()

    assert 0.09 < took_s < 0.3
    assert sorted([first[0], *rest]) == [bytes([n]) for n in range(50)] != [first[0], *rest]


def test_a_cut_is_silent_and_heals(net, boxes):
    one, two, three = net.host("one"), net.host("two"), net.host("three")
    here, there, other = boxes(one), boxes(two), boxes(three)

    net.cut(two)
    here.say(b"lost", two.address)
    there.say(b"lost", one.address)
    here.say(b"kept", three.address)
    assert other.hear()[0] == b"kept"
    assert there.hear(0.1) is None and here.hear(0.1) is None

    net.heal(two)
    net.part(one, two)
    here.say(b"lost", two.address)
    other.say(b"kept", two.address)
    assert there.hear()[0] == b"kept"

    net.join(one, two)
    here.say(b"again", two.address)
    assert there.hear()[0] == b"again"


def test_a_moved_host_sends_from_its_new_address_and_is_gone_from_the_old_one(net, boxes):
    one, two = net.host("one"), net.host("two")
    here, there = boxes(one), boxes(two)
    before = one.address

    after = one.move()

    here.say(b"moved", two.address)
    assert there.hear() == (b"moved", (after, PORT)) and after != before
    there.say(b"lost", before)
    there.say(b"found", after)
    assert here.hear()[0] == b"found"


def test_a_host_whose_link_is_down_sees_it(net, boxes):
    one, two = net.host("one"), net.host("two")
    here, there = boxes(one), boxes(two)

    one.link_down()
    with pytest.raises(OSError, match="unreachable"):
        here.say(b"x", two.address)
    there.say(b"lost", one.address)

    one.link_up()
    here.say(b"back", two.address)
    assert there.hear()[0] == b"back"
    assert here.hear(0.1) is None


def test_a_router_lets_in_only_what_was_asked_for(net, boxes):
    home, two = net.host("home", behind_nat=True), net.host("two")
    here, there, stranger = boxes(home), boxes(two), boxes(two, 9001)

    here.say(b"out", two.address)

    data, source = there.hear()
    assert data == b"out" and source[0] == home.address != home.inner and source[1] != PORT
    stranger.say(b"no", *source)
    there.say(b"yes", *source)
    assert here.hear() == (b"yes", (two.address, PORT))
    assert here.hear(0.1) is None


def test_a_strict_router_has_another_port_for_every_receiver(net, boxes):
    home, two, three = net.host("home", behind_nat=True), net.host("two"), net.host("three")
    home.nat.per_receiver = True
    here, there, elsewhere = boxes(home), boxes(two), boxes(three)

    here.say(b"out", two.address)
    here.say(b"out", three.address)

    seen, also_seen = there.hear()[1], elsewhere.hear()[1]
    assert seen[0] == also_seen[0] == home.address and seen[1] != also_seen[1]
    elsewhere.say(b"no", *seen)
    there.say(b"yes", *seen)
    assert here.hear() == (b"yes", (two.address, PORT))
    assert here.hear(0.1) is None


def test_a_router_that_restarts_gives_another_port(net, boxes):
    home, two = net.host("home", behind_nat=True), net.host("two")
    here, there = boxes(home), boxes(two)
    here.say(b"out", two.address)
    before = there.hear()[1]

    home.nat.rebind()

    there.say(b"lost", *before)
    assert here.hear(0.1) is None
    here.say(b"out", two.address)
    after = there.hear()[1]
    assert after[0] == before[0] and after[1] != before[1]


def test_namespaces_of_dead_runs_are_swept_and_those_of_living_ones_are_not():
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = Namespace(f"alone{ended.pid}-left")
    living = Namespace(f"alone{os.getpid()}-kept")
    left, kept = (subprocess.Popen([*space.enter, "sleep", "60"]) for space in (dead, living))
    try:
        time.sleep(0.2)  # they have to get there
        sweep("alone")
        assert left.wait(5) == -signal.SIGKILL
        assert not (NAMED / dead.name).exists()
        assert kept.poll() is None
        assert Path(NAMED / living.name).exists()
    finally:
        kept.kill()
        kept.wait()
        living.delete()


def test_several_test_processes_sweep_at_once():
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = [Namespace(f"crowd{ended.pid}-left{number}") for number in range(8)]
    context = multiprocessing.get_context("spawn")
    sweepers = [context.Process(target=sweep, args=("crowd",)) for _ in range(3)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join(30)
    assert [sweeper.exitcode for sweeper in sweepers] == [0, 0, 0]
    assert [space.name for space in dead if (NAMED / space.name).exists()] == []


def test_hosts_of_the_ipv6_kind_reach_each_other_and_move(net):
    one, two = net.host("one", ipv6=True), net.host("two", ipv6=True)
    with one.space.entered():
        here = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with two.space.entered():
        there = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with here, there:
        there.bind(("::", PORT))
        there.settimeout(2)

        here.sendto(b"hello", (two.address, PORT))
        data, source = there.recvfrom(100)
        assert data == b"hello" and source[0] == one.address

        after = one.move()
        here.sendto(b"moved", (two.address, PORT))
        data, source = there.recvfrom(100)
        assert data == b"moved" and source[0] == after
