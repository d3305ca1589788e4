"""The quick start does what it says: its blocks, as they stand in the document, against a real server."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.model import add_model
from tests.support.server import start_server
from tests.support.sign_in import code_for, let_throttles_pass
from tests.support.worker import Worker, run_control

DOCUMENT = Path(__file__).resolve().parents[2] / "infra" / "docs" / "quickstart.md"
MAKE_RUN = "http://127.0.0.1:8000"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_from_signing_up_to_the_first_answered_batch(
    database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_throttles_pass()
    add_model(tmp_path / "model")
    worker = Worker()

    def work(seconds: float) -> None:
        """What the control plane's workers and a node do while the program waits."""
        assert seconds == 1
        run_control()
        worker.answer_all()
        run_control()

    program = "\n".join(blocks())
    assert program.count(MAKE_RUN) == 1
    names: dict[str, Any] = {}
    with start_server(tmp_path, HONE_SIGNUP_CREDIT_USD="5") as server, monkeypatch.context() as patch:
        patch.setattr(time, "sleep", work)
        patch.setattr("builtins.input", lambda prompt: code_for("ada@example.com"))
        exec(compile(program.replace(MAKE_RUN, server.url), str(DOCUMENT), "exec"), names)
        patch.undo()
    batch = names["batch"]
    assert (batch.status, batch.request_counts.total, batch.request_counts.completed) == ("completed", 3, 3)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Signed in as ada@example.com"
    assert re.fullmatch(r"Keep these: hone_sk_\w+ hone_ak_\w+", said[1])
    assert said[3:6] == [f"question-{number} answer {number}" for number in (1, 2, 3)]
    # 3 rows of 10 input and 5 output tokens at 50 and 100 nano-dollars.
    assert said[6] == "Spent 0.000003 of 5 dollars; available 4.999997"
    names["client"].close()
