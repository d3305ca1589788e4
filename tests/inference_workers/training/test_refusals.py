"""Runs that cannot be: exit status 1, and a last event that says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.inference_workers.training.conftest import MakeRun, RunFolder
from tests.inference_workers.training.rows import labelled_rows, write_rows


def failure(run: RunFolder) -> tuple[str, str]:
    assert run.start().wait() == 1
    last = run.events()[-1]
    assert last.keys() == {"seq", "kind", "code", "message"}
    assert last["kind"] == "failed"
    assert not (run.path / "adapter").exists()
    return last["code"], last["message"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"ids": [1, 2, 300], "trained": [[2, 3]]}, "row 2 has a token id outside 0..255"),
        ({"ids": [1, -2, 3], "trained": [[2, 3]]}, "row 2 has a token id outside 0..255"),
        ({"ids": [], "trained": []}, "row 2 has 0 tokens, not 1 to 64"),
        ({"ids": [1] * 65, "trained": [[2, 3]]}, "row 2 has 65 tokens, not 1 to 64"),
        ({"ids": [1, 2, 3], "trained": [[2, 4]]}, "row 2 trains positions outside 1..2"),
        ({"ids": [1, 2, 3]}, "row 2 is not a prepared example: KeyError('trained')"),
        ({"ids": [1, 2, 3], "trained": [[2, 3]], "weights": [1, 1]}, "row 2 is not a prepared example: ValueError("),
        ([], "row 2 is not a prepared example: TypeError("),
    ],
)
def test_a_row_that_is_not_prepared(make_run: MakeRun, row: Any, message: str) -> None:
    code, text = failure(make_run(train=[*labelled_rows(1, seed=1), row]))
    assert code == "dataset_invalid"
    assert text.startswith(message)


@pytest.mark.parametrize("rows", [[], [{"ids": [1, 2], "trained": []}], [{"ids": [1, 2], "trained": [[0, 1]]}]])
def test_a_file_that_trains_nothing(make_run: MakeRun, rows: list[dict[str, Any]]) -> None:
    code, text = failure(make_run(train=rows))
    assert code == "dataset_invalid"
    assert text in ("train.ndjson holds no examples", "train.ndjson trains no token: every label is masked or cut off")


def test_a_layer_that_the_model_has_not(make_run: MakeRun) -> None:
    code, text = failure(make_run(lora={"r": 4, "alpha": 8, "target_modules": ["q_proj", "c_attn"]}))
    assert code == "adapter_not_servable"
    known = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert text == f"lora.target_modules: this model has no linear layer 'c_attn'; it has {known}."


def test_an_adapter_of_a_kind_that_is_not_served(make_run: MakeRun) -> None:
    first = make_run(n_epochs=1, validation=0)
    first.train()
    second = make_run()
    (first.path / "adapter").rename(second.path / "from")
    config = second.path / "from" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    code, text = failure(second)
    assert code == "adapter_not_servable"
    assert text.startswith("lora.use_dora: vLLM cannot serve DoRA")


def test_an_adapter_that_is_torn(make_run: MakeRun) -> None:
    first = make_run(n_epochs=1, validation=0)
    first.train()
    second = make_run()
    (first.path / "adapter").rename(second.path / "from")
    weights = second.path / "from" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _ = failure(second)
    assert code == "adapter_unreadable"


def test_a_base_that_is_not_there(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _ = failure(make_run(base_folder=str(tmp_path / "empty")))
    assert code == "base_unreadable"


def test_early_stopping_without_rows_to_judge_by(make_run: MakeRun) -> None:
    assert failure(make_run(validation=0, early_stopping={"patience": 1})) == (
        "spec_invalid",
        "early_stopping needs validation rows to judge by: give some, or drop it",
    )


def test_a_device_that_is_not_there(make_run: MakeRun) -> None:
    assert failure(make_run(device="cuda")) == (
        "device_unavailable",
        'device "cuda" is asked for, and this machine offers none',
    )


def test_a_loss_that_is_no_number(make_run: MakeRun) -> None:
    code, text = failure(make_run(learning_rate=1e30, optimizer="sgd", max_grad_norm=0))
    assert code == "diverged"
    assert text.endswith("lower learning_rate, or warm up longer")


def test_checkpoints_of_another_run(make_run: MakeRun) -> None:
    first, second = make_run(n_epochs=1), make_run(n_epochs=1, learning_rate=0.03)
    first.train()
    (first.path / "checkpoints").rename(second.path / "checkpoints")
    assert failure(second) == (
        "checkpoint_mismatch",
        "checkpoint step-8 was made with other data or settings; train them in a folder of their own",
    )


def test_a_refused_run_can_be_mended(make_run: MakeRun) -> None:
    run = make_run(n_epochs=1, early_stopping={"patience": 1}, validation=0)
    failure(run)
    write_rows(run.path / "validation.ndjson", labelled_rows(4, seed=2))
    assert run.train()[-1]["kind"] == "done"
    assert [event["seq"] for event in run.events()] == list(range(1, len(run.events()) + 1))
