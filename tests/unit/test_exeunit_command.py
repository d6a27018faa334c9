"""The command line of a supervisor, as agents call it."""

import json
import subprocess
from pathlib import Path

import pytest

from shem.exeunit.command import exe_unit
from shem.exeunit.runtimes.wasm import check_runtime
from shem.kernel.errors import NotSupported, UsageError
from shem.provider.descriptor import BUILT_IN


def call(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BUILT_IN.command, *args], capture_output=True, text=True, check=False, timeout=60
    )


def test_offer_template_is_json_with_a_usage_vector() -> None:
    told = call("--runtime-managed-hardware", "offer-template")

    template = json.loads(told.stdout)
    assert "golem.usage.cpu_sec" in template["properties"]["golem.com.usage.vector"]
    assert template["constraints"] == ""


def test_the_runtime_works_here() -> None:
    check_runtime()


@pytest.mark.parametrize(
    "args",
    [
        ("--sec-key", "ab", "test"),
        ("from-file", "commands.json", "--requestor-pub-key", "ab"),
    ],
)
def test_what_is_not_built_says_so(args: tuple[str, ...]) -> None:
    with pytest.raises(NotSupported):
        exe_unit.main(list(args), standalone_mode=False)


@pytest.mark.parametrize("args", [("-b", "/nowhere/runtime", "test"), ("-r", "x", "test")])
def test_what_makes_no_sense_is_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        exe_unit.main(list(args), standalone_mode=False)


def test_without_an_agreement_it_does_not_start(tmp_path: Path) -> None:
    told = call(
        *("service-bus", "id", "/local/activity", "-a", str(tmp_path / "none.json")),
        *("-w", str(tmp_path / "w"), "-c", str(tmp_path / "c")),
    )

    assert told.returncode != 0
    assert "none.json" in told.stderr
