"""What a node answers OK for is synchronised to the disk before the answer leaves.

`kill -9` cannot show a missing sync, since the kernel keeps what was written; the order of a node's
system calls does.
"""

import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crash import syscalls
from tests.crash.points_pair import paired

CALLS = "trace=fdatasync,read,write"
SHOWN_BYTES = "200"
"""Of what is read and written: enough for a path."""
SYNCED = re.compile(r"\bfdatasync(\(| resumed).* = 0$")
ASKED = re.compile(r'\bread\((\d+), "POST /market-api/v1(/\S+)')
ANSWERED = re.compile(r'\bwrite\((\d+), "HTTP/1\.1 2')
CHANGES_NOTHING = ("wait",)
REASON = syscalls.why_not()

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")


def acknowledged(trace: str) -> list[str]:
    """Return the paths that were answered OK; fail when one was before anything was synced."""
    waiting: dict[str, tuple[str, bool]] = {}
    done: list[str] = []
    for line in trace.splitlines():
        if SYNCED.search(line):
            waiting = {connection: (path, True) for connection, (path, _) in waiting.items()}
        elif asked := ASKED.search(line):
            waiting[asked[1]] = (asked[2].partition("?")[0], False)
        elif (answered := ANSWERED.search(line)) and answered[1] in waiting:
            path, synced = waiting.pop(answered[1])
            if not path.endswith(CHANGES_NOTHING):
                assert synced, f"acknowledged before it was on the disk: {path}"
                done.append(path.rpartition("/")[2])
    return done


@pytest.mark.timeout(180)
async def test_every_acknowledgement_of_a_node_comes_after_a_sync(short_dir: Path) -> None:
    async with paired(short_dir) as pair:
        deal = pair.deal("terminated")
        async with AsyncExitStack() as stack:
            for name in pair.nodes:
                hold, log = syscalls.whole(pair.pid(name)), short_dir / f"{name}.calls"
                held = syscalls.held(hold, log, "-s", SHOWN_BYTES, "-e", CALLS)
                await stack.enter_async_context(held)
            await deal.begin()
            await deal.agree()
            await deal.end()
        assert await deal.judge() == []
    ours, theirs = (
        acknowledged((short_dir / f"{name}.calls").read_text(errors="replace"))
        for name in ("requestor", "provider")
    )

    assert [ours[0], *ours[2:]] == ["demands", "agreements", "confirm", "terminate"]
    assert [theirs[0], *theirs[2:]] == ["offers", "approve"]


def test_an_answer_before_its_sync_is_found() -> None:
    asked, answered = '1 read(7, "POST /market-api/v1/demands HTTP', '1 write(7, "HTTP/1.1 201 Cr'
    unfinished, resumed = "2 fdatasync(14 <unfinished ...>", "2 <... fdatasync resumed>) = 0"

    assert acknowledged("\n".join((asked, unfinished, resumed, answered))) == ["demands"]
    for trace in ((asked, unfinished, answered, resumed), (resumed, asked, answered)):
        with pytest.raises(AssertionError, match="before it was on the disk: /demands"):
            acknowledged("\n".join(trace))
