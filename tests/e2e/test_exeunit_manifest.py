"""A real ExeUnit process under an agreement with a manifest."""

from pathlib import Path

import pytest

from shem.bus.types import RemoteError
from tests.certified import manifest_text
from tests.crash.exeunit_site import SETUP, Site, run

PLACE = "no matching manifest entry found"


async def test_the_manifest_names_the_image_and_limits_the_scripts(short_dir: Path) -> None:
    site = Site(short_dir)
    rules = {"commands": ["run mandel --version.*"], "match": "regex"}
    package = site.package
    image = {"urls": [package.path.as_uri()], "hash": f"sha3:{package.sha3_224}"}
    site.write_agreement(
        task_package="hash:sha3:" + "00" * 28 + ":http://127.0.0.1:9/none",
        payload=manifest_text([image], script=rules),
    )
    try:
        async with site.daemon() as daemon:
            await site.start()
            await daemon.unit_is_bound()
            setup = await daemon.run("setup", *SETUP)
            assert [found["result"] for found in setup] == ["Ok", "Ok"]

            with pytest.raises(RemoteError) as caught:
                await daemon.exec("refused", run("--version"), run("render"))
            assert isinstance(caught.value.payload, dict)
            assert PLACE in caught.value.payload["badRequest"]
            with pytest.raises(RemoteError):
                await daemon.results("refused")

            assert len(await daemon.run("taken", run("--version"))) == 1
    finally:
        await site.kill_all()


async def test_under_a_manifest_that_cannot_be_read_nothing_begins(short_dir: Path) -> None:
    site = Site(short_dir)
    site.write_agreement(payload="no manifest")

    process = await site.start()

    assert await process.wait() != 0
    assert "manifest" in site.log.read_text()
