"""What a node tells of a running batch, read as events; nonsense is left out."""

from typing import Any

import pytest

from shem.rest.models import RuntimeEvent
from shem.sdk.live import Finished, Output, Progress, Started, events_of


def read(**kind: Any) -> list[object]:
    return list(events_of(RuntimeEvent(batch_id="b", index=3, kind=kind)))


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ({"started": {"command": {"deploy": {}}}}, Started(3, {"deploy": {}})),
        ({"stdout": "a"}, Output(3, "stdout", "a")),
        ({"stderr": [104, 105]}, Output(3, "stderr", "hi")),
        ({"stderr": [104, 300]}, Output(3, "stderr", "\ufffd")),
        ({"stderr": [104, "x"]}, Output(3, "stderr", "\ufffd")),
        ({"finished": {"return_code": 0, "message": None}}, Finished(3, 0)),
        ({"finished": {"return_code": -1, "message": "x"}}, Finished(3, -1, "x")),
        (
            {"progress": {"step": [0, 1], "message": None, "progress": [1, 9], "unit": "Bytes"}},
            Progress(3, 1, 9, "Bytes"),
        ),
        (
            {"progress": {"step": [0, 1], "message": "m", "progress": [0, None], "unit": None}},
            Progress(3, 0, None, None, "m"),
        ),
    ],
)
def test_an_event_is_read(kind: dict[str, Any], event: object) -> None:
    assert read(**kind) == [event]


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"unheard": {}},
        {"stdout": None},
        {"stdout": {"a": 1}},
        {"started": {}},
        {"started": "run"},
        {"finished": {}},
        {"finished": {"return_code": "0"}},
        {"progress": {"step": [1, 2]}},
        {"progress": {"progress": [1]}},
        {"progress": {"progress": ["1", 2]}},
        {"progress": [1, 2]},
    ],
)
def test_nonsense_is_left_out(kind: dict[str, Any]) -> None:
    assert read(**kind) == []
