"""Which side of a copy is where, and how progress is told."""

import json

import pytest

from shem.cli.activity_copy import Copy, Side, side_of
from shem.cli.activity_live import Telling
from shem.kernel.errors import UsageError
from shem.sdk.live import Progress

ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("text", "side"),
    [
        (f"{ID}:/data/x", Side("/data/x", ID)),
        ("0123:/x", Side("/x", "0123")),
        ("mine.ticket:/x", Side("/x", "mine.ticket")),
        ("./dir/mine.ticket:/x", Side("/x", "./dir/mine.ticket")),
        ("x", Side("x")),
        ("/tmp/x", Side("/tmp/x")),
        ("012:/x", Side("012:/x")),
        ("0123:x", Side("0123:x")),
        ("https://a/b", Side("https://a/b")),
        ("hash:sha3:00:https://a/b", Side("hash:sha3:00:https://a/b")),
    ],
)
def test_a_side_is_read(text: str, side: Side) -> None:
    assert side_of(text) == side


def test_what_is_on_the_network_is_told_from_a_file() -> None:
    assert side_of("https://a/b").is_url and side_of("hash:sha3:00:http://a/b").is_url
    assert not side_of("a/b").is_url and not side_of("0123:/https://x").is_url


@pytest.mark.parametrize("texts", [("a", "b"), ("https://a/b", "c"), ("0123:/a", "4567:/b")])
def test_exactly_one_side_is_an_activity(texts: tuple[str, str]) -> None:
    source, target = map(side_of, texts)
    with pytest.raises(UsageError, match="one side is ACTIVITY:/PATH"):
        _ = Copy(source, target, None, None).activity


def test_progress_is_told_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with Telling(as_json=True).copying("x") as told:
        told(Progress(0, 5, 10, "Bytes"))
        told(Progress(0, 10, None))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"event": "progress", "done": 5, "total": 10},
        {"event": "progress", "done": 10, "total": None},
    ]


def test_people_without_a_terminal_are_told_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Telling(as_json=False).copying("x") as told:
        told(Progress(0, 5, 10, "Bytes"))
        told(Progress(0, 10, 10, "Bytes"))
    assert capsys.readouterr().out == "x copied, 10 bytes\n"
