"""docs/protocol/losses.md names tests: they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "protocol" / "losses.md"
SHORT = {
    "outlive": "tests/e2e/test_gap17_1_2_results_outlive.py",
    "old_backup": "tests/e2e/test_gap17_1_2_old_backup.py",
    **{
        name: f"tests/sim/test_activity_{name}.py"
        for name in ("life", "kept", "resync", "rollback", "losses", "streams", "provider")
    },
}
NAMED = re.compile(r"`([a-z_0-9/.]+(?:\.py)?|[a-z_0-9/]+…)(?:: ([a-z_0-9]+…?))?`")


def test_every_test_that_the_page_names_exists() -> None:
    found = 0
    for file, test in NAMED.findall(PAGE.read_text(encoding="utf-8")):
        path = SHORT.get(file, file)
        if not path.startswith("tests/"):
            continue
        matches = list(ROOT.glob(path.replace("…", "*")))
        assert matches, file
        found += 1
        if test:
            text = "".join(match.read_text(encoding="utf-8") for match in matches)
            assert f"def test_{test.removesuffix('…')}" in text, (file, test)
    assert found > 40
