"""Administration through the unmodified ``openai`` SDK, strict, against a real server."""

from pathlib import Path

import openai
import pytest
from openai import omit

from tests.support.cast import MODEL, ApiClient, Cast
from tests.support.everything import make_everything
from tests.support.model import add_model
from tests.support.sdk import async_sdk, sdk
from tests.support.server import Server


@pytest.fixture
def model(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path)


def test_an_admin_key_from_creation_to_deletion(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        keys = client.admin.organization.admin_api_keys
        made = keys.create(name="Robot", expires_in_seconds=3_600)
        assert made.value.startswith("hone_ak_")
        assert made.expires_at == made.created_at + 3_600
        assert (made.object, made.name, made.owner.type) == ("organization.admin_api_key", "Robot", "user")
        assert made.redacted_value in f"{made.value.rpartition('_')[0]}_***"
        shown = keys.retrieve(made.id)
        assert shown.model_dump() == made.model_dump(exclude={"value"})
        assert ApiClient(made.value).get("/v1/organization/admin_api_keys").status_code == 200
        assert [key.name for key in keys.list(order="asc")] == ["First admin key", "Robot"]
        deleted = keys.delete(made.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "organization.admin_api_key.deleted", True)
        with pytest.raises(openai.NotFoundError):
            keys.retrieve(made.id)
        assert ApiClient(made.value).get("/v1/organization/admin_api_keys").status_code == 401
    assert made.value not in server.log()


def test_a_project_from_creation_to_its_archive(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        projects = client.admin.organization.projects
        made = projects.create(name="Support")
        assert (made.object, made.name, made.status, made.archived_at) == (
            "organization.project", "Support", "active", None,
        )  # fmt: skip
        assert projects.retrieve(made.id) == made
        assert projects.update(made.id, name="Sales").name == "Sales"
        archived = projects.archive(made.id)
        assert archived.status == "archived"
        assert archived.archived_at is not None
        assert projects.archive(made.id) == archived
        assert [project.id for project in projects.list()] == [cast.alice.project.wire_id]
        assert [project.id for project in projects.list(include_archived=True)] == [
            made.id, cast.alice.project.wire_id,
        ]  # fmt: skip
        with pytest.raises(openai.ConflictError):
            projects.update(made.id, name="Again")


def test_people_of_the_organisation_and_of_a_project(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        users = client.admin.organization.users
        (bob,) = users.list(emails=["Bob@example.com"])
        assert (bob.object, bob.email, bob.role) == ("organization.user", "bob@example.com", "developer")
        assert users.retrieve(bob.id) == bob
        assert users.update(bob.id, role="billing").role == "billing"
        assert users.update(bob.id, role="reader").role == "viewer"
        members = client.admin.organization.projects.users
        project_id = cast.alice.project.wire_id
        added = members.create(project_id, user_id=bob.id, role="member")
        assert (added.object, added.id, added.role) == ("organization.project.user", bob.id, "member")
        assert members.retrieve(bob.id, project_id=project_id) == added
        assert members.update(bob.id, project_id=project_id, role="owner").role == "owner"
        assert [user.id for user in members.list(project_id)] == [bob.id]
        assert members.delete(bob.id, project_id=project_id).deleted
        assert members.create(project_id, email="bob@example.com", role="member").id == bob.id
        assert users.delete(bob.id).object == "organization.user.deleted"
        assert list(members.list(project_id)) == []
        assert [user.email for user in users.list()] == ["alice@example.com"]


def test_a_service_account_and_its_keys(server: Server, cast: Cast) -> None:
    project_id = cast.alice.project.wire_id
    with sdk(server, cast.alice) as client:
        accounts = client.admin.organization.projects.service_accounts
        made = accounts.create(project_id, name="CI")
        assert made.api_key is not None
        assert (made.object, made.role, made.api_key.name) == (
            "organization.project.service_account", "member", "Secret Key",
        )  # fmt: skip
        other = accounts.api_keys.create(
            made.id, project_id=project_id, name="Second", scopes=["files.read"], expires_in_seconds=60
        )
        assert other.expires_at == other.created_at + 60
        tokens = [made.api_key.value, other.value]
        assert [ApiClient(token).get("/v1/files").status_code for token in tokens] == [200, 200]
        alone = accounts.create(project_id, name="Alone", create_service_account_only=True)
        assert (alone.api_key, alone.role) == (None, "none")
        changed = accounts.update(made.id, project_id=project_id, name="Build", role="owner")
        assert (changed.name, changed.role) == ("Build", "owner")
        assert accounts.retrieve(made.id, project_id=project_id) == changed
        assert [account.id for account in accounts.list(project_id)] == [alone.id, made.id]
        keys = client.admin.organization.projects.api_keys
        shown = keys.retrieve(other.id, project_id=project_id)
        assert shown.owner.service_account is not None
        assert (shown.owner.type, shown.owner.service_account.name) == ("service_account", "Build")
        assert accounts.delete(made.id, project_id=project_id).deleted
        assert [ApiClient(token).get("/v1/files").status_code for token in tokens] == [401, 401]
        assert [account.id for account in accounts.list(project_id)] == [alone.id]


def test_keys_of_a_project(server: Server, cast: Cast) -> None:
    project_id = cast.alice.project.wire_id
    with sdk(server, cast.alice) as client:
        keys = client.admin.organization.projects.api_keys
        (first,) = keys.list(project_id)
        assert first.owner.user is not None
        assert (first.owner.user.email, first.owner.user.role) == ("alice@example.com", "owner")
        assert (first.object, first.owner_project_access) == ("organization.project.api_key", "active")
        narrowed = keys.update(first.id, project_id=project_id, scopes=["files.read"], expires_in_seconds=3_600)
        assert narrowed.expires_at is not None
        assert narrowed.model_extra == {"scopes": ["files.read"], "allowed_models": None}
        assert keys.retrieve(first.id, project_id=project_id) == narrowed
        with pytest.raises(openai.PermissionDeniedError, match=r"'files\.write'"):
            client.files.create(file=b"{}", purpose="batch")
        assert "files.write" in (keys.update(first.id, project_id=project_id, scopes=[]).model_extra or {})["scopes"]
        assert keys.delete(first.id, project_id=project_id).deleted
        assert list(keys.list(project_id)) == []
        with pytest.raises(openai.NotFoundError):
            keys.delete(first.id, project_id=project_id)


def test_limits_and_models_of_a_project(server: Server, cast: Cast, tmp_path: Path) -> None:
    for name in (MODEL, "other"):
        add_model(tmp_path / name, name=name)
    project_id = cast.alice.project.wire_id
    with sdk(server, cast.alice) as client:
        limits = client.admin.organization.projects.rate_limits
        little, other = limits.list_rate_limits(project_id)
        assert (little.object, little.model, other.model) == ("project.rate_limit", MODEL, "other")
        assert [limit.id for limit in limits.list_rate_limits(project_id, limit=1)] == [little.id, other.id]
        assert [limit.id for limit in limits.list_rate_limits(project_id, before=other.id).data] == [little.id]
        changed = limits.update_rate_limit(
            little.id, project_id=project_id, max_requests_per_1_minute=7, batch_1_day_max_input_tokens=0
        )
        assert (changed.max_requests_per_1_minute, changed.batch_1_day_max_input_tokens) == (7, 0)
        assert changed.max_tokens_per_1_minute == little.max_tokens_per_1_minute
        assert limits.list_rate_limits(project_id).data == [changed, other]
        policy = client.admin.organization.projects.model_permissions
        assert (policy.retrieve(project_id).mode, policy.retrieve(project_id).api_model_ids) == ("deny_list", [])
        assert policy.update(project_id, mode="allow_list", model_ids=["other"]).api_model_ids == ["other"]
        assert [model.id for model in client.models.list()] == ["other"]
        assert policy.update(project_id, mode="deny_list", model_ids=["other"]).mode == "deny_list"
        assert [model.id for model in client.models.list()] == [MODEL]
        assert policy.delete(project_id).deleted
        assert [model.id for model in client.models.list()] == [MODEL, "other"]


def test_an_invitation_until_it_is_taken_back(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        invites = client.admin.organization.invites
        made = invites.create(
            email="Dora@example.com", role="reader", projects=[{"id": cast.alice.project.wire_id, "role": "member"}]
        )
        assert (made.object, made.email, made.role, made.status) == (
            "organization.invite", "dora@example.com", "reader", "pending",
        )  # fmt: skip
        assert made.expires_at == made.created_at + 7 * 86_400
        assert made.projects[0].id == cast.alice.project.wire_id
        assert invites.retrieve(made.id) == made
        assert list(invites.list()) == [made]
        assert invites.delete(made.id).object == "organization.invite.deleted"
        assert list(invites.list()) == []


def test_what_was_done_and_used_and_what_it_cost(server: Server, cast: Cast, tmp_path: Path) -> None:
    make_everything(cast.alice, tmp_path)
    with sdk(server, cast.alice) as client:
        organization = client.admin.organization
        events = list(organization.audit_logs.list(limit=2))
        assert len(events) > 8
        assert [event.id for event in events] == sorted((event.id for event in events), reverse=True)
        (invited,) = organization.audit_logs.list(event_types=["invite.sent"])
        assert invited.actor is not None
        assert invited.actor.api_key is not None
        assert invited.actor.api_key.user is not None
        assert (invited.actor.type, invited.actor.api_key.user.email) == ("api_key", "alice@example.com")
        assert invited.invite_sent is not None
        assert invited.invite_sent.data is not None
        assert invited.invite_sent.data.role == "viewer"
        start = invited.effective_at - 3_600
        usage = organization.usage.completions(start_time=start, group_by=["model", "batch"], bucket_width="1h")
        used = [result for bucket in usage.data for result in bucket.results]
        assert [(result.object, result.model, result.batch) for result in used] == [  # type: ignore[union-attr]
            ("organization.usage.completions.result", MODEL, True)
        ]
        assert all(bucket.results == [] for bucket in organization.usage.embeddings(start_time=start).data)
        costs = organization.usage.costs(start_time=start, group_by=["line_item"])
        items = [result.line_item for bucket in costs.data for result in bucket.results]  # type: ignore[union-attr]
        assert items == [
            f"{MODEL}, batch, input_tokens", f"{MODEL}, batch, output_tokens", f"{MODEL}, training, input_tokens",
        ]  # fmt: skip


def test_lists_turn_their_own_pages_in_every_style(server: Server, cast: Cast) -> None:
    project_id = cast.alice.project.wire_id
    with sdk(server, cast.alice) as client:
        organization = client.admin.organization
        projects = [organization.projects.create(name=str(number)).id for number in range(4)]
        invites = [organization.invites.create(email=f"{n}@example.com", role="reader").id for n in range(5)]
        keys = [organization.admin_api_keys.create(name=str(number)).id for number in range(4)]
        accounts = [organization.projects.service_accounts.create(project_id, name=str(n)).id for n in range(3)]
        assert [item.id for item in organization.projects.list(limit=2)] == [*projects[::-1], project_id]
        assert [item.id for item in organization.invites.list(limit=2)] == invites[::-1]
        assert [item.id for item in organization.admin_api_keys.list(limit=2)][:4] == keys[::-1]
        assert [item.id for item in organization.projects.service_accounts.list(project_id, limit=1)] == accounts[::-1]
        assert len(list(organization.projects.api_keys.list(project_id, limit=1))) == 4
        assert [user.email for user in organization.users.list(limit=1)] == ["bob@example.com", "alice@example.com"]
        roles = organization.roles.list(limit=2)
        assert roles.next == "role-admin"
        assert [role.name for role in roles] == ["owner", "admin", "developer", "billing", "viewer"]
        first = organization.usage.completions(start_time=0, end_time=8 * 86_400)
        assert (len(first.data), first.has_more) == (7, True)
        assert first.next_page is not None
        last = organization.usage.completions(start_time=0, end_time=8 * 86_400, page=first.next_page)
        assert ([bucket.start_time for bucket in last.data], last.has_more) == ([7 * 86_400], False)


def test_errors_have_their_class_and_code(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        organization = client.admin.organization
        narrow = organization.admin_api_keys.create(name="Narrow", extra_body={"scopes": ["audit.read"]})
        with pytest.raises(openai.NotFoundError) as missing:
            organization.projects.retrieve(cast.charlie.project.wire_id)
        check(missing.value, 404, "not_found", "project_id")
        with pytest.raises(openai.BadRequestError) as invalid:
            organization.invites.create(email="nobody", role="reader")
        check(invalid.value, 400, "invalid_value", "email")
        archived = organization.projects.create(name="Past")
        organization.projects.archive(archived.id)
        with pytest.raises(openai.ConflictError) as conflict:
            organization.projects.update(archived.id, name="Again")
        check(conflict.value, 409, "conflict", "project_id")
        assert conflict.value.response.headers["x-should-retry"] == "false"
    with sdk(server, cast.alice, admin_api_key=narrow.value) as reader:
        assert reader.admin.organization.audit_logs.list().data[0].type == "project.archived"
        with pytest.raises(openai.PermissionDeniedError, match=r"'members\.read'") as denied:
            reader.admin.organization.users.list()
        check(denied.value, 403, "insufficient_scope", None)
    with sdk(server, cast.alice, admin_api_key=cast.alice.token) as wrong:
        with pytest.raises(openai.PermissionDeniedError) as kind:
            wrong.admin.organization.users.list()
        check(kind.value, 403, "wrong_key_type", None)


def test_logs_and_costs_turn_their_pages_both_ways(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        organization = client.admin.organization
        for number in range(3):
            organization.projects.create(name=str(number))
        events = [event.id for event in organization.audit_logs.list(limit=2)]
        newer = organization.audit_logs.list(before=events[2], limit=2)
        assert ([event.id for event in newer.data], newer.has_more) == (events[:2], False)
        days, page = [], None
        for _ in range(3):
            costs = organization.usage.costs(start_time=0, end_time=9 * 86_400, limit=4, page=page or omit)
            days.append([bucket.start_time // 86_400 for bucket in costs.data])
            page = costs.next_page
        assert (days, page) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8]], None)


def check(error: openai.APIStatusError, status: int, code: str, param: str | None) -> None:
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert (error.request_id or "").startswith("req_")


async def test_the_same_for_asyncio(server: Server, cast: Cast, model: None) -> None:
    project_id = cast.alice.project.wire_id
    async with async_sdk(server, cast.alice) as client:
        organization = client.admin.organization
        key = await organization.admin_api_keys.create(name="Robot")
        assert (await organization.admin_api_keys.list(limit=1)).data[0].id == key.id
        assert (await organization.admin_api_keys.delete(key.id)).deleted
        project = await organization.projects.create(name="Second")
        assert (await organization.projects.update(project.id, name="Third")).name == "Third"
        assert (await organization.projects.archive(project.id)).status == "archived"
        account = await organization.projects.service_accounts.create(project_id, name="CI")
        assert [each.id async for each in organization.projects.service_accounts.list(project_id)] == [account.id]
        assert (await organization.projects.service_accounts.delete(account.id, project_id=project_id)).deleted
        assert len([each async for each in organization.projects.api_keys.list(project_id, limit=1)]) == 1
        (limits,) = [each async for each in organization.projects.rate_limits.list_rate_limits(project_id)]
        assert limits.model == MODEL
        assert (await organization.projects.model_permissions.retrieve(project_id)).mode == "deny_list"
        users = [each async for each in organization.users.list(limit=1)]
        assert len(users) == 2
        added = await organization.projects.users.create(project_id, user_id=users[0].id, role="member")
        assert [each.id async for each in organization.projects.users.list(project_id)] == [added.id]
        invite = await organization.invites.create(email="dora@example.com", role="owner")
        assert (await organization.invites.delete(invite.id)).deleted
        assert (await organization.audit_logs.list(limit=1)).data[0].type == "invite.deleted"
        assert (await organization.usage.costs(start_time=0, end_time=86_400)).data[0].results == []
