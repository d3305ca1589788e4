"""Organisations and keys are made, ended and audited."""

import pytest

from common.errors import HoneError
from tenants.models import ApiKey, AuditEvent, Membership, Organization, Project
from tenants.permissions import ADMIN_SCOPES, PROJECT_SCOPES
from tenants.scope import tenant_scope
from tenants.services import create_admin_key, create_api_key, create_organization, revoke_key
from tests.support.cast import Cast
from tests.support.tables import rows_of


def counts() -> tuple[int, ...]:
    return tuple(model.all_tenants.count() for model in (Organization, Project, ApiKey, Membership, AuditEvent))


def test_an_organisation_is_made_whole_or_not_at_all(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr("tenants.services.create_admin_key", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        create_organization(name="Acme", owner_email="owner@acme.example")
    assert counts() == (0, 0, 0, 0, 0)


def test_a_key_is_revoked_once(cast: Cast) -> None:
    issued = create_api_key(project=cast.alice.project, name="second", actor="system")
    revoke_key(key=issued.key, actor="key_1")
    after_once = rows_of(cast.alice.organization.id)
    revoke_key(key=issued.key, actor="key_2")
    assert rows_of(cast.alice.organization.id) == after_once
    event = AuditEvent.all_tenants.get(action="api_key.revoked")
    assert (event.actor, event.subject) == ("key_1", issued.key.wire_id)


@pytest.mark.parametrize("scopes", [{"files.fly"}, {"keys.read"}, {"files.read", "root"}, set()])
def test_a_project_key_has_no_scopes_of_another_kind(cast: Cast, scopes: set[str]) -> None:
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(HoneError, match="A project key takes scopes of") as caught:
        create_api_key(project=cast.alice.project, name="k", actor="system", scopes=frozenset(scopes))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "scopes")
    assert rows_of(cast.alice.organization.id) == before


def test_an_admin_key_has_no_scopes_of_a_project(cast: Cast) -> None:
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(HoneError, match="admin key takes scopes of"):
        create_admin_key(
            organization_id=cast.alice.organization.id, name="k", actor="system", scopes=frozenset({"files.read"})
        )
    assert rows_of(cast.alice.organization.id) == before


def test_a_key_has_all_scopes_of_its_kind_unless_told_otherwise(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        scopes = dict(ApiKey.objects.values_list("kind", "scopes"))
    assert scopes == {"project": sorted(PROJECT_SCOPES), "admin": sorted(ADMIN_SCOPES)}


def test_every_change_through_the_api_is_audited_with_actor_and_request(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        key = ApiKey.objects.get(kind=ApiKey.Kind.PROJECT)
    created = cast.alice.client.upload(b"{}\n")
    deleted = cast.alice.client.delete(f"/v1/files/{created.json()['id']}")
    with tenant_scope(cast.alice.organization.id):
        events = AuditEvent.objects.filter(action__startswith="file.").order_by("id")
        assert [(event.actor, event.action, event.subject, event.request_id) for event in events] == [
            (key.wire_id, "file.created", created.json()["id"], created["x-request-id"]),
            (key.wire_id, "file.deleted", created.json()["id"], deleted["x-request-id"]),
        ]


def test_reading_is_not_audited(cast: Cast) -> None:
    cast.alice.client.upload(b"{}\n")
    before = rows_of(cast.alice.organization.id)["tenants_auditevent"]
    cast.alice.client.get("/v1/files")
    assert rows_of(cast.alice.organization.id)["tenants_auditevent"] == before
