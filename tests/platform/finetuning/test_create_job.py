"""``POST /v1/fine_tuning/jobs``: what may be asked for."""

from typing import Any

import pytest

from catalog.models import ModelPolicy
from tests.support.cast import MODEL, Cast
from tests.support.facts import change, count
from tests.support.jobs import JOBS, ask, create, queue, retrieve, training_file
from tests.support.keys import update_key
from tests.support.tables import rows_of

pytestmark = pytest.mark.usefixtures("model")

HYPERPARAMETERS = "method.supervised.hyperparameters"


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def test_a_new_job_has_every_member_of_the_object(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    job = create(cast.alice, training_file=file_id, metadata={"team": "support"})
    assert job["id"].startswith("ftjob-")
    del job["id"], job["created_at"]
    auto = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
    assert job == {
        "object": "fine_tuning.job",
        "model": MODEL,
        "organization_id": cast.alice.organization.wire_id,
        "status": "validating_files",
        "fine_tuned_model": None,
        "finished_at": None,
        "trained_tokens": None,
        "training_file": file_id,
        "validation_file": None,
        "result_files": [],
        "estimated_finish": None,
        "seed": 7,
        "error": None,
        "hyperparameters": auto,
        "integrations": None,
        "metadata": {"team": "support"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": auto}},
        "suffix": None,
        "recipe": None,
        "column_mapping": None,
        "validation_fraction": 0.0,
        "promote_if": None,
        "alias": None,
        "paused": False,
        "waiting_reason": None,
        "queue_position": None,
        "dataset": None,
        "progress": None,
        "cost_nanos": 0,
        "max_cost_nanos": None,
        "max_cost": None,
    }


def test_auto_becomes_numbers_when_the_data_is_known(cast: Cast) -> None:
    job = queue(cast.alice, method=supervised(n_epochs="auto", batch_size=2, learning_rate_multiplier=0.5))
    assert job["hyperparameters"] == {"batch_size": 2, "learning_rate_multiplier": 0.5, "n_epochs": 15}
    chosen = job["method"]["supervised"]["hyperparameters"]
    assert (chosen["learning_rate"], chosen["scheduler"], chosen["lora"]["r"]) == (1e-4, "linear", 16)
    assert job["progress"] == {
        "step": 0, "total_steps": 150, "trained_tokens": 0, "total_tokens": 15 * job["dataset"]["train"]["tokens"],
    }  # fmt: skip


def test_every_hyperparameter_may_be_given(cast: Cast) -> None:
    asked = {
        "n_epochs": 2, "batch_size": 4, "learning_rate": 0.001, "scheduler": "cosine", "warmup_ratio": 0.1,
        "weight_decay": 0.01, "max_grad_norm": 0.5, "gradient_accumulation": 2, "gradient_checkpointing": True,
        "optimizer": "adafactor", "precision": "fp32", "packing": False, "group_by_length": True,
        "max_seq_length": 128, "train_on": "all", "early_stopping": {"patience": 2}, "n_checkpoints": 4,
        "lora": {"r": 8, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj"]},
    }  # fmt: skip
    job = queue(cast.alice, method=supervised(**asked), validation_fraction=0.5)
    assert job["error"] is None
    chosen = job["method"]["supervised"]["hyperparameters"]
    assert {name: chosen[name] for name in asked} == asked
    assert job["dataset"]["validation"]["rows"] > 0


def test_the_deprecated_place_of_hyperparameters_is_read(cast: Cast) -> None:
    job = create(cast.alice, hyperparameters={"n_epochs": 2, "batch_size": "auto"})
    assert job["hyperparameters"] == {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job["method"]["type"] == "supervised"


def test_preferences_are_trained_on_by_dpo(cast: Cast) -> None:
    row = (
        b'{"input": {"messages": [{"role": "user", "content": "Q"}]}, '
        b'"preferred_output": [{"role": "assistant", "content": "yes"}], '
        b'"non_preferred_output": [{"role": "assistant", "content": "no"}]}\n'
    )
    file = cast.alice.client.upload(row * 3, purpose="fine-tune").json()
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}}
    job = queue(cast.alice, training_file=file["id"], method=method)
    assert (job["status"], job["error"]) == ("queued", None)
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2


def test_a_seed_is_chosen_when_none_is_given(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    first, second = (create(cast.alice, training_file=file_id, seed=None)["seed"] for _ in range(2))
    assert 0 <= first < 2**31
    assert first != second


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "nobody"}, "model_not_found", "model"),
        ({"training_file": "file-nothing"}, "not_found", "training_file"),
        ({"validation_file": "file-nothing"}, "not_found", "validation_file"),
        ({"method": {"type": "reinforcement"}}, "invalid_value", "method.type"),
        ({"method": {"type": "dpo", "supervised": {}}}, "invalid_value", "method.supervised"),
        ({"method": supervised(), "hyperparameters": {}}, "invalid_value", "hyperparameters"),
        ({"method": supervised(n_epochs=0)}, "invalid_value", f"{HYPERPARAMETERS}.n_epochs"),
        ({"method": supervised(n_epochs=1.5)}, "invalid_value", f"{HYPERPARAMETERS}.n_epochs"),
        ({"method": supervised(n_epochs=True)}, "invalid_value", f"{HYPERPARAMETERS}.n_epochs"),
        ({"method": supervised(n_epochs="many")}, "invalid_value", f"{HYPERPARAMETERS}.n_epochs"),
        ({"method": supervised(learning_rate=0)}, "invalid_value", f"{HYPERPARAMETERS}.learning_rate"),
        ({"method": supervised(packing=1)}, "invalid_value", f"{HYPERPARAMETERS}.packing"),
        ({"method": supervised(beta=0.1)}, "unknown_parameter", f"{HYPERPARAMETERS}.beta"),
        ({"method": supervised(optimizer="lion")}, "invalid_value", f"{HYPERPARAMETERS}.optimizer"),
        ({"method": supervised(lora={"r": 65})}, "invalid_value", f"{HYPERPARAMETERS}.lora.r"),
        ({"method": supervised(lora={"use_dora": True})}, "unknown_parameter", f"{HYPERPARAMETERS}.lora.use_dora"),
        ({"method": supervised(early_stopping={"patience": 1})}, "invalid_value", f"{HYPERPARAMETERS}.early_stopping"),
        ({"method": supervised(from_checkpoint=MODEL)}, "invalid_value", f"{HYPERPARAMETERS}.from_checkpoint"),
        ({"method": supervised(from_checkpoint="ft:x")}, "model_not_found", f"{HYPERPARAMETERS}.from_checkpoint"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "invalid_value", "integrations"),
        ({"suffix": "with space"}, "invalid_value", "suffix"),
        ({"suffix": "x" * 65}, "invalid_value", "suffix"),
        ({"max_cost": "0"}, "invalid_value", "max_cost"),
        ({"recipe": "nothing"}, "invalid_value", "recipe"),
        ({"alias": "a b"}, "invalid_value", "alias"),
        ({"metadata": {"key": 1}}, "invalid_value", "metadata"),
        ({"nothing": 1}, "unknown_parameter", "nothing"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_made(
    cast: Cast, fields: dict[str, Any], code: str, param: str
) -> None:
    file_id = training_file(cast.alice)
    before = rows_of(cast.alice.organization.id)
    answer = ask(cast.alice, **{"training_file": file_id, **fields})
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert rows_of(cast.alice.organization.id) == before


def test_what_vllm_does_not_serve_is_refused_with_the_reason(cast: Cast) -> None:
    answer = ask(cast.alice, method=supervised(lora={"use_dora": True}))
    assert "vLLM serves" in answer.json()["error"]["message"]


def test_a_file_of_another_purpose_is_refused(cast: Cast) -> None:
    file = cast.alice.client.upload(b"{}\n").json()
    for name in ("training_file", "validation_file"):
        answer = ask(cast.alice, **{name: file["id"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_purpose")
    assert count("finetuning_finetuningjob") == 0


def test_a_model_without_a_price_of_training_cannot_be_tuned(cast: Cast) -> None:
    change("DELETE FROM catalog_price WHERE kind = 'training'")
    answer = ask(cast.alice)
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_value", "model")


def test_a_key_tunes_only_models_that_it_may_use(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    update_key(cast.alice, allowed_models=["other"])
    assert ask(cast.alice, training_file=file_id).json()["error"]["code"] == "model_not_found"
    update_key(cast.alice, allowed_models=None)
    project = f"/v1/organization/projects/{cast.alice.project.wire_id}/model_permissions"
    cast.alice.admin.post(project, {"mode": ModelPolicy.Mode.DENY.value, "model_ids": [MODEL]})
    assert ask(cast.alice, training_file=file_id).json()["error"]["code"] == "model_not_found"
    assert count("finetuning_finetuningjob") == 0


def test_the_same_request_again_gets_the_same_job(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    keyed, again = (
        create(cast.alice, training_file=file_id, seed=None, headers={"Idempotency-Key": "one"}) for _ in range(2)
    )
    assert keyed == again
    deliberate = create(cast.alice, training_file=file_id, seed=None)
    repeated = create(cast.alice, training_file=file_id, seed=None, headers={"x-stainless-retry-count": "1"})
    assert repeated["id"] == deliberate["id"] != keyed["id"]
    assert count("finetuning_finetuningjob") == 2
    other = ask(cast.alice, training_file=file_id, seed=3, headers={"Idempotency-Key": "one"})
    assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_a_job_keeps_its_files(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    job = create(cast.alice, training_file=file_id, validation_file=file_id)
    refused = cast.alice.client.delete(f"/v1/files/{file_id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "file_in_use")
    assert job["id"] in refused.json()["error"]["message"]
    assert cast.alice.client.post(f"{JOBS}/{job['id']}/cancel").status_code == 200
    assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
    assert retrieve(cast.alice, job)["training_file"] == file_id


def test_a_recipe_shapes_the_data_and_gives_defaults(cast: Cast) -> None:
    rows = b'{"text": "good", "label": "positive"}\n{"text": "bad", "label": "negative"}\n'
    file = cast.alice.client.upload(rows, purpose="fine-tune").json()
    method = supervised(n_epochs=2)
    job = queue(cast.alice, training_file=file["id"], recipe="text-classification", method=method)
    assert (job["status"], job["dataset"]["labels"]) == ("queued", ["negative", "positive"])
    chosen = job["method"]["supervised"]["hyperparameters"]
    assert (chosen["learning_rate"], chosen["n_epochs"]) == (0.0003, 2)
