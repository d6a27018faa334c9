"""The operator's words about checking manifests."""

from pathlib import Path

import pytest

from shem.kernel.errors import NotSupported, UsageError
from shem.provider.command import load_config
from shem.provider.policy import manifests_are_checked


@pytest.mark.parametrize(
    ("disabled", "trusted", "checked"),
    [
        ([], [], True),
        ([""], [""], True),
        (["manifest_signature_validation"], [], False),
        (["ALL"], [], False),
        ([], ["golem.runtime.capabilities"], False),
        ([], ["golem.runtime.capabilities=vpn|inet"], False),
        ([], ["a=1,golem.runtime.capabilities=inet"], False),
        ([], ["golem.runtime.capabilities=vpn"], True),
        ([], ["golem.runtime.capabilities="], True),
        ([], ["golem.runtime.capabilities.x=inet"], True),
        ([], ["inet"], True),
    ],
)
def test_what_the_operator_trusts_is_not_checked(
    disabled: list[str], trusted: list[str], checked: bool
) -> None:
    assert manifests_are_checked(disabled, trusted) is checked


def test_words_that_mean_nothing_here_are_refused() -> None:
    with pytest.raises(UsageError, match="not known"):
        manifests_are_checked(["everything"], [])
    for name in ("manifest_compliance", "manifest_script_compliance,all"):
        with pytest.raises(NotSupported, match="ExeUnits always check"):
            manifests_are_checked([name], [])


def test_option_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"app_key": "k", "data_dir": str(tmp_path)}
    assert load_config(needed).manifests_are_checked
    option = {**needed, "policy_trust_property": ("golem.runtime.capabilities",)}
    assert not load_config(option).manifests_are_checked

    monkeypatch.setenv("POLICY_DISABLE_COMPONENT", "all")

    assert not load_config(needed).manifests_are_checked
