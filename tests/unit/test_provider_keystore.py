"""The keystore: files of certificates, the commands about them, and rules that name them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shem.cli.main import cli
from shem.kernel.errors import NotFound, ShemError, UsageError
from shem.provider.access import Access, AccessList, Grant, Mode, load_access, save_access
from shem.provider.certificates import read_certificate
from shem.provider.descriptor import BUILT_IN
from shem.provider.hardware import Machine
from shem.provider.keystore import (
    FILE_SIZE_MAX,
    NAME_DIGITS,
    load_keystore,
    short_ids,
)
from shem.provider.settings import SettingsWatch
from shem.provider.x509 import id_of
from tests.certified import issue, period, root

MACHINE = Machine(architecture="x86_64", cores=2, threads=4, memory_gib=10.0, storage_gib=10.0)
PARTNER = root().certify("partner", permissions={"outbound": "unrestricted"})
PARTNER_ID = read_certificate(PARTNER.signed).id
AUDITOR = issue("auditor")
SIGNER = AUDITOR.issue("signer", is_authority=False)
AUDITOR_ID, SIGNER_ID = (id_of(one.certificate) for one in (AUDITOR, SIGNER))

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "provider"


@pytest.fixture
def run(home: Path) -> Run:
    def call(*words: str) -> Result:
        return CliRunner().invoke(cli, ["provider", "--data-dir", str(home), *words])

    return call


def ok(result: Result) -> Any:
    assert result.exception is None, result.exception
    output = result.stdout
    return json.loads(output) if output.lstrip()[:1] in ("[", "{") else output


@pytest.fixture
def golem(tmp_path: Path) -> str:
    path = tmp_path / "partner.signed.json"
    path.write_text(json.dumps(PARTNER.signed))
    return str(path)


@pytest.fixture
def chain(tmp_path: Path) -> str:
    path = tmp_path / "chain.pem"
    path.write_bytes(AUDITOR.pem + SIGNER.pem)
    return str(path)


def test_certificates_are_added_listed_and_removed(
    run: Run, home: Path, golem: str, chain: str
) -> None:
    assert ok(run("keystore", "list", "--json")) == []

    added = ok(run("keystore", "add", golem, chain, "--json"))
    again = ok(run("keystore", "add", golem, chain, "--json"))

    assert again == []
    assert {row["ID"] for row in added} == {PARTNER_ID[:8], AUDITOR_ID[:8], SIGNER_ID[:8]}
    assert [row for row in added if row["Type"] == "Golem"] == [
        {
            "ID": PARTNER_ID[:8],
            "Type": "Golem",
            "Not After": "2090-01-01T00:00:00Z",
            "Subject": "partner",
            "Rules": "",
        }
    ]
    assert {"CN": "signer", "O": "Tests"} in [row["Subject"] for row in added]
    assert "CN=signer, O=Tests" in ok(run("keystore", "list"))
    assert load_keystore(home / "cert-dir").ids == {PARTNER_ID, AUDITOR_ID, SIGNER_ID}

    removed = ok(run("keystore", "remove", SIGNER_ID[:10], PARTNER_ID, "--json"))

    assert {row["ID"] for row in removed} == {PARTNER_ID[:8], SIGNER_ID[:8]}
    assert load_keystore(home / "cert-dir").ids == {AUDITOR_ID}
    assert len(list((home / "cert-dir").iterdir())) == 1


def test_a_directory_of_another_agent_is_read_and_its_files_are_split(
    run: Run, home: Path, golem: str, chain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = home / "elsewhere"
    directory.mkdir(parents=True)
    monkeypatch.setenv("PROVIDER_CERT_DIR", str(directory))
    (directory / "both.pem").write_bytes(Path(chain).read_bytes())
    (directory / "partner.signed.json").write_bytes(Path(golem).read_bytes())
    (directory / "signer.der").write_bytes(SIGNER.der)
    (directory / "notes.txt").write_text("not a certificate")
    (directory / "broken.json").write_text("{")
    (directory / "huge.pem").write_bytes(AUDITOR.pem * (FILE_SIZE_MAX // len(AUDITOR.pem) + 1))
    (directory / ".hidden").write_bytes(AUDITOR.pem)
    (directory / "directory").mkdir()

    assert len(ok(run("keystore", "list", "--json"))) == 3
    ok(run("keystore", "remove", SIGNER_ID))

    assert load_keystore(directory).ids == {PARTNER_ID, AUDITOR_ID}
    assert (directory / "both.pem").exists()
    assert not (directory / "signer.der").exists()
    assert (directory / "notes.txt").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"{}",
        b"{",
        b"[]",
        b"{" * 10_000,
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"\x30\x82\xff\xff",
        AUDITOR.pem[:-60] + AUDITOR.pem[-40:],
        AUDITOR.pem * 65,
        issue("old", since_days=-9, days=-2).pem,
        json.dumps(root(validityPeriod=period(until="2021-01-01T00:00:00Z")).signed).encode(),
        json.dumps({**PARTNER.signed, "more": 1}).encode(),
    ],
)
def test_what_is_no_certificate_that_holds_is_not_added(
    run: Run, home: Path, tmp_path: Path, content: bytes, chain: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    refused = run("keystore", "add", str(path), chain)

    assert isinstance(refused.exception, UsageError)
    assert str(path) in refused.exception.message
    assert load_keystore(home / "cert-dir").ids == {AUDITOR_ID, SIGNER_ID}


@pytest.mark.parametrize(
    "words",
    [
        ("keystore", "add", "/not/there"),
        ("keystore", "remove", "12345678"),
        ("keystore", "remove", ""),
        ("rule", "add", "blacklist", "certified", "cert-id", "12345678"),
        ("rule", "add", "blacklist", "certified", "12345678"),
        ("rule", "add", "blacklist", "certified", "import-cert", "/not/there"),
        ("rule", "remove", "blacklist", "certified", "import-cert", "/not/there"),
        ("rule", "remove", "blacklist", "certified", "cert-id", "12345678"),
        ("rule", "set", "outbound", "partner", "cert-id", "12345678", "--mode", "all"),
        ("rule", "set", "outbound", "partner", "import-cert", "/not/there", "--mode", "all"),
    ],
)
def test_commands_about_what_is_not_there_change_nothing(
    run: Run, home: Path, words: tuple[str, ...]
) -> None:
    assert isinstance(run(*words).exception, ShemError)
    assert list(home.glob("**/*.*")) in ([], [home / "settings.lock"])


def test_lists_name_certificates(run: Run, home: Path, golem: str, chain: str) -> None:
    ok(run("keystore", "add", chain))
    ok(run("rule", "add", "blacklist", "certified", "import-cert", golem))
    ok(run("rule", "add", "allow-only", "certified", "cert-id", PARTNER_ID[:9]))
    ok(run("rule", "add", "allow-only", "certified", "cert-id", PARTNER_ID))
    refused = run("rule", "add", "blacklist", "certified", "import-cert", chain)
    by_id = run("rule", "add", "blacklist", "certified", "cert-id", SIGNER_ID)

    for one in (refused, by_id):
        assert isinstance(one.exception, UsageError)
        assert "X.509" in one.exception.message
    assert load_access(home).blacklist == AccessList(False, [], [PARTNER_ID])
    assert load_access(home).allow_only == AccessList(False, [], [PARTNER_ID])
    [row] = [row for row in ok(run("keystore", "list", "--json")) if row["Type"] == "Golem"]
    assert row["Rules"] == "Blacklist | AllowOnly"
    assert PARTNER_ID[:8] in ok(run("rule", "list"))

    ok(run("rule", "remove", "blacklist", "certified", "cert-id", PARTNER_ID[:9]))

    assert load_access(home).blacklist.certified == []


def test_grants_name_certificates(run: Run, home: Path, golem: str, chain: str) -> None:
    outbound = ("rule", "set", "outbound")
    ok(run(*outbound, "partner", "import-cert", golem, "--mode", "all"))
    ok(run(*outbound, "partner", "cert-id", PARTNER_ID[:8], "--mode", "whitelist"))
    ok(run(*outbound, "audited-payload", "import-cert", chain, "-m", "all"))
    ok(run(*outbound, "audited-payload", "cert-id", AUDITOR_ID[:8], "-m", "none"))
    wrong = run(*outbound, "audited-payload", "cert-id", PARTNER_ID, "-m", "all")
    wrong_file = run(*outbound, "partner", "import-cert", chain, "-m", "all")

    for one in (wrong, wrong_file):
        assert isinstance(one.exception, UsageError)
    found = load_access(home).outbound
    assert found.partner == {PARTNER_ID: Grant(Mode.WHITELIST)}
    assert found.audited_payload == {SIGNER_ID: Grant(Mode.ALL), AUDITOR_ID: Grant(Mode.NONE)}
    assert ok(run("rule", "list", "--json"))["outbound"]["partner"] == {
        PARTNER_ID: {"mode": "whitelist", "description": ""}
    }
    listed = ok(run("rule", "list"))
    assert "AuditedPayload" in listed
    assert "Partner" in listed


def test_rules_about_certificates_that_are_gone_do_not_count(
    run: Run, home: Path, golem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ok(run("rule", "set", "outbound", "partner", "import-cert", golem, "--mode", "all"))
    access = load_access(home)
    stranger = "ab" * 64
    save_access(
        home,
        access.changed("blacklist", AccessList(True, [], [stranger, PARTNER_ID])).reaching(
            access.outbound.changed("audited-payload", {stranger: Grant(Mode.ALL)})
        ),
    )
    watch = SettingsWatch(home, (BUILT_IN,), MACHINE)

    before = watch.load()

    assert before.access.blacklist == AccessList(True, [], [PARTNER_ID])
    assert before.access.outbound.audited_payload == {}
    assert before.access.outbound.partner == {PARTNER_ID: Grant(Mode.ALL)}
    assert before.keystore.ids == {PARTNER_ID}
    assert capsys.readouterr().out.count("rule.not_applied") == 2
    assert watch.changed() is None

    ok(run("keystore", "remove", PARTNER_ID))
    after = watch.changed()

    assert after is not None
    assert after.keystore.ids == frozenset()
    assert after.access.outbound.partner == {}
    assert load_access(home).outbound.partner == {PARTNER_ID: Grant(Mode.ALL)}


def test_certificates_may_be_elsewhere(home: Path, tmp_path: Path, golem: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    words = ["provider", "--data-dir", str(home), "--cert-dir", str(elsewhere)]

    done = CliRunner().invoke(
        cli, [*words, "rule", "set", "outbound", "partner", "import-cert", golem, "-m", "all"]
    )

    assert done.exception is None, done.exception
    assert load_keystore(elsewhere).ids == {PARTNER_ID}
    assert not (home / "cert-dir").exists()
    watch = SettingsWatch(home, (BUILT_IN,), MACHINE, elsewhere)
    assert watch.load().access.outbound.partner == {PARTNER_ID: Grant(Mode.ALL)}


def test_a_keystore_that_cannot_be_read_changes_nothing(run: Run, home: Path) -> None:
    watch = SettingsWatch(home, (BUILT_IN,), MACHINE)
    watch.load()
    (home / "cert-dir").write_text("a file where a directory should be")

    assert watch.changed() is None
    with pytest.raises(UsageError, match="cert-dir"):
        watch.load()
    assert isinstance(run("keystore", "list").exception, UsageError)


def test_first_files_are_those_that_the_agent_understands(home: Path) -> None:
    settings = SettingsWatch(home, (BUILT_IN,), MACHINE).load()

    assert settings.access == Access()
    assert json.loads((home / "rules.json").read_text()) == {
        "outbound": {
            "enabled": True,
            "everyone": "whitelist",
            "audited-payload": {},
            "partner": {},
        },
        "blacklist": {"enabled": False, "identity": [], "certified": []},
        "allow-only": {"enabled": False, "identity": [], "certified": []},
    }
    assert json.loads((home / "domain_whitelist.json").read_text()) == {"patterns": []}


def test_ids_are_as_short_as_they_can_be() -> None:
    one, two, three = "a" * 128, "a" * 20 + "b" * 108, "c" * 128

    assert short_ids([one, two, three]) == {one: "a" * 32, two: two[:32], three: "c" * 8}
    assert short_ids([]) == {}
    assert len(PARTNER_ID) > NAME_DIGITS


def test_a_beginning_that_several_have_names_none(home: Path, tmp_path: Path) -> None:
    directory = tmp_path / "many"
    directory.mkdir()
    for index in range(17):
        (directory / f"{index}.json").write_text(json.dumps(root(f"{index}").signed))
    found = load_keystore(directory)
    first = [entry.id[0] for entry in found.entries]
    twice = next(char for char in first if first.count(char) > 1)

    with pytest.raises(UsageError, match="several"):
        found.get(twice)
    with pytest.raises(NotFound):
        found.get("x")
