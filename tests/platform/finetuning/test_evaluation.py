"""Base against tuned model: evaluated by a node, judged here, and what follows from it for job and alias."""

from typing import Any

import orjson
import pytest
from django.conf import settings

from tests.support.blobs import blobs
from tests.support.cast import MODEL, Cast
from tests.support.evaluations import ROWS, better, evaluate, evaluation_of, results_of, trained
from tests.support.facts import let_back_off_pass, query_owner
from tests.support.jobs import JOBS, act, ask, events_of, finish, queue, retrieve
from tests.support.worker import Worker, run_control

pytestmark = pytest.mark.usefixtures("model")

GATE = {"metric": "accuracy", "min": 0.8, "min_gain": 0.1}
NO_FIGURES = ("metrics", "classes", "confusion", "fields", "slices", "samples", "headline", "skipped_rows")


def messages(cast: Cast, job: Any) -> list[tuple[str, str]]:
    return [(event["level"], event["message"]) for event in events_of(cast.alice, job) if event["type"] == "message"]


def target_of(cast: Cast, alias: str) -> str | None:
    answer = cast.alice.client.get(f"/v1/models/{alias}")
    return answer.json()["alias_of"] if answer.status_code == 200 else None


def test_a_model_is_evaluated_before_its_job_succeeds(cast: Cast) -> None:
    job = trained(cast.alice)
    assert retrieve(cast.alice, job)["status"] == "running"
    waiting = evaluation_of(cast.alice, job)
    assert (waiting["status"], waiting["rows"], waiting["finished_at"]) == ("queued", ROWS, None)
    assert {waiting[name] for name in NO_FIGURES if name != "samples"} == {None}
    grant = Worker(name="evaluator").lease(kind="evaluation")
    assert evaluation_of(cast.alice, job)["status"] == "running"
    assert grant.work["rows"] == ROWS
    assert grant.work["adapter"]["name"].startswith(f"ft:{MODEL}:")
    assert grant.upload("evaluation.ndjson", results_of(grant, better)).status_code == 201
    assert grant.complete().status_code == 200
    run_control()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["error"]) == ("succeeded", None)
    evaluation = evaluation_of(cast.alice, job)
    assert evaluation["status"] == "succeeded"
    assert evaluation["fine_tuned_model"] == job["fine_tuned_model"] == grant.work["adapter"]["name"]
    assert (evaluation["rows"], evaluation["skipped_rows"], evaluation["headline"]) == (ROWS, 0, "accuracy")
    accuracy = evaluation["metrics"]["accuracy"]
    assert (accuracy["base"], accuracy["tuned"], accuracy["gain"]) == (0.666667, 1, 0.333333)
    assert accuracy["interval"][0] > 0
    assert evaluation["metrics"]["cross_entropy"]["gain"] == 1
    assert evaluation["confusion"] == {
        "labels": ["yes", "no"],
        "base": [[8, 0, 0], [4, 0, 0]],
        "tuned": [[8, 0, 0], [0, 4, 0]],
    }
    assert [(part["value"], part["rows"]) for part in evaluation["slices"]] == [("zh", 6), ("en", 6)]
    assert [sample["line"] for sample in evaluation["samples"]["improved"]][:4] == [3, 6, 9, 12]
    assert evaluation["usage"] == {"input_tokens": 240, "output_tokens": 24, "cost_nanos": 0}
    assert evaluation["gate"] is None
    told = [message for _, message in messages(cast, job)]
    assert told[-4:] == [
        f"The model waits to be evaluated on {ROWS} held-out rows",
        "The evaluation has started",
        f"Evaluated on {ROWS} held-out rows: accuracy 0.666667 -> 1",
        f"The job has successfully completed; the model is {job['fine_tuned_model']}",
    ]


def test_evaluating_costs_the_customer_nothing(cast: Cast) -> None:
    job = trained(cast.alice)
    before = query_owner("SELECT count(*), sum(cost_nanos) FROM metering_usageevent")
    cost = retrieve(cast.alice, job)["cost_nanos"]
    evaluate()
    assert retrieve(cast.alice, job)["cost_nanos"] == cost
    assert query_owner("SELECT count(*), sum(cost_nanos) FROM metering_usageevent") == before


def test_every_row_can_be_read_with_both_answers_page_by_page(cast: Cast) -> None:
    job = trained(cast.alice)
    evaluate()
    path = f"{JOBS}/{job['id']}/evaluation/examples"
    whole = cast.alice.client.get(path).json()
    assert (len(whole["data"]), whole["has_more"]) == (ROWS, False)
    assert whole["data"][2] == {
        "id": whole["data"][2]["id"],
        "object": "fine_tuning.evaluation.example",
        "line": 3,
        "slice": "zh",
        "prompt": [{"role": "user", "content": "Q3"}],
        "reference": "no",
        "base": {"text": "yes", "score": 0, "loss": 2.0, "tokens": 2, "error": None},
        "tuned": {"text": "no", "score": 1, "loss": 1.0, "tokens": 2, "error": None},
        "gain": 1.0,
    }
    first = cast.alice.client.get(path, data={"limit": 5}).json()
    second = cast.alice.client.get(path, data={"limit": 5, "after": first["last_id"]}).json()
    third = cast.alice.client.get(path, data={"limit": 5, "after": second["last_id"]}).json()
    assert first["data"] + second["data"] + third["data"] == whole["data"]
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]
    wrong = cast.alice.client.get(path, data={"after": "evalex-1"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


def test_of_a_job_that_waits_to_be_evaluated_there_are_no_examples_yet(cast: Cast) -> None:
    job = trained(cast.alice)
    page = cast.alice.client.get(f"{JOBS}/{job['id']}/evaluation/examples").json()
    assert (page["data"], page["has_more"]) == ([], False)


def test_without_held_out_rows_there_is_no_evaluation(cast: Cast) -> None:
    job = finish(cast.alice, queue(cast.alice, alias="support"))
    assert job["status"] == "succeeded"
    answer = cast.alice.client.get(f"{JOBS}/{job['id']}/evaluation")
    assert answer.status_code == 404
    assert "validation_fraction" in answer.json()["error"]["message"]
    # An alias without conditions moves all the same.
    assert target_of(cast, "support") == job["fine_tuned_model"]


def test_a_gate_that_holds_moves_the_alias_and_says_why(cast: Cast) -> None:
    job = trained(cast.alice, alias="support", promote_if=GATE)
    assert target_of(cast, "support") is None
    evaluate()
    job = retrieve(cast.alice, job)
    assert target_of(cast, "support") == job["fine_tuned_model"]
    gate = evaluation_of(cast.alice, job)["gate"]
    assert (gate["alias"], gate["promote_if"]) == ("support", [GATE])
    assert (gate["passed"], gate["promoted"]) == (True, True)
    assert gate["reasons"] == [
        "accuracy is at least 0.8: it is 1",
        "the gain in accuracy is at least 0.1: it is 0.333333",
    ]
    assert gate["checks"][1] == {
        "condition": "accuracy",
        "bound": "min_gain",
        "wanted": 0.1,
        "found": 0.333333,
        "holds": True,
        "reason": gate["reasons"][1],
    }
    assert ("info", f"The alias 'support' stands for the model now: {'; '.join(gate['reasons'])}") in messages(
        cast, job
    )


def test_a_gate_that_does_not_hold_leaves_the_alias_where_it_is(cast: Cast) -> None:
    first = trained(cast.alice, alias="support", promote_if=GATE)
    evaluate()
    second = trained(cast.alice, alias="support", promote_if=GATE)
    evaluate(lambda row: ("yes", "yes"))
    second = retrieve(cast.alice, second)
    assert second["status"] == "succeeded"
    assert target_of(cast, "support") == retrieve(cast.alice, first)["fine_tuned_model"]
    gate = evaluation_of(cast.alice, second)["gate"]
    assert (gate["passed"], gate["promoted"]) == (False, False)
    assert gate["reasons"] == [
        "accuracy should be at least 0.8: it is 0.666667",
        "the gain in accuracy should be at least 0.1: it is 0",
    ]
    assert ("warn", f"The alias 'support' was not moved: {'; '.join(gate['reasons'])}") in messages(cast, second)


def test_a_promotion_can_be_taken_back_in_one_call(cast: Cast) -> None:
    jobs = [trained(cast.alice, alias="support", promote_if=GATE)]
    evaluate()
    jobs.append(trained(cast.alice, alias="support", promote_if=GATE))
    evaluate()
    first, second = (retrieve(cast.alice, job)["fine_tuned_model"] for job in jobs)
    assert target_of(cast, "support") == second
    assert cast.alice.client.post("/v1/models/aliases/support/rollback", None).status_code == 200
    assert target_of(cast, "support") == first


def test_an_alias_that_cannot_be_had_fails_no_job(cast: Cast) -> None:
    job = trained(cast.alice, alias=MODEL, promote_if=GATE)
    evaluate()
    job = retrieve(cast.alice, job)
    assert job["status"] == "succeeded"
    gate = evaluation_of(cast.alice, job)["gate"]
    assert (gate["passed"], gate["promoted"]) == (True, False)
    assert gate["reasons"][-1] == f"'{MODEL}' is the name of a base model"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"promote_if": {"metric": "acc", "min": 1}, "alias": "a"}, "invalid_value", "promote_if.metric"),
        ({"promote_if": [GATE, {"metric": "bleu"}], "alias": "a"}, "missing_required_parameter", "promote_if[1].min"),
        ({"promote_if": GATE}, "missing_required_parameter", "alias"),
        ({"promote_if": GATE, "alias": "a", "validation_fraction": 0}, "invalid_value", "promote_if"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_at_once(
    cast: Cast, fields: dict[str, Any], code: str, param: str
) -> None:
    answer = ask(cast.alice, **{"validation_fraction": 0.5, **fields})
    assert answer.status_code == 400, answer.content
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert cast.alice.client.get(JOBS).json()["data"] == []


def test_an_evaluation_that_fails_is_tried_again_and_then_leaves_the_model_usable(cast: Cast) -> None:
    job = trained(cast.alice, alias="support", promote_if=GATE)
    worker = Worker(name="evaluator")
    for _ in range(settings.LEASE_MAX_ATTEMPTS):
        assert retrieve(cast.alice, job)["status"] == "running"
        assert evaluation_of(cast.alice, job)["status"] == "queued"
        assert worker.lease(kind="evaluation").fail("engine_unavailable", message="no engine").status_code == 200
        let_back_off_pass()
    run_control()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert cast.alice.client.get(f"/v1/models/{job['fine_tuned_model']}").json()["status"] == "ready"
    evaluation = evaluation_of(cast.alice, job)
    assert (evaluation["status"], evaluation["error"]) == (
        "failed",
        {"code": "engine_unavailable", "message": "no engine"},
    )
    assert evaluation["gate"]["reasons"] == ["the evaluation has failed"]
    assert (evaluation["gate"]["passed"], evaluation["gate"]["promoted"]) == (None, False)
    assert target_of(cast, "support") is None
    assert messages(cast, job)[-3:-1] == [
        (
            "warn",
            "The model could not be evaluated (engine_unavailable: no engine); it can be called all the same",
        ),
        ("warn", "The alias 'support' was not moved: the evaluation has failed"),
    ]


def test_results_of_other_rows_are_refused_and_the_job_goes_on(cast: Cast) -> None:
    job = trained(cast.alice)
    before = blobs()
    grant = Worker(name="evaluator").lease(kind="evaluation")
    lines = results_of(grant, better).splitlines(keepends=True)
    assert grant.upload("evaluation.ndjson", b"".join([lines[1], lines[0], *lines[2:]])).status_code == 201
    assert grant.complete().status_code == 200
    run_control()
    assert retrieve(cast.alice, job)["status"] == "succeeded"
    assert evaluation_of(cast.alice, job)["error"] == {
        "code": "results_refused",
        "message": "Result 1 is of line 2, its row of line 1",
    }
    assert [key for key in blobs() - before if "/evaluations/" in key] == []


def test_an_evaluation_cannot_be_completed_without_results(cast: Cast) -> None:
    job = trained(cast.alice)
    refused = Worker(name="evaluator").lease(kind="evaluation").complete()
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "artifacts_missing")
    assert evaluation_of(cast.alice, job)["status"] == "running"


def test_a_job_can_be_cancelled_while_it_is_evaluated(cast: Cast) -> None:
    job = trained(cast.alice, alias="support", promote_if=GATE)
    grant = Worker(name="evaluator").lease(kind="evaluation")
    results = results_of(grant, better)
    assert act(cast.alice, job, "cancel").json()["status"] == "cancelled"
    assert grant.heartbeat() == "lost"
    assert grant.upload("evaluation.ndjson", results).json()["error"]["code"] == "lease_lost"
    run_control()
    evaluation = evaluation_of(cast.alice, job)
    assert (evaluation["status"], evaluation["metrics"]) == ("cancelled", None)
    assert target_of(cast, "support") is None


def test_characters_that_no_database_holds_are_replaced_in_figures_alone(cast: Cast) -> None:
    job = trained(cast.alice)
    evaluate(lambda row: ("yes", "n\0"))
    evaluation = evaluation_of(cast.alice, job)
    assert {sample["tuned"]["text"] for sample in evaluation["samples"]["random"]} == {"n\N{REPLACEMENT CHARACTER}"}
    page = cast.alice.client.get(f"{JOBS}/{job['id']}/evaluation/examples").json()
    assert page["data"][0]["tuned"]["text"] == "n\0"


def test_rows_that_a_model_could_not_be_asked_about_are_counted_apart(cast: Cast) -> None:
    job = trained(cast.alice)
    evaluate(lambda row: (None if row["line"] < 3 else "yes", row["reference"]))
    evaluation = evaluation_of(cast.alice, job)
    assert (evaluation["skipped_rows"], evaluation["metrics"]["accuracy"]["rows"]) == (2, ROWS - 2)
    page = cast.alice.client.get(f"{JOBS}/{job['id']}/evaluation/examples", data={"limit": 1}).json()
    assert (page["data"][0]["base"]["text"], page["data"][0]["gain"]) == (None, None)


def test_of_another_tenants_evaluation_nothing_is_known(cast: Cast) -> None:
    job = trained(cast.alice)
    evaluate()
    for path in ("evaluation", "evaluation/examples"):
        theirs = cast.charlie.client.get(f"{JOBS}/{job['id']}/{path}")
        missing = cast.charlie.client.get(f"{JOBS}/ftjob-{'0' * 32}/{path}")
        assert theirs.status_code == missing.status_code == 404
        assert orjson.loads(theirs.content.replace(job["id"].encode(), b"X")) == orjson.loads(
            missing.content.replace(f"ftjob-{'0' * 32}".encode(), b"X")
        )


def test_a_recipe_names_the_metric_that_decides(cast: Cast) -> None:
    rows = [{"text": f"t{number}", "label": "positive" if number % 2 else "negative"} for number in range(12)]
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    file = cast.alice.client.upload(content, purpose="fine-tune").json()["id"]
    job = trained(
        cast.alice, training_file=file, validation_file=file, recipe="text-classification", column_mapping=None
    )  # fmt: skip
    evaluate(lambda row: ("positive", row["reference"]))
    assert evaluation_of(cast.alice, job)["headline"] == "accuracy"
