"""The trial of a model on a node decides whether anybody may call it."""

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from catalog.models import FineTunedModel
from finetuning.canaries import start_canary
from inference_workers.protocol import ADAPTER_WEIGHTS, AdapterRef, LeaseKind, decode
from tenants.scope import tenant_scope
from tests.services import storage_root
from tests.support.adapters import register
from tests.support.cast import MODEL, Cast
from tests.support.facts import leases, let_back_off_pass
from tests.support.model import add_model
from tests.support.worker import Grant, Worker


@pytest.fixture
def model(cast: Cast, tmp_path: Path) -> FineTunedModel:
    """One that is being tried."""
    add_model(tmp_path / "model")
    model = register(cast.alice)
    with tenant_scope(cast.alice.organization.id):
        assert start_canary(model=model).lease_id == start_canary(model=model).lease_id
    return model


def lease(worker: Worker) -> Grant:
    answer = worker.request_lease(kinds=[LeaseKind.CANARY])
    assert answer.status_code == 200, answer.content
    grant = answer.json()
    assert (grant["kind"], grant["model"]) == ("canary", MODEL)
    return Grant(worker, grant["id"], grant["token"], grant["epoch"], grant["work"])


def shown(cast: Cast, model: FineTunedModel) -> dict[str, Any]:
    found: dict[str, Any] = cast.alice.client.get(f"/v1/models/{model.name}").json()
    return found


def test_a_model_that_passes_can_be_called_and_its_manifest_says_so(cast: Cast, model: FineTunedModel) -> None:
    assert len(leases("canary")) == 1
    grant = lease(Worker())
    reference = decode(AdapterRef, grant.work["adapter"])
    assert (reference.name, reference.address) == (model.name, model.address)
    content = grant.worker.call("GET", f"leases/{grant.id}/adapter/{ADAPTER_WEIGHTS}", lease=grant).getvalue()
    assert content == (storage_root() / model.files[ADAPTER_WEIGHTS]["storage_key"]).read_bytes()
    assert shown(cast, model)["status"] == "publishing"
    assert grant.complete().status_code == 200
    assert shown(cast, model)["status"] == "ready"
    manifest = cast.alice.client.get(f"/v1/models/{model.name}/manifest").json()["manifest"]
    assert manifest["evidence"] == {"canary": "passed"}


def test_a_model_that_is_refused_says_what_the_node_has_seen(cast: Cast, model: FineTunedModel) -> None:
    grant = lease(Worker())
    grant.fail("canary_refused", message="it answers as the base model does", retryable=False)
    found = shown(cast, model)
    assert (found["status"], found["refusal"]) == ("refused", "it answers as the base model does")
    assert grant.complete().status_code == 409
    assert shown(cast, model)["status"] == "refused"


def test_a_node_that_fails_leaves_the_trial_to_another_until_there_were_enough(
    cast: Cast, model: FineTunedModel, settings: Settings
) -> None:
    settings.LEASE_MAX_ATTEMPTS = 2
    lease(Worker()).fail("engine_died", message="out of memory")
    assert shown(cast, model)["status"] == "publishing"
    let_back_off_pass()
    lease(Worker(name="node-2")).fail("engine_unsound", message="the base has moved")
    found = shown(cast, model)
    assert (found["status"], found["refusal"]) == ("refused", "engine_unsound: the base has moved")


def test_a_model_that_was_deleted_during_its_trial_stays_deleted(cast: Cast, model: FineTunedModel) -> None:
    grant = lease(Worker())
    assert cast.alice.client.delete(f"/v1/models/{model.name}").status_code == 200
    answer = grant.worker.call("GET", f"leases/{grant.id}/adapter/{ADAPTER_WEIGHTS}", lease=grant)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert grant.complete().status_code == 200
    assert cast.alice.client.get(f"/v1/models/{model.name}").status_code == 404
