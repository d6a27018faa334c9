"""Writing to what may have broken: an OSError says so, on every event loop.

Once a transport is closed, asyncio's own loop drops what is written, and uvloop raises
RuntimeError, which no handler of broken connections expects.
"""

import asyncio


def put(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write without waiting; BrokenPipeError when the other side is gone."""
    if writer.is_closing():
        raise BrokenPipeError("the connection is closed")
    writer.write(data)


async def put_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, and wait while the other side is slow; OSError when it is gone."""
    put(writer, data)
    await writer.drain()


def put_end(writer: asyncio.StreamWriter) -> None:
    """Say that nothing more comes, if that can be said and the other side is there."""
    if not writer.is_closing() and writer.can_write_eof():
        writer.write_eof()
