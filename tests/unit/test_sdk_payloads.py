"""What a payload asks of a provider."""

import hashlib
from pathlib import Path

import pytest

import shem
from shem.kernel.errors import UsageError
from shem.rest.manifest import MANIFEST, decode_manifest
from shem.sdk.payloads import start_args

HASH = "sha3:" + "0" * 56
URL = "https://example.org/web.gvmi"


def test_an_image_asks_for_the_runtime_by_its_honest_name() -> None:
    image = shem.ContainerImage(url=URL, hash=HASH)
    assert image.properties() == {
        "golem.srv.comp.task_package": f"hash:{HASH}:{URL}",
        "golem.srv.comp.vm.package_format": "gvmkit-squash",
    }
    assert image.constraints() == ("(golem.runtime.name=container)",)
    assert start_args(image) == ()
    legacy = shem.ContainerImage(url=URL, hash=HASH, runtime="vm")
    assert legacy.constraints() == ("(golem.runtime.name=vm)",)


def test_what_it_needs_becomes_constraints() -> None:
    image = shem.ContainerImage(
        url=URL,
        hash=HASH,
        start=shem.START_ENTRYPOINT,
        min_mem_gib=0.5,
        min_storage_gib=2,
        min_cpu_threads=3,
        capabilities=("gpu",),
        extra_constraints=("(golem.node.id.name=x)",),
    )
    assert image.constraints() == (
        "(golem.runtime.name=container)",
        "(golem.inf.mem.gib>=0.5)",
        "(golem.inf.storage.gib>=2)",
        "(golem.inf.cpu.threads>=3)",
        "(golem.runtime.capabilities=gpu)",
        "(golem.runtime.capabilities=start-entrypoint)",
        "(golem.node.id.name=x)",
    )
    assert start_args(image) == ("start-entrypoint",)
    assert start_args(shem.WasmPackage(url=URL, hash=HASH)) == ()


@pytest.mark.parametrize(
    ("runtime", "capability"), [("container", "outbound-proxy"), ("vm", "inet")]
)
def test_what_programs_may_call_is_a_manifest(runtime: str, capability: str) -> None:
    calls = ("https://a.b", "tcp://5.6.7.8:33")
    image = shem.ContainerImage(url=URL, hash=HASH, runtime=runtime, outbound=calls)

    manifest = decode_manifest(image.properties()[MANIFEST])

    assert [place.url for place in manifest.outbound.destinations] == [
        "https://a.b/",
        "tcp://5.6.7.8:33/",
    ]
    assert manifest.task_package("x86_64", "linux") == f"hash:{HASH}:{URL}"
    assert manifest.script is None
    assert f"(golem.runtime.capabilities={capability})" in image.constraints()
    assert image.properties() == image.properties()
    assert MANIFEST not in shem.ContainerImage(url=URL, hash=HASH).properties()


@pytest.mark.parametrize(
    ("wish", "kind"),
    [
        ({"capabilities": ("vpn",)}, shem.NotSupported),
        ({"capabilities": ("inet",)}, UsageError),
        ({"outbound": ("a.b",)}, UsageError),
        ({"outbound": ("https://a.b", "tcp://a.b")}, UsageError),
    ],
)
def test_a_network_that_is_not_there_is_said_at_once(
    wish: dict[str, tuple[str, ...]], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        shem.ContainerImage(url=URL, hash=HASH, **wish)


@pytest.mark.parametrize("kind", [shem.ContainerImage, shem.WasmPackage])
@pytest.mark.parametrize(
    ("url", "digest"),
    [
        ("no-scheme", HASH),
        (URL, "sha3:XYZ"),
        (URL, "0" * 56),
        (URL, "sha256:" + "0" * 64),
        (URL, ""),
    ],
)
def test_what_no_provider_could_fetch_or_check_is_refused(
    kind: type[shem.ContainerImage] | type[shem.WasmPackage], url: str, digest: str
) -> None:
    with pytest.raises(UsageError):
        kind(url=url, hash=digest)


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "image.gvmi"
    path.write_bytes(b"x" * 3_000_000)
    digest = "sha3:" + hashlib.sha3_224(path.read_bytes()).hexdigest()
    image = shem.ContainerImage.of_file(path, url=URL, start=shem.START_ENTRYPOINT)
    assert (image.hash, image.start) == (digest, ("start-entrypoint",))
    assert shem.WasmPackage.of_file(path, url=URL).hash == digest
