"""Batches that ask fine-tuned models: which version, whose, at what price, and how a node gets the adapter."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from batches.closing import close_due_batches
from catalog.models import FineTunedModel
from catalog.publishing import delete_model
from catalog.services import TokenPrice, TunedPrices, retire_model
from inference_workers.protocol import ADAPTER_WEIGHTS, AdapterRef, decode
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.support.adapters import publish, register
from tests.support.cast import MODEL, ApiClient, Cast, Member
from tests.support.facts import accounts_agree, leases, query_owner
from tests.support.model import add_model
from tests.support.rows import cancel, create, jsonl, line, quote, read_file, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Worker, result, run_control


def ask(model: FineTunedModel | str, number: int = 1) -> dict[str, Any]:
    """A line for that model."""
    name = model if isinstance(model, str) else model.name
    good = line(number)
    return good | {"body": good["body"] | {"model": name}}


def alias(member: Member, model: FineTunedModel, name: str = "bot") -> None:
    answer = member.client.post(f"/v1/models/aliases/{name}", {"model": model.name})
    assert answer.status_code == 200, answer.content


def test_a_batch_of_several_models_becomes_shards_of_each_on_the_one_base(cast: Cast) -> None:
    one, two = publish(cast.alice), publish(cast.alice)
    batch = submit(cast.alice, jsonl([ask(one, 1), ask(MODEL, 2), ask(two, 3), ask(one, 4)]))
    run_control()
    assert {lease.model for kind in ("batch_shard", "tuned_shard") for lease in leases(kind)} == {MODEL}
    assert (len(leases("batch_shard")), len(leases("tuned_shard"))) == (1, 2)
    worker = Worker()
    answered: dict[str, list[int]] = {}
    for _ in range(3):
        grant = worker.lease()
        rows = grant.rows()
        asked = {row["body"]["model"] for row in rows}
        answered[asked.pop()] = sorted(row["line"] for row in rows)
        grant.put(0, [result(row["line"]) for row in rows])
        assert grant.complete().status_code == 200
    assert answered == {one.name: [1, 4], two.name: [3], MODEL: [2]}
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 4)
    assert accounts_agree(batch)
    usage = query_owner("SELECT model, sum(requests) FROM metering_usageevent GROUP BY model ORDER BY model")
    assert usage == [*sorted((model.name, n) for model, n in ((one, 2), (two, 1))), (MODEL, 1)]


def test_a_shard_names_its_adapter_and_its_holder_alone_gets_the_bytes(cast: Cast) -> None:
    model = publish(cast.alice)
    submit(cast.alice, jsonl([ask(model)]))
    submit(cast.charlie, jsonl([line(1)]))
    run_control()
    worker = Worker()
    grants = [worker.lease(), worker.lease()]
    tuned, plain = sorted(grants, key=lambda grant: grant.work["adapter"] is None)
    reference = decode(AdapterRef, tuned.work["adapter"])
    assert (reference.name, reference.rank, reference.address) == (model.name, model.rank, model.address)
    for path, file in reference.files.items():
        content = worker.call("GET", f"leases/{tuned.id}/adapter/{path}", lease=tuned).getvalue()
        assert (sha256(content).hexdigest(), len(content)) == (file.sha256, file.bytes)
    for grant, path in ((plain, ADAPTER_WEIGHTS), (tuned, "evil.py")):
        answer = worker.call("GET", f"leases/{grant.id}/adapter/{path}", lease=grant)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    stolen = worker.call("GET", f"leases/{tuned.id}/adapter/{ADAPTER_WEIGHTS}", lease=plain)
    assert (stolen.status_code, stolen.json()["error"]["code"]) == (409, "lease_lost")


def test_a_node_whose_engine_takes_no_adapters_is_given_none(cast: Cast) -> None:
    submit(cast.alice, jsonl([ask(publish(cast.alice))]))
    run_control()
    assert Worker().request_lease(kinds=["batch_shard"]).status_code == 204


def test_an_alias_is_what_it_stood_for_when_the_batch_was_created(cast: Cast) -> None:
    old, new = publish(cast.alice), publish(cast.alice)
    alias(cast.alice, old)
    batch = submit(cast.alice, jsonl([ask("bot")]))
    alias(cast.alice, new)
    run_control()
    worker = Worker()
    grant = worker.lease()
    (row,) = grant.rows()
    assert (row["body"]["model"], grant.work["adapter"]["name"]) == (old.name, old.name)
    grant.fail(retryable=False)
    run_control()
    assert retrieve(cast.alice, batch)["model"] == old.name
    again = cast.alice.client.post(f"/v1/batches/{batch['id']}/retry").json()
    run_control()
    assert worker.lease().rows()[0]["body"]["model"] == old.name
    assert again["retry_of"] == batch["id"]
    submit(cast.alice, jsonl([ask("bot")]))
    run_control()
    assert worker.lease().rows()[0]["body"]["model"] == new.name


def test_a_tuned_model_costs_what_its_base_costs_unless_there_are_prices_for_tuned_ones(
    cast: Cast, tmp_path: Path
) -> None:
    model = publish(cast.alice)
    lines = jsonl([ask(model, 1), ask(MODEL, 2)])
    prices = {entry["model"]: entry["input_nanos_per_token"] for entry in quote(cast.alice, lines)["models"]}
    assert prices == {model.name: 50, MODEL: 50}
    dear = TokenPrice(150, 75, 300)
    add_model(tmp_path / "model", tuned=TunedPrices(online=dear, batch={"24h": dear}))
    prices = {entry["model"]: entry["input_nanos_per_token"] for entry in quote(cast.alice, lines)["models"]}
    assert prices == {model.name: 150, MODEL: 50}
    batch = submit(cast.alice, lines)
    run_control()
    Worker().answer_all(prompt_tokens=10, completion_tokens=5)
    run_control()
    assert retrieve(cast.alice, batch)["cost_nanos"] == 10 * 150 + 5 * 300 + 10 * 50 + 5 * 100


def test_a_model_that_is_not_ones_own_to_call_is_not_found(cast: Cast) -> None:
    strangers, untried = publish(cast.charlie), register(cast.alice)
    alias(cast.charlie, strangers, "theirs")
    for name in (strangers.name, untried.name, "theirs", "ft:little:nobody::0"):
        batch = create(cast.alice, cast.alice.client.upload(jsonl([ask(name)])).json()["id"]).json()
        run_control()
        ended = retrieve(cast.alice, batch)
        assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "model_not_found")
    assert leases("tuned_shard") == []


def test_a_permitted_project_runs_batches_on_it(cast: Cast) -> None:
    model = publish(cast.alice)
    with tenant_scope(cast.alice.organization.id):
        project = Project.objects.create(organization_id=cast.alice.organization.id, name="Second")
    token = create_api_key(project=project, name="second", actor="system").token
    other = Member(cast.alice.organization, project, token, cast.alice.admin_token)
    refused = submit(other, jsonl([ask(model)]))
    run_control()
    assert retrieve(other, refused)["errors"]["data"][0]["code"] == "model_not_found"
    path = f"/v1/fine_tuning/checkpoints/{model.name}/permissions"
    cast.alice.admin.post(path, {"project_ids": [project.wire_id]})
    batch = submit(other, jsonl([ask(model)]))
    run_control()
    assert Worker().answer_all() == 1
    run_control()
    done = retrieve(other, batch)
    assert done["status"] == "completed"
    assert len(read_file(other, done["output_file_id"])) == 1


def test_a_model_on_which_a_batch_runs_is_not_deleted(cast: Cast) -> None:
    model = publish(cast.alice)
    batch = submit(cast.alice, jsonl([ask(model)]))
    run_control()
    answer = cast.alice.client.delete(f"/v1/models/{model.name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_in_use")
    assert f"{batch['id']} runs on it" in answer.json()["error"]["message"]
    cancel(cast.alice, batch)
    run_control()
    assert cast.alice.client.delete(f"/v1/models/{model.name}").status_code == 200


def test_a_model_that_is_deleted_while_the_batch_is_validated_fails_it(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = publish(cast.alice)
    batch = submit(cast.alice, jsonl([ask(model)]))

    def delete_meanwhile(**_: object) -> None:
        at_once(lambda: delete_model(project=cast.alice.project, name=model.name, actor="system"))

    # After the lines have been read, before anything of them is committed.
    monkeypatch.setattr("batches.validation.check_funds", delete_meanwhile)
    run_control()
    ended = retrieve(cast.alice, batch)
    assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "model_not_found")
    assert leases("tuned_shard") == []


def test_what_is_queued_for_tuned_models_counts_for_their_base(cast: Cast) -> None:
    model = publish(cast.alice)
    limits = f"/v1/organization/projects/{cast.alice.project.wire_id}/rate_limits/rl-{MODEL}"
    cast.alice.admin.post(limits, {"batch_1_day_max_input_tokens": 60})
    first = submit(cast.alice, jsonl([ask(model)]))
    run_control()
    second = submit(cast.alice, jsonl([ask(MODEL)]))
    run_control()
    assert retrieve(cast.alice, first)["status"] == "in_progress"
    ended = retrieve(cast.alice, second)
    assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "token_limit_exceeded")
    assert f"'{MODEL}'" in ended["errors"]["data"][0]["message"]


def test_the_limit_of_a_tuned_model_is_its_own_too(cast: Cast) -> None:
    model, other = publish(cast.alice), publish(cast.alice)
    limits = f"/v1/organization/projects/{cast.alice.project.wire_id}/rate_limits/rl-{model.name}"
    cast.alice.admin.post(limits, {"batch_1_day_max_input_tokens": 1})
    batches = [submit(cast.alice, jsonl([ask(entry)])) for entry in (model, other)]
    run_control()
    assert [retrieve(cast.alice, batch)["status"] for batch in batches] == ["failed", "in_progress"]


def test_a_capped_batch_of_a_tuned_model_is_cut_into_shards_of_it(cast: Cast) -> None:
    model = publish(cast.alice)
    lines = jsonl([ask(model, number) for number in range(1, 5)])
    most = quote(cast.alice, lines)["max_cost_nanos"]
    batch = submit(cast.alice, lines, max_cost=most // 2 / 1e9)
    run_control()
    first = Worker().lease()
    assert 0 < first.work["rows"] < 4
    assert first.work["adapter"]["name"] == model.name
    assert query_owner("SELECT DISTINCT adapter_id IS NOT NULL FROM batches_shard") == [(True,)]
    assert retrieve(cast.alice, batch)["model"] == model.name


def test_rows_that_wait_for_a_base_that_is_withdrawn_fail(cast: Cast) -> None:
    model = publish(cast.alice)
    batch = submit(cast.alice, jsonl([ask(model)]))
    run_control()
    retire_model(name=MODEL)
    close_due_batches()
    run_control()
    (row,) = read_file(cast.alice, retrieve(cast.alice, batch)["error_file_id"])
    assert row["error"]["code"] == "model_not_found"
    assert model.name in row["error"]["message"]


def test_a_waiting_batch_of_a_tuned_model_knows_its_place_and_its_node(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([ask(publish(cast.alice))]))
    run_control()
    assert retrieve(cast.alice, batch)["waiting_reason"] == "no_node"
    Worker()
    shown = retrieve(cast.alice, batch)
    assert (shown["waiting_reason"], shown["queue_position"]) == ("queued", 1)


def test_a_node_is_told_which_adapters_have_been_deleted(cast: Cast) -> None:
    kept, untried, gone = publish(cast.alice), register(cast.charlie), publish(cast.charlie)
    assert cast.charlie.client.delete(f"/v1/models/{gone.name}").status_code == 200
    worker = Worker()
    asked = {"incarnation": worker.incarnation, "addresses": [kept.address, gone.address, untried.address, "f" * 64]}
    answer = worker.call("POST", f"nodes/{worker.node_id}/adapters", asked)
    assert (answer.status_code, answer.json()) == (200, {"drop": [gone.address, "f" * 64]})
    refused = worker.call("POST", f"nodes/{worker.node_id}/adapters", asked | {"incarnation": "other"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "node_replaced")


def test_a_stranger_cannot_use_an_alias_by_naming_it(cast: Cast) -> None:
    alias(cast.charlie, publish(cast.charlie))
    client = ApiClient(cast.alice.token)
    assert client.get("/v1/models/bot").json()["error"]["code"] == "model_not_found"
