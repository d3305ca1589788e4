"""Fine-tuned models from their registration to their deletion, as keys see them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from catalog.manifests import canonical, is_genuine
from catalog.models import BaseModel, FineTunedModel
from catalog.publishing import check_suffix, delete_leftover_bytes, mark_ready, mark_refused, register_adapter
from catalog.services import register_model, retire_model
from common.errors import HoneError
from common.storage import discard_blobs
from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tenants.models import Organization
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.services import storage_root
from tests.support.adapter_files import adapter_contents
from tests.support.adapters import publish, register, stored
from tests.support.blobs import blobs
from tests.support.cast import MODEL, ApiClient, Cast, Member
from tests.support.facts import query_owner
from tests.support.model import BATCH, ONLINE, add_model
from tests.support.tables import rows_of


@pytest.fixture(autouse=True)
def base(cast: Cast, tmp_path: Path) -> BaseModel:
    return add_model(tmp_path / "model")


def names(client: ApiClient) -> list[str]:
    return [entry["id"] for entry in client.get("/v1/models").json()["data"]]


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def restricted(member: Member, *models: str) -> ApiClient:
    """A key that may use these models alone."""
    made = create_api_key(project=member.project, name="k", actor="system", allowed_models=list(models))
    return ApiClient(made.token)


def test_a_name_says_base_owner_suffix_and_job(cast: Cast) -> None:
    job = "ftjob-01a216cdd1cd740bb108dbd576a8ed1"
    name = f"ft:{MODEL}:alice-s-company:v1.2_a:8dbd576a8ed1"
    assert register(cast.alice, job=job, suffix="v1.2_a").name == name
    assert register(cast.alice, job=job, suffix="v1.2_a", step=20).name == f"{name}:ckpt-step-20"


@pytest.mark.parametrize("title", ["全球", "---", "", "A" * 300])
def test_an_organisation_of_any_name_has_a_part_in_it(cast: Cast, title: str) -> None:
    with tenant_scope(cast.alice.organization.id):
        Organization.objects.filter(id=cast.alice.organization.id).update(name=title[:200])
    owner = register(cast.alice).name.split(":")[2]
    assert owner == ("a" * 20 if title.startswith("A") else "org")


@pytest.mark.parametrize("suffix", ["a:b", "a/b", "a b", "x" * 65, "ü"])
def test_a_suffix_that_cannot_stand_in_a_name(suffix: str) -> None:
    with pytest.raises(HoneError, match="'suffix' takes"):
        check_suffix(suffix)
    assert check_suffix("x" * 64) == "x" * 64


def test_registering_again_makes_no_second_model(cast: Cast) -> None:
    first = register(cast.alice, job="ftjob-1", step=3)
    before = rows_of(cast.alice.organization.id)
    assert register(cast.alice, job="ftjob-1", step=3).id == first.id
    assert rows_of(cast.alice.organization.id) == before


def test_the_model_has_bytes_of_its_own(cast: Cast, base: BaseModel) -> None:
    files = stored(cast.alice, adapter_contents())
    model = register_adapter(
        project=cast.alice.project, base=base, job_id="ftjob-1", step=None, suffix="", files=files, manifest={}
    )
    discard_blobs(*(file.storage_key for file in files.values()))
    own = {path: (storage_root() / file["storage_key"]).read_bytes() for path, file in model.files.items()}
    assert own == adapter_contents()


def test_what_is_refused_leaves_nothing_behind(cast: Cast, base: BaseModel) -> None:
    files = stored(cast.alice, adapter_contents(weights=b"\x80\x04."))
    before = blobs(), rows_of(cast.alice.organization.id)
    with pytest.raises(HoneError, match="is not a safetensors file"):
        register_adapter(
            project=cast.alice.project, base=base, job_id="ftjob-1", step=None, suffix="", files=files, manifest={}
        )
    assert (blobs(), rows_of(cast.alice.organization.id)) == before


def test_nobody_calls_a_model_that_has_not_been_tried(cast: Cast) -> None:
    model = register(cast.alice)
    assert names(cast.alice.client) == [MODEL]
    shown = cast.alice.client.get(f"/v1/models/{model.name}").json()
    assert (shown["status"], shown["refusal"]) == ("publishing", None)
    for path in ("download", "manifest"):
        assert error(cast.alice.client.get(f"/v1/models/{model.name}/{path}")) == (404, "model_not_found")
    mark_ready(model=model)
    mark_ready(model=model)
    assert names(cast.alice.client) == [model.name, MODEL]
    assert query_owner("SELECT count(*) FROM tenants_auditevent WHERE action = 'model.ready'") == [(1,)]


def test_a_refused_model_says_why_and_never_becomes_ready(cast: Cast) -> None:
    model = register(cast.alice)
    mark_refused(model=model, reason="It answers as the base does.")
    assert mark_ready(model=model).state == FineTunedModel.State.REFUSED
    shown = cast.alice.client.get(f"/v1/models/{model.name}").json()
    assert (shown["status"], shown["refusal"]) == ("refused", "It answers as the base does.")
    assert names(cast.alice.client) == [MODEL]
    assert cast.alice.client.delete(f"/v1/models/{model.name}").status_code == 200


def test_a_model_as_it_is_shown(cast: Cast) -> None:
    model = publish(cast.alice, step=7)
    shown = cast.alice.client.get(f"/v1/models/{model.name.replace(':', '%3A')}").json()
    assert shown == {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": cast.alice.organization.wire_id,
        "context_length": 4_096,
        "capabilities": ["chat", "completions"],
        "revision": "0" * 64,
        "base": MODEL,
        "alias_of": None,
        "job": model.job,
        "step": 7,
        "status": "ready",
        "refusal": None,
    }
    assert cast.alice.client.get("/v1/models").json()["data"][0] == shown


def test_lists_of_models_may_name_a_tuned_model_or_its_base(cast: Cast) -> None:
    one, two = sorted((publish(cast.alice), publish(cast.alice)), key=lambda model: model.name)
    assert names(restricted(cast.alice, one.name)) == [one.name]
    assert names(restricted(cast.alice, MODEL)) == [one.name, two.name, MODEL]
    assert names(restricted(cast.alice)) == []
    policy = f"/v1/organization/projects/{cast.alice.project.wire_id}/model_permissions"
    for mode, model_ids, expected in (
        ("allow_list", [one.name], [one.name]),
        ("deny_list", [one.name], [two.name, MODEL]),
        ("deny_list", [MODEL], []),
        ("allow_list", [MODEL], [one.name, two.name, MODEL]),
    ):
        answer = cast.alice.admin.post(policy, {"mode": mode, "model_ids": model_ids})
        assert answer.status_code == 200, answer.content
        assert names(cast.alice.client) == expected
    foreign = policy.replace(cast.alice.project.wire_id, cast.charlie.project.wire_id)
    answer = cast.charlie.admin.post(foreign, {"mode": "deny_list", "model_ids": [one.name]})
    assert error(answer) == (404, "model_not_found")


def test_a_model_on_a_base_that_has_changed_or_gone_is_not_served(cast: Cast, base: BaseModel, tmp_path: Path) -> None:
    model = publish(cast.alice)
    manifest = tmp_path / "model" / "hone-model.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"revision": "1" * 64}))
    register_model(directory=tmp_path / "model", online=ONLINE, batch={"24h": BATCH})
    assert names(cast.alice.client) == [MODEL]
    assert cast.alice.client.get(f"/v1/models/{model.name}").json()["status"] == "outdated"
    add_model(tmp_path / "model")
    assert names(cast.alice.client) == [model.name, MODEL]
    retire_model(name=MODEL)
    assert names(cast.alice.client) == []


def test_a_deleted_model_is_gone_with_its_bytes_and_its_name_stays_taken(cast: Cast) -> None:
    before = blobs()
    model = publish(cast.alice, job="ftjob-1")
    stored_files = [file["storage_key"] for file in model.files.values()]
    answer = cast.alice.client.delete(f"/v1/models/{model.name}")
    assert (answer.status_code, answer.json()) == (200, {"id": model.name, "object": "model", "deleted": True})
    assert names(cast.alice.client) == [MODEL]
    assert [key for key in stored_files if (storage_root() / key).exists()] == []
    assert len(blobs()) == len(before) + 2  # the job's own
    for method in ("GET", "DELETE"):
        assert error(cast.alice.client.call(method, f"/v1/models/{model.name}")) == (404, "model_not_found")
    assert register(cast.alice, job="ftjob-1").state == FineTunedModel.State.DELETED
    assert query_owner("SELECT state, files::text FROM catalog_finetunedmodel") == [("deleted", "{}")]


def test_bytes_that_could_not_be_deleted_are_deleted_later(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    model = publish(cast.alice)
    with monkeypatch.context() as broken:
        broken.setattr("catalog.publishing.delete_blob", _away)
        assert cast.alice.client.delete(f"/v1/models/{model.name}").status_code == 200
        delete_leftover_bytes()
    kept = [file["storage_key"] for file in model.files.values()]
    assert [(storage_root() / key).exists() for key in kept] == [True, True]
    delete_leftover_bytes()
    assert [(storage_root() / key).exists() for key in kept] == [False, False]


def test_a_model_that_an_alias_stands_for_is_not_deleted(cast: Cast) -> None:
    model = publish(cast.alice)
    cast.alice.client.post("/v1/models/aliases", {"alias": "bot", "model": model.name})
    before = rows_of(cast.alice.organization.id)
    answer = cast.alice.client.delete(f"/v1/models/{model.name}")
    assert error(answer) == (409, "model_in_use")
    assert "the alias 'bot' stands for it" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert rows_of(cast.alice.organization.id) == before
    assert error(cast.alice.client.delete("/v1/models/bot")) == (409, "conflict")
    cast.alice.client.delete("/v1/models/aliases/bot")
    assert cast.alice.client.delete(f"/v1/models/{model.name}").status_code == 200


def test_the_archive_holds_the_adapter_and_a_manifest_that_is_signed(cast: Cast) -> None:
    model = publish(cast.alice)
    answer = cast.alice.client.get(f"/v1/models/{model.name}/download")
    content = answer.getvalue()
    folder = model.name.replace(":", "-")
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{folder}.tar"'
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]  # plain files
    assert sorted(files) == [f"{folder}/{name}" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "manifest.json")]
    envelope = json.loads(files[f"{folder}/manifest.json"])
    assert envelope == cast.alice.client.get(f"/v1/models/{model.name}/manifest").json()
    manifest = envelope["manifest"]
    assert manifest["files"][ADAPTER_WEIGHTS]["bytes"] == len(files[f"{folder}/{ADAPTER_WEIGHTS}"])
    assert (manifest["name"], manifest["base_revision"], manifest["dataset"]) == (
        model.name, "0" * 64, {"sha256": "d" * 64},
    )  # fmt: skip
    key = cast.alice.client.get("/v1/signing_key").json()
    assert key == cast.charlie.client.get("/v1/signing_key").json()
    assert (key["id"], key["algorithm"]) == (envelope["signature"]["key_id"], "ed25519")
    assert is_genuine(envelope, pem=key["public_key"])
    assert load_pem_public_key(key["public_key"].encode()).public_bytes_raw()  # type: ignore[union-attr]  # Ed25519


def test_a_manifest_that_was_changed_is_not_genuine(cast: Cast) -> None:
    envelope = publish(cast.alice).manifest
    pem = cast.alice.client.get("/v1/signing_key").json()["public_key"]
    assert is_genuine(envelope, pem=pem)
    assert not is_genuine(envelope | {"manifest": envelope["manifest"] | {"rank": 7}}, pem=pem)
    assert not is_genuine(envelope | {"signature": envelope["signature"] | {"value": "AAAA"}}, pem=pem)
    assert not is_genuine({"manifest": envelope["manifest"]}, pem=pem)
    assert canonical({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'.encode()


def test_only_a_key_with_the_right_takes_weights_home(cast: Cast) -> None:
    model = publish(cast.alice)
    scopes = frozenset({"models.read", "models.write"})
    narrow = ApiClient(create_api_key(project=cast.alice.project, name="k", actor="system", scopes=scopes).token)
    assert error(narrow.get(f"/v1/models/{model.name}/download")) == (403, "insufficient_scope")
    assert narrow.get(f"/v1/models/{model.name}").status_code == 200


def test_weights_that_the_storage_cannot_give_are_an_error_and_no_broken_stream(cast: Cast) -> None:
    model = publish(cast.alice)
    (storage_root() / model.files[ADAPTER_WEIGHTS]["storage_key"]).unlink()
    assert error(cast.alice.client.get(f"/v1/models/{model.name}/download")) == (503, "service_unavailable")


def test_limits_of_a_tuned_model_are_its_own(cast: Cast) -> None:
    model = publish(cast.alice)
    limits = f"/v1/organization/projects/{cast.alice.project.wire_id}/rate_limits"
    assert [entry["model"] for entry in cast.alice.admin.get(limits).json()["data"]] == [model.name, MODEL]
    answer = cast.alice.admin.post(f"{limits}/rl-{model.name}", {"max_requests_per_1_minute": 3})
    assert (answer.status_code, answer.json()["max_requests_per_1_minute"]) == (200, 3)
    foreign = f"/v1/organization/projects/{cast.charlie.project.wire_id}/rate_limits/rl-{model.name}"
    assert error(cast.charlie.admin.post(foreign, {"max_requests_per_1_minute": 3})) == (404, "not_found")


def test_whoami_names_tuned_models_and_no_alias(cast: Cast) -> None:
    model = publish(cast.alice)
    cast.alice.client.post("/v1/models/aliases", {"alias": "bot", "model": model.name})
    assert cast.alice.client.get("/v1/whoami").json()["models"] == [model.name, MODEL]


def _away(key: str) -> None:
    raise HoneError("service_unavailable", "The file store is away; try again")
