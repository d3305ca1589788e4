"""Who calls: every way of not being let in."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tenants.keys import new_secret
from tenants.models import ApiKey, Organization, Project
from tenants.scope import tenant_scope
from tenants.services import create_api_key, revoke_key, set_organization_status
from tests.support.cast import ApiClient, Cast
from tests.support.routes import public_operations
from tests.support.tables import rows_of

ROUTES = sorted({path for _, path, _ in public_operations()})


def refusal(answer: Any) -> tuple[int, str]:
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_answers_without_a_key(path: str) -> None:
    answer = Client().get(path)
    assert refusal(answer) == (401, "invalid_api_key")
    assert answer["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.json()["error"]["message"]


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "hone_sk_1_2", "Bearer\t"])
def test_a_header_that_is_no_bearer_token(header: str) -> None:
    assert refusal(Client().get("/v1/models", headers={"Authorization": header})) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "token",
    [
        "x", "sk-proj-abc", "hone_sk_", "hone_sk__", "hone_sk_a_b", "hone_xx_0123456789abcdef_" + "0" * 64,
        "hone_sk_0123456789abcdef_" + "0" * 64, "hone_sk_0123456789abcdef_" + "0" * 63, "ключ", "hone_sk_\0_\0",
        "hone_sk_" + "0" * 10_000, "hone_wk_0123456789abcdef_" + "0" * 64, "' OR 1=1 --", "a b c",
    ],
)  # fmt: skip
def test_an_unknown_key(database: None, token: str) -> None:
    answer = ApiClient(token).get("/v1/models")
    assert refusal(answer) == (401, "invalid_api_key")
    assert token not in answer.content.decode() or len(token) == 1


@pytest.mark.parametrize("change", [str.upper, lambda token: token[:-1], lambda token: token + "0",
                                    lambda token: token.replace("hone_sk_", "hone_ak_"),
                                    lambda token: token[:-1] + format(15 - int(token[-1], 16), "x")])  # fmt: skip
def test_a_key_that_was_not_copied_whole(cast: Cast, change: Any) -> None:
    assert refusal(ApiClient(change(cast.alice.token)).get("/v1/models")) == (401, "invalid_api_key")


def test_the_public_id_of_one_key_with_the_secret_of_another(cast: Cast) -> None:
    public, secret = cast.alice.token.rsplit("_", 1)[0], cast.charlie.token.rsplit("_", 1)[1]
    assert refusal(ApiClient(f"{public}_{secret}").get("/v1/models")) == (401, "invalid_api_key")


def test_the_scheme_is_read_in_any_case(cast: Cast) -> None:
    answer = Client().get("/v1/models", headers={"Authorization": f"bearer  {cast.alice.token}"})
    assert answer.status_code == 200


def test_a_revoked_key(cast: Cast) -> None:
    issued = create_api_key(project=cast.alice.project, name="second", actor="system")
    client = ApiClient(issued.token)
    assert client.get("/v1/models").status_code == 200
    revoke_key(key=issued.key, actor="system")
    before = rows_of(cast.alice.organization.id)
    answer = client.upload(b"{}\n")
    assert refusal(answer) == (401, "invalid_api_key")
    assert "revoked" in answer.json()["error"]["message"]
    assert rows_of(cast.alice.organization.id) == before
    assert cast.alice.client.get("/v1/models").status_code == 200


def test_a_key_ends_when_it_expires(cast: Cast) -> None:
    soon = create_api_key(project=cast.alice.project, name="short", actor="system", lifetime=timedelta(hours=1))
    assert ApiClient(soon.token).get("/v1/models").status_code == 200
    with tenant_scope(cast.alice.organization.id):
        ApiKey.objects.filter(id=soon.key.id).update(expires_at=timezone.now())
    answer = ApiClient(soon.token).get("/v1/models")
    assert refusal(answer) == (401, "invalid_api_key")
    assert "expired" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("days", "is_told"), [(6.9, True), (7.1, False), (None, False)])
def test_who_uses_a_key_in_its_last_week_is_told(cast: Cast, days: float | None, is_told: bool) -> None:
    lifetime = None if days is None else timedelta(days=days)
    issued = create_api_key(project=cast.alice.project, name="k", actor="system", lifetime=lifetime)
    expires_at = issued.key.expires_at
    expected = str(int(expires_at.timestamp())) if expires_at and is_told else None
    for path in ("/v1/models", "/v1/models/missing", f"/v1/files/file-{'0' * 32}/content"):
        assert ApiClient(issued.token).get(path).headers.get("hone-key-expires-at") == expected
    assert "hone-key-expires-at" not in cast.alice.client.get("/v1/models").headers


def test_a_suspended_organisation_keeps_its_data_and_can_do_nothing(cast: Cast) -> None:
    file_id = cast.alice.client.upload(b"{}\n").json()["id"]
    set_organization_status(
        organization=cast.alice.organization, status=Organization.Status.SUSPENDED, actor="system"
    )  # fmt: skip
    before = rows_of(cast.alice.organization.id)
    for answer in (cast.alice.client.get("/v1/files"), cast.alice.client.delete(f"/v1/files/{file_id}")):
        assert refusal(answer) == (403, "organization_inactive")
    assert rows_of(cast.alice.organization.id) == before
    assert cast.charlie.client.get("/v1/files").status_code == 200
    set_organization_status(organization=cast.alice.organization, status=Organization.Status.ACTIVE, actor="system")
    assert cast.alice.client.get(f"/v1/files/{file_id}").status_code == 200


def test_an_archived_project(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        Project.objects.update(status=Project.Status.ARCHIVED)
    before = rows_of(cast.alice.organization.id)
    assert refusal(cast.alice.client.upload(b"{}\n")) == (403, "organization_inactive")
    assert rows_of(cast.alice.organization.id) == before


def test_headers_that_agree_with_the_key(cast: Cast) -> None:
    headers = {
        "OpenAI-Organization": cast.alice.organization.wire_id,
        "OpenAI-Project": cast.alice.project.wire_id,
    }
    assert cast.alice.client.get("/v1/models", headers=headers).status_code == 200
    assert cast.alice.client.get("/v1/models", headers=dict.fromkeys(headers, "")).status_code == 200


@pytest.mark.parametrize("header", ["OpenAI-Organization", "OpenAI-Project"])
def test_headers_that_name_somebody_else(cast: Cast, header: str) -> None:
    known = {"OpenAI-Organization": cast.charlie.organization, "OpenAI-Project": cast.charlie.project}[header].wire_id
    before = rows_of(cast.alice.organization.id)
    answers = [cast.alice.client.get("/v1/models", headers={header: value}) for value in (known, "nobody")]
    assert [refusal(answer) for answer in answers] == [(401, "organization_mismatch")] * 2
    assert answers[0].content == answers[1].content
    assert rows_of(cast.alice.organization.id) == before


def test_an_admin_key_belongs_to_no_project(cast: Cast) -> None:
    answer = cast.alice.admin.get("/v1/models", headers={"OpenAI-Project": cast.alice.project.wire_id})
    assert refusal(answer) == (401, "organization_mismatch")


def test_the_last_use_of_a_key_is_kept_to_the_minute(cast: Cast) -> None:
    def last_use() -> Any:
        with tenant_scope(cast.alice.organization.id):
            return ApiKey.objects.get(kind=ApiKey.Kind.PROJECT).last_used_at

    assert last_use() is None
    cast.alice.client.get("/v1/models")
    first = last_use()
    assert timezone.now() - first < timedelta(seconds=60)
    cast.alice.client.get("/v1/models")
    assert last_use() == first


def test_a_refused_key_counts_as_unused(cast: Cast) -> None:
    cast.alice.client.get("/v1/models", headers={"OpenAI-Project": "another"})
    with tenant_scope(cast.alice.organization.id):
        assert ApiKey.objects.get(kind=ApiKey.Kind.PROJECT).last_used_at is None


def test_a_secret_has_256_bits_and_only_its_keyed_digest_is_stored(cast: Cast) -> None:
    made = new_secret("hone_sk_")
    assert len(bytes.fromhex(made.token.rpartition("_")[2])) == 32
    assert len(made.digest) == 32
    with tenant_scope(cast.alice.organization.id):
        stored = [bytes(key.digest) for key in ApiKey.objects.all()]
    assert len(set(stored)) == 2
    assert bytes.fromhex(cast.alice.token.rpartition("_")[2]) not in stored
