"""The examples run as they are written, against a devnet."""

import asyncio
import os
import sys
from pathlib import Path

from shem.devnet.compose import Devnet

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_TIMEOUT_S = 60.0


async def _run(net: Devnet, name: str, *arguments: str) -> str:
    env = {
        **os.environ,
        **net.program_env(),
        "SHEM_PACKAGE_URL": net.package.url,
        "SHEM_PACKAGE_HASH": net.package.hash,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), EXAMPLE_TIMEOUT_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_rent_run_then_detach_then_attach(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        picture = await _run(net, "01_rent_run.py")
        activity_id = (await _run(net, "02_detach.py")).strip()
        back = await _run(net, "03_attach.py", activity_id)

    assert len(picture.strip("\n").splitlines()) == 24
    assert back.startswith("alive\n")
    assert [line.split()[0] for line in back.splitlines() if "crc32" in line] == [
        str(index) for index in range(8)
    ]
