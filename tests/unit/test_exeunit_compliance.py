"""What a manifest in the agreement means for the ExeUnit: image and scripts."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from shem.exeunit.agreement import AgreementTerms, expand, load_terms
from shem.exeunit.compliance import require_compliance
from shem.exeunit.endpoints import error_form
from shem.exeunit.script import parse_script
from shem.kernel.errors import UsageError
from shem.rest.manifest import MANIFEST, SIGNATURE
from tests.certified import manifest_text, reaching

DIGEST = "ab" * 32
PACKAGE = "hash:sha3:" + "cd" * 28 + ":http://a.com/own"


def terms(tmp_path: Path, manifest: Any, **also: Any) -> AgreementTerms:
    """Return what the ExeUnit reads of an agreement as the agent writes it."""
    demand = {MANIFEST: manifest, SIGNATURE: "c2ln", "golem.srv.comp.task_package": PACKAGE, **also}
    body = {
        "agreementId": "a" * 64,
        "demand": {"properties": expand(demand)},
        "offer": {"properties": {"golem.com.usage.vector": []}},
    }
    path = tmp_path / "agreement.json"
    path.write_text(json.dumps(body))
    return load_terms(path)


def image(**platform_of: str) -> dict[str, Any]:
    found: dict[str, Any] = {"urls": ["http://a.com/manifest"], "hash": f"sha3:{DIGEST}"}
    return {**found, "platform": platform_of} if platform_of else found


@pytest.mark.parametrize(
    ("images", "package"),
    [
        ([], PACKAGE),
        ([image()], f"hash:sha3:{DIGEST}:http://a.com/manifest"),
        (
            [image(arch=platform.machine(), os="linux")],
            f"hash:sha3:{DIGEST}:http://a.com/manifest",
        ),
        ([image(arch="pdp11", os="linux")], PACKAGE),
        ([image(arch=platform.machine(), os="win32")], PACKAGE),
    ],
)
def test_the_image_of_the_manifest_goes_before_that_of_the_demand(
    tmp_path: Path, images: list[dict[str, Any]], package: str
) -> None:
    assert terms(tmp_path, manifest_text(images)).task_package == package


@pytest.mark.parametrize("value", ["", "x", "e30=", 7, None])
def test_an_agreement_whose_manifest_cannot_be_read_is_not_worked_under(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(UsageError):
        terms(tmp_path, value)


def run(*words: str) -> dict[str, Any]:
    return {"run": {"entry_point": words[0], "args": list(words[1:])}}


def transfer(source: str, target: str) -> dict[str, Any]:
    return {"transfer": {"from": source, "to": target}}


RULES: dict[str, Any] = {
    "commands": ["run /bin/ls .*", "transfer http://a\\.com/.* container:/in/.*"],
    "match": "regex",
}


@pytest.mark.parametrize(
    "script",
    [
        [],
        [{"deploy": {}}, {"start": {"args": ["x"]}}, {"terminate": {}}, {"sign": {}}],
        [run("/bin/ls", "-l"), transfer("http://a.com/x", "container:/in/x")],
    ],
)
def test_scripts_that_keep_to_the_manifest_are_taken(tmp_path: Path, script: list[Any]) -> None:
    manifest = terms(tmp_path, manifest_text(script=RULES)).manifest

    require_compliance(parse_script(script), manifest)


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ([run("/bin/rm", "-r")], "run /bin/rm -r"),
        ([run("/bin/ls", "-l"), run("/bin/sh")], "run /bin/sh "),
        ([transfer("http://b.com/x", "container:/in/x")], "transfer http://b.com/x"),
        ([{"deploy": {}}, transfer("container:/in/x", "http://a.com/x")], "transfer container:"),
    ],
)
def test_scripts_with_a_command_too_many_are_refused_whole(
    tmp_path: Path, script: list[Any], line: str
) -> None:
    manifest = terms(tmp_path, manifest_text(script=RULES)).manifest

    with pytest.raises(UsageError) as caught:
        require_compliance(parse_script(script), manifest)

    [(kind, message)] = dict(error_form(caught.value)).items()  # type: ignore[call-overload]
    assert kind == "badRequest"
    assert f"script validation error: no matching manifest entry found for '{line}" in message


@pytest.mark.parametrize("manifest", [manifest_text(), reaching("https://a.com")])
def test_a_manifest_without_rules_takes_any_script(tmp_path: Path, manifest: str) -> None:
    require_compliance(parse_script([run("/bin/rm")]), terms(tmp_path, manifest).manifest)
    require_compliance(parse_script([run("/bin/rm")]), None)


def test_expressions_that_take_too_long_refuse_the_script(tmp_path: Path) -> None:
    slow = {"commands": ["run (a?){300}(a?){300}(a?){300}b"] * 20, "match": "regex"}
    manifest = terms(tmp_path, manifest_text(script=slow)).manifest

    with pytest.raises(UsageError, match="too long"):
        require_compliance(parse_script([run("a" * 20_000)] * 50), manifest)
