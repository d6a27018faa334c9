"""ExeScript as yagna 0.17.6 read, refused and forwarded it."""

import json
from pathlib import Path
from typing import Any

import pytest

from shem.activity.script import COMMANDS_MAX, load_script, parse_script
from shem.kernel.errors import UsageError

RECORDINGS = Path(__file__).parent.parent / "vectors" / "recordings"


def lines(name: str) -> list[dict[str, Any]]:
    text = (RECORDINGS / name).read_text()
    return [json.loads(line) for line in text.splitlines()[1:]]


def forwarded() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name in ("activity_exec_gsb.jsonl", "activity_stream_gsb.jsonl"):
        for line in lines(name):
            if line["kind"] == "call" and line["address"].endswith("/Exec"):
                found[line["data"]["batchId"]] = line["data"]["exeScript"]
    return found


EXECS = [
    line
    for line in lines("activity_rest.jsonl")
    if line["method"] == "POST" and line["path"].endswith("/exec") and "text" in line["request"]
]
REFUSED = [line for line in EXECS if line["status"] == 400]
FORWARDED = [
    (line["request"]["text"], forwarded()[line["response"]])
    for line in EXECS
    if line["status"] == 200 and line["response"] in forwarded()
]


def test_the_recordings_hold_examples() -> None:
    assert len(REFUSED) >= 9
    assert len(FORWARDED) >= 2


@pytest.mark.parametrize("line", REFUSED, ids=[line["request"]["text"] for line in REFUSED])
def test_a_bad_script_is_refused_in_yagnas_words(line: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        parse_script(line["request"]["text"])
    assert error.value.message == line["response"]["message"]


@pytest.mark.parametrize(("text", "commands"), FORWARDED)
def test_a_script_is_forwarded_as_yagna_does(text: str, commands: list[Any]) -> None:
    assert parse_script(text).commands == commands


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ('[{"start": {}}]', [{"start": {"args": []}}]),
        ('[{"run": {"entry_point": "/x"}}]', [{"run": {"entry_point": "/x", "args": []}}]),
        ('[{"terminate": {"odd": 1}}]', [{"terminate": {}}]),
        (
            '[{"transfer": {"from": "a", "to": "b"}}]',
            [
                {
                    "transfer": {
                        "from": "a",
                        "to": "b",
                        "format": None,
                        "depth": None,
                        "fileset": None,
                        "progress": None,
                    }
                }
            ],
        ),
        (
            '[{"run": {"entry_point": "/x", "capture": {"stdout": {"atEnd": {"part": {}}}}}}]',
            [
                {
                    "run": {
                        "entry_point": "/x",
                        "args": [],
                        "capture": {"stdout": {"atEnd": {"format": "str"}}},
                    }
                }
            ],
        ),
        (
            '[{"run": {"entry_point": "/x", "capture": {"stderr": {"stream": {"format": "binary"}},'
            ' "stdout": null}}}]',
            [
                {
                    "run": {
                        "entry_point": "/x",
                        "args": [],
                        "capture": {"stderr": {"stream": {"format": "bin"}}},
                    }
                }
            ],
        ),
    ],
)
def test_defaults_are_filled_in_and_unknown_fields_dropped(text: str, commands: list[Any]) -> None:
    assert parse_script(text).commands == commands


@pytest.mark.parametrize(
    ("size", "expected"), [('"1GiB"', 2**30), ('"7000m"', 7 * 10**9), ("5", 5), ('"2 kb"', 2000)]
)
def test_volume_sizes_become_bytes(size: str, expected: int) -> None:
    text = f'[{{"deploy": {{"volumes": {{"/v": {{"ram": {{"size": {size}}}}}}}}}}}]'
    deploy = parse_script(text).commands[0]["deploy"]
    assert deploy["volumes"] == {"/v": {"ram": {"size": expected}}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "null",
        '"x"',
        "[5]",
        "[{}]",
        "[null]",
        '[{"run": {"entry_point": "/x"}, "start": {}}]',
        '[{"run": {"entry_point": 5}}]',
        '[{"run": {"entry_point": "/x", "args": ["a", 5]}}]',
        '[{"run": {"entry_point": "/x", "args": "a"}}]',
        '[{"run": {"entry_point": "/x", "capture": {"stdout": "all"}}}]',
        '[{"run": {"entry_point": "/x", "capture": {"stdout": {"atEnd": {"head": -1}}}}}]',
        '[{"run": {"entry_point": "/x", "capture": {"stdout": {"odd": {}}}}}]',
        '[{"run": {"entry_point": "/x", "capture": {"stdout": {"stream": {"format": "x"}}}}}]',
        '[{"transfer": {"from": "a"}}]',
        '[{"transfer": {"from": "a", "to": "b", "depth": true}}]',
        '[{"transfer": {"from": "a", "to": "b", "fileset": 5}}]',
        '[{"deploy": {"net": [{"id": "x"}]}}]',
        '[{"deploy": {"net": {}}}]',
        '[{"deploy": {"hosts": {"a": 5}}}]',
        '[{"deploy": {"volumes": {"/v": {"ram": {}}}}}]',
        '[{"deploy": {"volumes": {"/v": {"ram": {"size": "big"}}}}}]',
        '[{"deploy": {"progress": 5}}]',
        '[{"deploy": {"progress": {"updateStep": -1}}}]',
        '[{"start": {}}] x',
        '[{"start": {}},]',
        "[NaN]",
        "[" * 100_000,
        '[{"start": {"args": [' + "[" * 100_000,
        '[{"run": {"entry_point": "/x", "args": [' + "9" * 5_000 + "]}}]",
    ],
)
def test_a_malformed_script_is_an_error_with_a_position(text: str) -> None:
    with pytest.raises(UsageError, match=r'Bad request: Error\(".*", line: \d+, column: \d+\)'):
        parse_script(text)


def test_the_position_counts_lines() -> None:
    with pytest.raises(UsageError, match="line: 2, column: 9"):
        parse_script('[\n {"bogus": {}}]')


def test_a_script_has_a_limit() -> None:
    text = "[" + ",".join(['{"start": {}}'] * (COMMANDS_MAX + 1)) + "]"
    with pytest.raises(UsageError, match=f"at most {COMMANDS_MAX} commands"):
        parse_script(text)


def test_the_digest_is_that_of_the_meaning() -> None:
    one = parse_script('[{"run": {"entry_point": "/x", "args": []}}]')
    same = parse_script(' [ {"run": {"args": [], "entry_point": "/x", "odd": 1}} ] ')
    other = parse_script('[{"run": {"entry_point": "/y", "args": []}}]')
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert load_script(one.text).digest == one.digest
