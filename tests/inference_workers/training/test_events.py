"""The stream of events across kills."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_workers.training.events import EventLog


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_numbered_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    first = EventLog(path)
    first.message("begins")
    first.metrics(step=1, train_loss=2.5)
    first.close()
    second = EventLog(path)
    assert second.last == {"seq": 2, "kind": "metrics", "step": 1, "train_loss": 2.5}
    second.checkpoint(step=1, path="checkpoints/step-1", interim=True, metrics={"train_loss": 2.5})
    second.done(step=1, trained_tokens=9, best_step=1)
    second.close()
    assert lines(path) == [
        {"seq": 1, "kind": "message", "level": "info", "message": "begins"},
        {"seq": 2, "kind": "metrics", "step": 1, "train_loss": 2.5},
        {
            "seq": 3,
            "kind": "checkpoint",
            "step": 1,
            "path": "checkpoints/step-1",
            "interim": True,
            "metrics": {"train_loss": 2.5},
        },
        {"seq": 4, "kind": "done", "step": 1, "trained_tokens": 9, "best_step": 1},
    ]
    assert EventLog(path, is_writer=False).announced == {1}


@pytest.mark.parametrize("torn", [b"{", b'{"seq": 2, "kind": "me', b'{"seq": 2, "kind": "x"}', b"\xff\n", b"\0" * 9])
def test_a_torn_line_is_cut_off_and_its_number_used_again(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.ndjson"
    log = EventLog(path)
    log.message("whole")
    log.close()
    with path.open("ab") as stream:
        stream.write(torn)
    log = EventLog(path)
    log.message("after")
    log.close()
    assert [(event["seq"], event["message"]) for event in lines(path)] == [(1, "whole"), (2, "after")]


def test_only_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    writer, other = EventLog(path), EventLog(path, is_writer=False)
    other.message("from the second process")
    writer.message("from the first")
    other.close()
    writer.close()
    assert [(event["seq"], event["message"]) for event in lines(path)] == [(1, "from the first")]


def test_a_number_that_json_has_not_is_refused(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.ndjson")
    with pytest.raises(ValueError, match="JSON"):
        log.metrics(step=1, train_loss=float("nan"))
    log.close()
