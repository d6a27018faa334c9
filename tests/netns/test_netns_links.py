"""What the kernel tells a process about its own network."""

import asyncio

from shem.kernel.links import LinkWatch, source_towards


async def test_changes_of_links_and_addresses_are_told_once_each_and_nothing_else(net):
    host, other = net.host("host"), net.host("other")
    told = []
    with host.space.entered():
        watch = LinkWatch(lambda: told.append(source(host, other)))
    try:
        await settled()
        assert told == []

        after = host.move()
        await settled()
        assert told == [after]

        host.link_down()
        await settled()
        assert told[1:] == [None]

        host.link_up()
        await settled()
        assert told[2:] == [after]

        other.move()
        net.cut(host)
        await settled()
        assert len(told) == 3
    finally:
        watch.close()


def source(host, other):
    with host.space.entered():
        return source_towards((other.address, 9))


async def settled():
    await asyncio.sleep(0.2)
