"""schemathesis against a running node: no server errors, nothing that the document does not say."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.contract.node_served import APP_KEY, node_served

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = os.environ.get("SHEM_FUZZ_EXAMPLES", "4")
"""Examples per operation; a deep run takes 200."""


@pytest.mark.timeout(900)
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    async with node_served(tmp_path) as (_, url):
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("st")),
            "--config-file",
            str(CONFIG),
            "run",
            f"{url}/openapi.json",
            "--header",
            f"Authorization: Bearer {APP_KEY}",
            "--phases",
            "coverage,fuzzing,stateful",
            "--max-examples",
            EXAMPLES,
            "--workers",
            "1",
            "--warnings",
            "off",
            "--no-color",
            "--continue-on-failure",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()[-6000:]
        assert b"No issues found" in output
