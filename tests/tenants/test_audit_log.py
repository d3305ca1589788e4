"""The audit log: who did what, narrowed down in every way that OpenAI's is."""

from typing import Any, get_args

import pytest
from openai.types.admin.organization import AuditLogListResponse

from tenants.audit import EVENT_TYPES
from tenants.models import ApiKey
from tenants.scope import tenant_scope
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.people import user_id

LOG = "/v1/organization/audit_logs"


def entries(member: Member, query: str = "") -> list[dict[str, Any]]:
    answer = member.admin.get(f"{LOG}?{query}")
    assert answer.status_code == 200, answer.content
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def types(member: Member, query: str = "") -> list[str]:
    return [entry["type"] for entry in entries(member, query)]


def key_of(member: Member, kind: ApiKey.Kind) -> str:
    with tenant_scope(member.organization.id):
        return ApiKey.objects.get(kind=kind).wire_id


@pytest.fixture
def busy(cast: Cast) -> Member:
    """A file deleted with the project's key, a project made, renamed and archived with the admin key."""
    alice = cast.alice
    file_id = alice.client.upload(b"{}\n").json()["id"]
    alice.client.delete(f"/v1/files/{file_id}")
    project = alice.admin.post("/v1/organization/projects", {"name": "Second"}).json()["id"]
    alice.admin.post(f"/v1/organization/projects/{project}", {"name": "Third"})
    alice.admin.post(f"/v1/organization/projects/{project}/archive")
    return alice


def test_events_have_openais_names_newest_first(busy: Member) -> None:
    assert types(busy) == [
        "project.archived", "project.updated", "project.created", "resource.deleted", "api_key.created",
        "api_key.created",
    ]  # fmt: skip
    created = entries(busy, "event_types[]=project.created")[0]
    assert created["project.created"] == {"id": created["project"]["id"], "data": {"name": "Second"}}
    assert created["project"]["name"] == "Third"
    assert created["actor"] == {
        "type": "api_key",
        "api_key": {
            "id": key_of(busy, ApiKey.Kind.ADMIN),
            "type": "user",
            "user": {"id": user_id(busy, "alice@example.com"), "email": "alice@example.com"},
        },
    }
    assert entries(busy)[-1]["actor"] is None
    assert created["request_id"].startswith("req_")


def test_what_openai_has_no_name_for_is_there_for_who_asks(busy: Member) -> None:
    everything = types(busy, "include_all=true")
    assert len(everything) == 9
    assert set(everything) - set(types(busy)) == {"organization.created", "credit.granted", "file.created"}
    assert types(busy, "event_types[]=file.created&event_types[]=project.created") == [
        "project.created", "file.created",
    ]  # fmt: skip
    assert types(busy, "event_types[]=nothing") == []


def test_narrowed_to_actors_projects_and_resources(busy: Member) -> None:
    admin, key = key_of(busy, ApiKey.Kind.ADMIN), key_of(busy, ApiKey.Kind.PROJECT)
    assert types(busy, f"actor_ids[]={key}") == ["resource.deleted"]
    assert len(types(busy, f"actor_ids[]={admin}&actor_ids[]={key}")) == 4
    assert len(types(busy, "actor_emails[]=Alice@example.com")) == 4
    assert types(busy, "actor_emails[]=bob@example.com") == []
    project = entries(busy)[0]["project"]["id"]
    assert types(busy, f"project_ids[]={project}") == ["project.archived", "project.updated", "project.created"]
    assert set(types(busy, f"project_ids[]={busy.project.wire_id}")) == {"api_key.created", "resource.deleted"}
    assert types(busy, f"resource_ids[]={project}&event_types[]=project.updated") == ["project.updated"]
    assert types(busy, "actor_ids[]=x&resource_ids[]=y&project_ids[]=z") == []


def test_moments_are_compared_in_whole_seconds(busy: Member) -> None:
    assert change("UPDATE tenants_auditevent SET created_at = '2026-01-01T00:00:00Z'") > 0
    assert change(
        "UPDATE tenants_auditevent SET created_at = '2026-01-01T00:00:10.9Z' WHERE action = 'project.updated'"
    )
    moment = 1_767_225_610
    assert entries(busy)[1]["effective_at"] == moment
    for query, is_in in (
        (f"effective_at[gt]={moment}", False), (f"effective_at[gte]={moment}", True),
        (f"effective_at[lt]={moment}", False), (f"effective_at[lte]={moment}", True),
        (f"effective_at[gt]={moment - 1}&effective_at[lt]={moment + 1}", True),
        ("effective_at[gt]=253402300799", False), ("effective_at[lte]=253402300799", True),
    ):  # fmt: skip
        assert ("project.updated" in types(busy, query)) == is_in


def test_pages_turn_both_ways(busy: Member) -> None:
    ids = [entry["id"] for entry in entries(busy)]
    first = busy.admin.get(f"{LOG}?limit=2").json()
    assert ([entry["id"] for entry in first["data"]], first["has_more"]) == (ids[:2], True)
    second = busy.admin.get(f"{LOG}?limit=2&after={first['last_id']}").json()
    assert [entry["id"] for entry in second["data"]] == ids[2:4]
    back = busy.admin.get(f"{LOG}?limit=2&before={second['first_id']}").json()
    assert ([entry["id"] for entry in back["data"]], back["has_more"]) == (ids[:2], False)
    near = busy.admin.get(f"{LOG}?limit=2&before={ids[-1]}").json()
    assert ([entry["id"] for entry in near["data"]], near["has_more"]) == (ids[-3:-1], True)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("after=x", "after"), ("before=x", "before"), ("limit=101", "limit"),
        ("effective_at[gt]=x", "effective_at[gt]"), ("include_all=1", "include_all"),
        (f"after=audit_log-{'0' * 32}&before=audit_log-{'0' * 32}", "before"),
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense(cast: Cast, query: str, param: str) -> None:
    answer = cast.alice.admin.get(f"{LOG}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_every_type_is_one_of_openais() -> None:
    known = get_args(AuditLogListResponse.model_fields["type"].annotation)
    assert len(known) > 50
    assert set(EVENT_TYPES.values()) <= set(known)
