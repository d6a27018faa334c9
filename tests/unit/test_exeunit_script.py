"""ExeScripts: what is accepted, and what is refused whole."""

import pytest

from shem.exeunit.commands import CaptureMode, Kind, Part
from shem.exeunit.script import parse_script
from shem.kernel.errors import UsageError

RUN = {"run": {"entry_point": "mandel", "args": ["render"]}}


def test_commands_are_read_in_order() -> None:
    script = parse_script([{"deploy": {}}, {"start": {"args": ["a"]}}, RUN, {"terminate": {}}])

    kinds = [command.kind for command in script.commands]
    assert kinds == [Kind.DEPLOY, Kind.START, Kind.RUN, Kind.TERMINATE]
    assert script.commands[1].args == ("a",)
    assert script.commands[2].entry_point == "mandel"
    assert script.commands[2].stdout is None


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({"atEnd": {}}, CaptureMode()),
        ({"atEnd": {"head": 3}}, CaptureMode(part=Part.HEAD, limit=3)),
        ({"atEnd": {"tail": 3, "format": "string"}}, CaptureMode(part=Part.TAIL, limit=3)),
        ({"atEnd": {"headTail": 5}}, CaptureMode(part=Part.HEAD_TAIL, limit=5)),
        ({"atEnd": {"part": {"head": 3}}}, CaptureMode()),
        ({"stream": {}}, CaptureMode(stream=True)),
        (
            {"stream": {"limit": 9, "format": "binary"}},
            CaptureMode(stream=True, part=Part.HEAD, limit=9, binary=True),
        ),
        (None, None),
    ],
)
def test_capture_modes(mode: object, expected: CaptureMode | None) -> None:
    script = parse_script([{"run": {"entry_point": "x", "args": [], "capture": {"stdout": mode}}}])

    assert script.commands[0].stdout == expected


def test_same_script_has_the_same_digest_whatever_the_order_of_its_keys() -> None:
    turned = {"run": {"args": ["render"], "entry_point": "mandel"}}

    assert parse_script([RUN]).digest == parse_script([turned]).digest
    assert parse_script([RUN]).digest != parse_script([RUN, RUN]).digest


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        "deploy",
        [None],
        ["terminate"],
        [{}],
        [{"deploy": {}, "start": {}}],
        [{"bogus": {}}],
        [{"terminate": None}],
        [{"start": {"args": None}}],
        [{"start": {"args": [1]}}],
        [{"run": {}}],
        [{"run": {"entry_point": 1, "args": []}}],
        [{"run": {"entry_point": "x", "args": ["a\0b"]}}],
        [{"run": {"entry_point": "x", "capture": []}}],
        [{"run": {"entry_point": "x", "capture": {"stdout": {}}}}],
        [{"run": {"entry_point": "x", "capture": {"stdout": {"later": {}}}}}],
        [{"run": {"entry_point": "x", "capture": {"stdout": {"atEnd": {"head": 1, "tail": 1}}}}}],
        [{"run": {"entry_point": "x", "capture": {"stdout": {"atEnd": {"head": -1}}}}}],
        [{"run": {"entry_point": "x", "capture": {"stdout": {"atEnd": {"head": 1.5}}}}}],
        [{"run": {"entry_point": "x", "capture": {"stdout": {"stream": {"format": "hex"}}}}}],
        [{"run": {"entry_point": "x", "args": [float("nan")]}}],
        [{"terminate": {}}] * 1_001,
        [{"run": {"entry_point": "x", "args": ["y" * (1 << 20)]}}],
    ],
)
def test_malformed_scripts_are_refused_whole(body: object) -> None:
    with pytest.raises(UsageError):
        parse_script(body)
