"""The offer: what a requestor's constraints and a later payment need is in it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from shem.exeunit.runtimes.choice import OFFER_TEMPLATE
from shem.kernel.errors import UsageError
from shem.provider import descriptor as descriptor_module
from shem.provider.command import load_config
from shem.provider.config import Globals, ProviderConfig
from shem.provider.descriptor import (
    BUILT_IN,
    Descriptor,
    load_descriptors,
    offer_template,
    working,
)
from shem.provider.hardware import Machine, Resources, measure
from shem.provider.offer import OfferText, build_offer
from shem.provider.presets import Preset

MACHINE = Machine(architecture="x86_64", cores=2, threads=3, memory_gib=4.0, storage_gib=20.0)
SHARE = Resources(threads=3, memory_gib=2.0, storage_gib=5.0)
FREE = Preset("p", "wasmtime", usage_coeffs=dict.fromkeys(BUILT_IN.priced, 0.0))
ACCOUNT = "0x" + "ab" * 20
NOW = 1_795_465_792_123_000_000


def config(**changes: Any) -> ProviderConfig:
    return ProviderConfig(app_key="k", data_dir=Path("/nowhere"), **changes)


def offer(
    template: dict[str, Any] | None = None, preset: Preset = FREE, **changes: Any
) -> OfferText:
    return build_offer(
        config=config(),
        who=Globals(**changes),
        machine=MACHINE,
        share=SHARE,
        preset=preset,
        descriptor=BUILT_IN,
        template=OFFER_TEMPLATE if template is None else template,
        account=ACCOUNT,
        is_public=False,
    )


def test_offer_of_the_built_in_runtime() -> None:
    properties = offer(node_name="anna", subnet="testnet").properties

    assert properties["golem.runtime.name"] == "wasmtime"
    assert properties["golem.node.id.name"] == "anna"
    assert properties["golem.node.debug.subnet"] == "testnet"
    assert offer().properties["golem.node.debug.subnet"] == "public"
    assert properties["golem.inf.cpu.threads"] == 3
    assert properties["golem.srv.caps.multi-activity"] is True
    assert properties["golem.srv.caps.payload-manifest"] is True
    assert properties["golem.com.payment.platform.erc20-holesky-tglm.address"] == ACCOUNT


def test_a_preset_prices_what_it_names_in_the_order_of_the_names() -> None:
    priced = Preset(
        "p",
        "wasmtime",
        initial_price=1.5,
        usage_coeffs={
            "golem.usage.duration_sec": 0.5,
            "golem.usage.cpu_sec": 0.25,
            "golem.usage.unheard-of": 9.0,
        },
    )

    properties = offer(preset=priced).properties

    assert properties["golem.com.usage.vector"] == [
        "golem.usage.cpu_sec",
        "golem.usage.duration_sec",
    ]
    assert properties["golem.com.pricing.model.linear.coeffs"] == [0.25, 0.5, 1.5]
    assert properties["golem.com.pricing.model"] == "linear"
    assert properties["golem.com.scheme"] == "payu"


def test_an_offer_promises_one_agreements_share() -> None:
    properties = offer().properties

    assert properties["golem.inf.mem.gib"] == 2.0
    assert properties["golem.inf.storage.gib"] == 5.0
    assert properties["golem.inf.cpu.cores"] == 2


def test_a_preset_that_prices_nothing_its_runtime_measures_makes_no_offer() -> None:
    with pytest.raises(UsageError, match=r"preset 'p'.*measures"):
        offer(preset=Preset("p", "wasmtime", usage_coeffs={"golem.usage.x": 1.0}))


def test_constraints_ask_for_our_subnet_and_a_future() -> None:
    assert offer().constraints(NOW) == (
        "(&\n  (golem.node.debug.subnet=public)\n  (golem.srv.comp.expiration>1795465792123)\n)"
    )


def test_constraints_of_the_template_are_kept() -> None:
    template = {**OFFER_TEMPLATE, "constraints": "(golem.x=1)"}

    assert offer(template).constraints(NOW).startswith("(&\n  (golem.x=1)\n")


def test_without_a_name_the_offer_has_none() -> None:
    assert "golem.node.id.name" not in offer().properties


@pytest.mark.parametrize("vector", [None, "x", [1]])
def test_template_without_counters_is_refused(vector: object) -> None:
    with pytest.raises(UsageError, match=r"usage\.vector"):
        offer({"properties": {"golem.com.usage.vector": vector}})


async def test_built_in_exe_unit_gives_its_template() -> None:
    assert await offer_template(BUILT_IN) == OFFER_TEMPLATE


@pytest.mark.parametrize(
    "code",
    ["print('no json')", "print('[]')", "print('{\"properties\": 1}')", "raise SystemExit(1)"],
)
async def test_unusable_templates_are_refused(code: str) -> None:
    descriptor = Descriptor("x", "1", (sys.executable, "-c", code))

    with pytest.raises(UsageError, match="runtime x"):
        await offer_template(descriptor)


async def test_only_runtimes_that_work_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    ill = Descriptor("ill", "1", (sys.executable, "-c", "raise SystemExit(1)"))
    well = Descriptor("well", "1", (sys.executable, "-c", "pass"))
    monkeypatch.setattr(descriptor_module, "CONTAINER", ill)

    assert await working((BUILT_IN, ill, well)) == (BUILT_IN, well)

    monkeypatch.setattr(descriptor_module, "CONTAINER", well)
    assert await working((BUILT_IN, well)) == (BUILT_IN, well)
    with pytest.raises(UsageError, match="runtime ill: test failed"):
        await working((BUILT_IN, ill))


def test_without_descriptors_there_are_the_built_in_runtimes() -> None:
    assert [descriptor.name for descriptor in load_descriptors(None)] == ["wasmtime", "container"]


async def test_a_supervisor_whose_answer_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = "import os, sys, time; os.symlink(str(os.getpid()), sys.argv[1]); time.sleep(60)"
    silent = Descriptor("x", "1", (sys.executable, "-c", code, str(told)))
    question = asyncio.create_task(offer_template(silent))
    async with asyncio.timeout(20):
        while not told.is_symlink():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)

    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question

    assert not psutil.pid_exists(int(told.readlink().name))


async def test_missing_supervisor_is_refused() -> None:
    with pytest.raises(UsageError, match="runtime x"):
        await offer_template(Descriptor("x", "1", ("/nowhere/exe-unit",)))


def test_descriptor_files_are_read_with_paths_relative_to_them(tmp_path: Path) -> None:
    (tmp_path / "exe-unit").write_text("")
    (tmp_path / "runtime").write_text("")
    entry = {
        "name": "other",
        "version": "0.2.0",
        "supervisor-path": "exe-unit",
        "runtime-path": "runtime",
        "extra-args": ["--cap-handoff"],
        "properties": {"wasm.x": 1},
        "config": {"counters": {"golem.usage.x": {"name": "x", "description": "", "price": True}}},
    }
    (tmp_path / "ya-other.json").write_text(json.dumps([entry]))

    [descriptor] = load_descriptors(str(tmp_path / "ya-*.json"))

    command = descriptor.service_command(
        "id", agreement_file=Path("a"), work_dir=Path("w"), cache_dir=Path("c")
    )
    assert command == [
        *(str(tmp_path / "exe-unit"), "-b", str(tmp_path / "runtime"), "--cap-handoff"),
        *("service-bus", "id", "/local/activity", "-c", "c", "-w", "w", "-a", "a"),
    ]
    assert descriptor.properties == {"wasm.x": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "ya-x.json"),
        ("{}", "ya-x.json"),
        ('[{"name": "x"}]', "ya-x.json"),
        ('[{"name": "x", "version": "1", "supervisor-path": "none"}]', "there is no"),
        ("[]", "no runtimes available"),
    ],
)
def test_unusable_descriptor_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ya-x.json").write_text(text)

    with pytest.raises(UsageError, match=message):
        load_descriptors(str(tmp_path / "ya-*.json"))


def test_the_machine_has_something_to_offer(tmp_path: Path) -> None:
    hardware = measure(tmp_path)

    assert hardware.threads >= 1
    assert hardware.memory_gib > 0


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "YAGNA_APPKEY": "secret",
        "YAGNA_API_URL": "http://127.0.0.1:1",
        "GSB_URL": "unix:/x",
        "DATA_DIR": "/data",
        "NODE_NAME": "anna",
        "SUBNET": "net",
        "IDLE_AGREEMENT_TIMEOUT": "1min 30s",
        "MAX_DEBIT_NOTE_INTERVAL": "30days",
        "YA_RT_CORES": "3",
        "YA_PAYMENT_NETWORK": "polygon,erc20-hoodi-tglm",
        "MAX_SIMULTANEOUS_AGREEMENTS": "7",
        "AUTO_CLEANUP_AGREEMENT": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    settings = load_config({"subnet": "option"})

    assert settings.api_url == "http://127.0.0.1:1"
    assert settings.gsb_url == "unix:/x"
    assert settings.data_dir == Path("/data")
    assert settings.subnet == "option"
    assert settings.idle_agreement_s == 90
    assert settings.terms.note_interval_max_s == 30 * 86_400
    assert settings.terms.expiration_min_s == 300
    assert settings.caps == (3, None, None)
    assert settings.agreements_max == 7
    assert (settings.clears_activities, settings.clears_agreements) == (False, True)
    assert settings.payment_platforms == ("erc20-polygon-glm", "erc20-hoodi-tglm")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IDLE_AGREEMENT_TIMEOUT", "soon"),
        ("MIN_AGREEMENT_EXPIRATION", "-1"),
        ("DEBIT_NOTE_ACCEPTANCE_DEADLINE", "4s"),
        ("MAX_REQUESTOR_ABSENCE", "a while"),
        ("YA_RT_MEM", "0"),
        ("AUTO_CLEANUP_ACTIVITY", "perhaps"),
    ],
)
def test_unusable_settings_name_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("YAGNA_APPKEY", "k")
    monkeypatch.setenv(name, value)

    with pytest.raises(UsageError, match=name):
        load_config({})


def test_without_a_key_the_agent_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YAGNA_APPKEY", "SHEM_APPKEY"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(UsageError, match="YAGNA_APPKEY"):
        load_config({})
