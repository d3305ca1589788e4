"""The first wall: the scope."""

from uuid import uuid4

import pytest
from django.db import connection, transaction

from tenants.models import Organization, Project
from tenants.scope import TenantScopeError, current_organization, tenant_scope
from tests.support.cast import Cast
from tests.support.tables import query
from tests.support.threads import at_once

SETTING = "SELECT NULLIF(current_setting('hone.org', true), '')"


def test_without_a_scope_there_is_no_tenant() -> None:
    with pytest.raises(TenantScopeError, match="no tenant scope is active"):
        current_organization()


def test_without_a_scope_a_tenant_model_refuses(cast: Cast) -> None:
    with pytest.raises(TenantScopeError, match="no tenant scope is active"):
        Project.objects.count()


def test_in_a_scope_a_tenant_model_has_that_tenants_rows(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        assert list(Project.objects.all()) == [cast.alice.project]
        assert list(Project.objects.filter(id=cast.charlie.project.id)) == []


def test_the_visible_escape_crosses_tenants(cast: Cast) -> None:
    assert set(Project.all_tenants.all()) == {cast.alice.project, cast.charlie.project}


def test_a_scope_inside_the_same_scope_joins_it(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        with tenant_scope(cast.alice.organization.id):
            Project.objects.update(name="changed")
        assert current_organization() == cast.alice.organization.id
        transaction.set_rollback(True)
    assert Project.all_tenants.get(id=cast.alice.project.id).name == "Default project"


def test_a_scope_inside_anothers_scope_is_a_bug(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        with (
            pytest.raises(TenantScopeError, match="opened inside the scope"),
            tenant_scope(cast.charlie.organization.id),
        ):
            pass
        assert current_organization() == cast.alice.organization.id


def test_a_scope_inside_an_open_transaction_is_a_bug(cast: Cast) -> None:
    # The setting would live on in that transaction after the scope.
    with (
        transaction.atomic(),
        pytest.raises(RuntimeError, match="durable atomic block"),
        tenant_scope(cast.alice.organization.id),
    ):
        pass
    with pytest.raises(TenantScopeError):
        current_organization()


def test_a_connection_forgets_the_tenant_after_the_scope(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        assert query(SETTING) == [(str(cast.alice.organization.id),)]
    assert query(SETTING) == [(None,)]


def test_an_error_in_a_scope_undoes_it_and_ends_it(cast: Cast) -> None:
    def change_and_fail() -> None:
        with tenant_scope(cast.alice.organization.id):
            Project.objects.update(name="changed")
            raise RuntimeError("undo")

    with pytest.raises(RuntimeError, match="undo"):
        change_and_fail()
    assert not Project.all_tenants.filter(name="changed").exists()
    assert query(SETTING) == [(None,)]
    with pytest.raises(TenantScopeError):
        current_organization()


def test_a_scope_belongs_to_one_thread(cast: Cast) -> None:
    def look() -> int:
        with pytest.raises(TenantScopeError):
            current_organization()
        return int(query("SELECT count(*) FROM tenants_project")[0][0])

    with tenant_scope(cast.alice.organization.id):
        assert at_once(look) == [0]


def test_scopes_of_two_tenants_at_once_do_not_mix(cast: Cast) -> None:
    def names(organization: Organization) -> list[str]:
        found = []
        for _ in range(20):
            with tenant_scope(organization.id):
                found += [str(row[0]) for row in query("SELECT organization_id FROM tenants_project")]
        return found

    alice, charlie = cast.alice.organization, cast.charlie.organization
    assert at_once(lambda: names(alice), lambda: names(charlie)) == [[str(alice.id)] * 20, [str(charlie.id)] * 20]


def test_the_scope_of_nobody_is_empty(cast: Cast) -> None:
    with tenant_scope(uuid4()):
        assert Project.objects.count() == 0
        assert Organization.objects.count() == 0
        assert not connection.get_autocommit()
