"""The operator's files and the commands that change them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shem.cli.main import cli
from shem.kernel.errors import ShemError, UsageError
from shem.provider.access import AccessList, Mode, OutboundRules, load_access
from shem.provider.config import ProviderConfig, load_globals, note_options
from shem.provider.descriptor import BUILT_IN
from shem.provider.hardware import Machine, load_profiles
from shem.provider.presets import load_presets
from shem.provider.settings import SettingsWatch
from shem.provider.whitelist import load_whitelist
from shem.store.datadir import hold_datadir

MACHINE = Machine(architecture="x86_64", cores=2, threads=4, memory_gib=10.0, storage_gib=10.0)
PRESETS: dict[str, Any] = {
    "ver": "V1",
    "active": ["p"],
    "presets": [
        {
            "name": "p",
            "exeunit-name": "wasmtime",
            "pricing-model": "linear",
            "initial-price": 0.0,
            "usage-coeffs": {"golem.usage.cpu_sec": 0.1},
        }
    ],
}

LOADERS: tuple[Callable[[Path], object], ...] = (
    *(load_presets, load_profiles, load_globals),
    *(load_access, load_whitelist),
)
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(*words: str) -> Result:
        return CliRunner().invoke(cli, ["provider", "--data-dir", str(tmp_path), *words])

    return call


def ok(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.output


def preset_with(**changes: Any) -> dict[str, Any]:
    return {**PRESETS, "presets": [{**PRESETS["presets"][0], **changes}]}


def test_presets_of_another_agent_are_read(tmp_path: Path) -> None:
    old = {
        "active": ["default"],
        "presets": [
            {
                "name": "default",
                "exeunit-name": "vm",
                "pricing-model": "linear",
                "usage-coeffs": {"initial": 1.0, "duration": 0.5, "cpu": 0.25},
            }
        ],
    }
    (tmp_path / "presets.json").write_text(json.dumps(old))

    found = load_presets(tmp_path)

    assert found is not None
    [preset] = found.offered
    assert preset.initial_price == 1.0
    assert preset.usage_coeffs == {"golem.usage.duration_sec": 0.5, "golem.usage.cpu_sec": 0.25}


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("presets.json", "{", "truncated"),
        ("presets.json", preset_with(**{"initial-price": -1.0}), "initial-price"),
        ("presets.json", preset_with(**{"exeunit_name": "x"}), "exeunit_name"),
        ("presets.json", preset_with(**{"usage-coeffs": {"x": "dear"}}), "usage-coeffs"),
        ("presets.json", preset_with(**{"pricing-model": "flat"}), "pricing-model"),
        ("presets.json", {**PRESETS, "active": ["q"]}, "'q'"),
        ("presets.json", {**PRESETS, "presets": PRESETS["presets"] * 2}, "already"),
        ("presets.json", {**PRESETS, "ver": "V9"}, "V9"),
        ("hardware.json", {"active": "x", "profiles": {}}, "'x'"),
        (
            "hardware.json",
            {"active": "d", "profiles": {"d": {"cpu_threads": 0, "mem_gib": 1, "storage_gib": 1}}},
            "cpu_threads",
        ),
        ("globals.json", {"nodename": "x"}, "nodename"),
        ("rules.json", {"blacklist": {"identity": ["anna"]}}, "anna"),
        ("rules.json", {"allow-only": {"certified": [7]}}, "certified"),
        ("rules.json", {"outbound": {"everyone": "some"}}, "everyone"),
        ("rules.json", {"outbound": {"partner": {"a": {"description": "x"}}}}, "mode"),
        ("domain_whitelist.json", {"patterns": [{"domain": "https://a.com/"}]}, "https://a.com/"),
        ("domain_whitelist.json", {"patterns": [{"domain": "(", "match": "regex"}]}, "("),
        ("domain_whitelist.json", {"patterns": [{"domain": "a", "match": "like"}]}, "like"),
        ("domain_whitelist.json", {"patterns": [{"domain": " "}]}, "empty"),
    ],
)
def test_a_wrong_file_is_told_with_its_name_the_key_and_what_to_do(
    tmp_path: Path, name: str, content: Any, key: str
) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    with pytest.raises(UsageError) as caught:
        for load in LOADERS:
            load(tmp_path)

    assert str(path) in caught.value.message
    assert key in caught.value.message
    assert "correct it" in caught.value.message


def test_a_new_provider_offers_its_runtimes_for_nothing(tmp_path: Path) -> None:
    settings = SettingsWatch(tmp_path, [BUILT_IN], MACHINE).load()

    [preset] = settings.presets.offered
    assert (preset.name, preset.exeunit_name) == ("wasmtime", "wasmtime")
    assert set(preset.usage_coeffs.values()) == {0.0}
    assert (settings.profile.cpu_threads, settings.profile.mem_gib) == (3, 7.0)


def test_a_change_is_noticed_once_and_a_wrong_file_changes_nothing(
    tmp_path: Path, run: Run
) -> None:
    watch = SettingsWatch(tmp_path, [BUILT_IN], MACHINE)
    watch.load()
    assert watch.changed() is None

    ok(run("preset", "deactivate", "wasmtime"))
    changed = watch.changed()
    assert changed is not None
    assert changed.presets.offered == ()
    assert watch.changed() is None

    (tmp_path / "presets.json").write_text("{")
    assert watch.changed() is None

    (tmp_path / "presets.json").write_text(json.dumps(PRESETS))
    assert watch.changed() is not None


def test_presets_by_command(run: Run) -> None:
    words = ["--preset-name", "fast", "--exe-unit", "wasmtime", "--pricing", "linear"]
    ok(run("preset", "create", "--no-interactive", *words, "--price", "cpu=0.5"))
    ok(run("preset", "activate", "fast"))
    ok(run("preset", "update", "--name", "fast", "--preset-name", "f", "--price", "initial=2"))
    ok(run("preset", "deactivate", "wasmtime", "container"))
    ok(run("preset", "remove", "container"))

    rows = json.loads(ok(run("preset", "list", "--json")))
    active = json.loads(ok(run("preset", "active", "--json")))

    assert [row["name"] for row in rows] == ["wasmtime", "f"]
    [only] = active
    assert only["initial-price"] == 2.0
    assert only["usage-coeffs"] == {"golem.usage.duration_sec": 0.0, "golem.usage.cpu_sec": 0.5}


def test_profiles_by_command(run: Run) -> None:
    amounts = ["--cpu-threads", "2", "--mem-gib", "4", "--storage-gib", "9"]
    ok(run("profile", "create", "small", *amounts, "--exclusive-threads"))
    ok(run("profile", "activate", "small"))
    share = ["--share-cpu-threads", "1", "--share-mem-gib", "2", "--share-storage-gib", "3"]
    ok(run("profile", "update", "small", *share))
    ok(run("profile", "remove", "default"))

    found = json.loads(ok(run("profile", "list", "--json")))

    assert found == {
        "active": "small",
        "profiles": {
            "small": {
                "cpu_threads": 2,
                "mem_gib": 4.0,
                "storage_gib": 9.0,
                "per_agreement": {"cpu_threads": 1, "mem_gib": 2.0, "storage_gib": 3.0},
                "exclusive_threads": True,
            }
        },
    }


def test_who_may_rent_by_command(run: Run, tmp_path: Path) -> None:
    anna = "0x" + "A" * 40
    ok(run("rule", "add", "blacklist", "identity", anna))
    assert load_access(tmp_path).blacklist == AccessList(False, [anna.lower()])

    ok(run("rule", "enable", "blacklist"))
    assert load_access(tmp_path).blacklist == AccessList(True, [anna.lower()])

    ok(run("rule", "remove", "blacklist", "identity", anna))
    assert load_access(tmp_path).blacklist == AccessList(True, [])


def test_what_may_be_reached_by_command(run: Run, tmp_path: Path) -> None:
    ok(run("rule", "disable", "outbound"))
    ok(run("rule", "set", "outbound", "everyone", "--mode", "all"))
    assert load_access(tmp_path).outbound == OutboundRules(False, Mode.ALL)

    ok(run("rule", "set", "outbound", "enable"))

    assert json.loads(ok(run("rule", "list", "--json"))) == {
        "outbound": {"enabled": True, "everyone": "all", "audited-payload": {}, "partner": {}},
        "blacklist": {"enabled": False, "identity": [], "certified": []},
        "allow-only": {"enabled": False, "identity": [], "certified": []},
    }
    assert "Everyone" in ok(run("rule", "list"))


def test_the_whitelist_by_command(run: Run, tmp_path: Path) -> None:
    assert json.loads(ok(run("whitelist", "list", "--json"))) == []

    ok(run("whitelist", "add", "--patterns", "Example.com", "--patterns", "other.org"))
    added = ok(run("whitelist", "add", "-p", r".*\.golem\.network", "--type", "regex", "--json"))
    again = ok(run("whitelist", "add", "-p", "example.com", "--json"))

    assert json.loads(added) == [
        {"ID": "e265e46e", "Pattern": r".*\.golem\.network", "Type": "regex"}
    ]
    assert json.loads(again) == []
    listed = json.loads(ok(run("whitelist", "list", "--json")))
    assert [(row["Pattern"], row["Type"]) for row in listed] == [
        ("example.com", "strict"),
        ("other.org", "strict"),
        (r".*\.golem\.network", "regex"),
    ]
    removed = ok(run("whitelist", "remove", listed[0]["ID"], "--json"))
    assert json.loads(removed) == listed[:1]
    assert [found.domain for found in load_whitelist(tmp_path).patterns] == [
        "other.org",
        r".*\.golem\.network",
    ]


def test_config_and_status_by_command(run: Run) -> None:
    ok(run("config", "set", "--node-name", "anna", "--subnet", "net"))
    ok(run("config", "set", "--account", "0x" + "B" * 40))

    assert json.loads(ok(run("config", "get", "--json"))) == {
        "node_name": "anna",
        "subnet": "net",
        "account": "0x" + "b" * 40,
    }
    shown = json.loads(ok(run("status", "--json")))
    assert (shown["nodeName"], shown["running"], shown["agreements"]) == ("anna", False, [])


def test_status_tells_what_the_agent_that_runs_was_told(run: Run, tmp_path: Path) -> None:
    ok(run("config", "set", "--node-name", "anna", "--subnet", "of-the-file"))
    with hold_datadir(tmp_path, what="shem provider"):
        note_options(ProviderConfig(app_key="k", data_dir=tmp_path, subnet="of-the-option"))
        shown = json.loads(ok(run("status", "--json")))
    assert (shown["running"], shown["nodeName"], shown["subnet"]) == (True, "anna", "of-the-option")

    shown = json.loads(ok(run("status", "--json")))
    assert (shown["running"], shown["subnet"]) == (False, "of-the-file")


@pytest.mark.parametrize(
    "words",
    [
        ("preset", "list"),
        ("preset", "active"),
        ("profile", "list"),
        ("profile", "active"),
        ("rule", "list"),
        ("whitelist", "list"),
        ("config", "get"),
        ("exe-unit", "list"),
        ("status",),
        ("clean",),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_looking_needs_nothing_and_makes_nothing(
    tmp_path: Path, words: tuple[str, ...], as_json: bool
) -> None:
    directory = tmp_path / "not" / "there"
    before = ["--json"] if as_json else []
    done = CliRunner().invoke(cli, [*before, "provider", "--data-dir", str(directory), *words])

    if as_json:
        json.loads(ok(done))
    else:
        ok(done)
    assert not directory.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("preset", "create", "--preset-name", "x"),
        ("preset", "create", "--preset-name", "wasmtime", "--exe-unit", "wasmtime"),
        ("preset", "create", "--preset-name", "x", "--exe-unit", "none"),
        ("preset", "update", "wasmtime"),
        ("preset", "update", "--price", "cpu=1"),
        ("preset", "update", "--all", "--preset-name", "x"),
        ("preset", "remove", "none"),
        ("preset", "activate", "none"),
        ("profile", "create", "x", "--cpu-threads", "1"),
        ("profile", "update", "default"),
        ("profile", "update", "default", "--mem-gib", "0"),
        ("profile", "update", "default", "--share-mem-gib", "1"),
        ("profile", "remove", "default"),
        ("rule", "add", "blacklist", "identity", "anna"),
        ("rule", "add", "blacklist", "certified", "c"),
        ("whitelist", "add"),
        ("whitelist", "add", "--patterns", "https://a.com"),
        ("whitelist", "add", "--patterns", "(", "--type", "regex"),
        ("whitelist", "remove", "12345678"),
        ("config", "set"),
        ("config", "get", "colour"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    refused = run(*words)

    assert isinstance(refused.exception, ShemError)
    assert list(tmp_path.glob("*.json")) == []
