"""A stranger is told the same about Alice's objects as about objects that never existed, and changes nothing."""

import re
import time
from typing import Any
from uuid import UUID

import pytest

from catalog.models import BaseModel
from common.ids import uuid7
from common.money import NANOS_PER_USD
from metering.models import UsageEvent
from tenants.models import Project
from tenants.permissions import ADMIN, OPERATIONS
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.support.blobs import blobs
from tests.support.cast import ApiClient, Cast, Member
from tests.support.everything import Everything
from tests.support.multipart import CONTENT_TYPE, file, form
from tests.support.routes import public_operations
from tests.support.rows import retrieve
from tests.support.tables import query, rows_of
from tests.support.uploads import begin, complete

TENANT_OBJECTS = {
    "file_id": ("file-", "file_id"),
    "batch_id": ("batch_", "batch_id"),
    "webhook_endpoint_id": ("we_", "webhook_endpoint_id"),
    "delivery_id": ("whd_", "delivery_id"),
    "upload_id": ("upload_", "upload_id"),
    "part_id": ("part_", "part_id"),
    "project_id": ("proj_", "project_id"),
    "user_id": ("user-", "user_id"),
    "key_id": ("key_", "admin_key_id"),
    "api_key_id": ("key_", "project_key_id"),
    "service_account_id": ("svc_acct_", "service_account_id"),
    "invite_id": ("invite-", "invite_id"),
    "rate_limit_id": ("rl-", "rate_limit_id"),
    "name": ("ft:", "tuned_model"),
    "checkpoint": ("ft:", "tuned_model"),
    "alias": ("alias-", "alias"),
    "permission_id": ("cp_", "permission_id"),
    "job_id": ("ftjob-", "job_id"),
}
"""Parameter of a route -> prefix of its ids, and which of Alice's objects stands for it."""
ENDED = {
    "/v1/batches/<str:batch_id>/retry": {"batch_id": "finished_batch_id"},
    "/v1/files/<str:file_id>/report/rejects": {"file_id": "training_file_id"},
    "/v1/fine_tuning/jobs/<str:job_id>/evaluation": {"job_id": "finished_job_id"},
    "/v1/fine_tuning/jobs/<str:job_id>/evaluation/examples": {"job_id": "finished_job_id"},
    "/v1/fine_tuning/jobs/<str:job_id>/logs": {"job_id": "finished_job_id"},
    "/v1/fine_tuning/jobs/<str:job_id>/download": {"job_id": "finished_job_id"},
}
"""Routes that want an object in another state."""
MODEL_ROUTES = {
    ("GET", "/v1/models/<path:name>"),
    ("DELETE", "/v1/models/<path:name>"),
    ("GET", "/v1/models/<str:name>/download"),
    ("GET", "/v1/models/<str:name>/manifest"),
    ("POST", "/v1/models/aliases/<str:alias>"),  # makes an alias that is not there, of a model that must be
}
"""Where it is a model that is not there, which has a code of its own."""
SHARED_OBJECTS = {"recipe"}
"""Recipes belong to the installation."""

_PARAMETER = re.compile(r"<\w+:(\w+)>")
ID_ROUTES = [
    (method, path, OPERATIONS[operation].key_kind == ADMIN)
    for method, path, operation in public_operations()
    if set(_PARAMETER.findall(path)) - SHARED_OBJECTS
]
ADMINISTRATION = [
    "/v1/organization/admin_api_keys",
    "/v1/organization/audit_logs",
    "/v1/organization/invites",
    "/v1/organization/projects",
    "/v1/organization/users",
    "/v1/whoami",
]
"""Lists of an organisation, for its admin keys."""
COUNTS = [
    "/v1/organization/costs",
    "/v1/organization/usage/completions",
    "/v1/organization/usage/embeddings",
]
"""Its sums, since some time."""
LISTS = ["/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/webhook_endpoints", "/v1/models/aliases"]
"""Of a project."""
TEST_OF_A_WEBHOOK = "/v1/webhook_endpoints/<str:webhook_endpoint_id>/test"
COMPLETION = "/v1/uploads/<str:upload_id>/complete"
PROJECT_PATH = "/v1/organization/projects/<str:project_id>"
BODIES = {
    TEST_OF_A_WEBHOOK: '{"event_type": "batch.completed"}',
    COMPLETION: '{"part_ids": ["<str:part_id>"]}',
    PROJECT_PATH: '{"name": "Another"}',
    f"{PROJECT_PATH}/users": '{"email": "alice@example.com", "role": "member"}',
    f"{PROJECT_PATH}/users/<str:user_id>": '{"role": "owner"}',
    f"{PROJECT_PATH}/service_accounts": '{"name": "Another"}',
    f"{PROJECT_PATH}/api_keys": '{"name": "Another"}',
    f"{PROJECT_PATH}/model_permissions": '{"mode": "deny_list", "model_ids": []}',
    "/v1/organization/users/<str:user_id>": '{"role": "viewer"}',
    "/v1/models/aliases/<str:alias>": '{"model": "<str:name>"}',
    "/v1/fine_tuning/checkpoints/<str:checkpoint>/permissions": '{"project_ids": ["<str:project_id>"]}',
}
"""What a route needs before it looks for its object, with ids as in paths; the others are called without a body."""
FORMS = {"/v1/uploads/<str:upload_id>/parts": form(file(b"x", name="data"))}
"""The same for routes that take a form."""
REFUSED_TO_ALICE = {TEST_OF_A_WEBHOOK: "webhook_unreachable"}
"""Hers, and yet: nobody listens there."""
BOOKS = ["/v1/organization/balance", "/v1/organization/ledger"]
"""Of an organisation, for its admin keys."""


def call(client: ApiClient, method: str, path: str, ids: dict[str, str]) -> Any:
    """The call with these ids in the path; the answer with each id as ``ID``."""
    target, body = (_PARAMETER.sub(lambda match: ids[match[1]], text) for text in (path, BODIES.get(path, "")))
    content_type = CONTENT_TYPE if path in FORMS else "application/json"
    answer = client.call(method, target, data=FORMS.get(path, body.encode()), content_type=content_type)
    body = answer.getvalue().decode(errors="replace")  # an archive holds numbers
    for value in ids.values():
        body = body.replace(value, "ID")
    headers = {name: value for name, value in answer.headers.items() if name in ("Allow", "Content-Type")}
    return answer.status_code, body, headers


def ids_of(everything: Everything, path: str) -> dict[str, str]:
    names = {parameter: name for parameter, (_, name) in TENANT_OBJECTS.items()} | ENDED.get(path, {})
    return {parameter: getattr(everything, name) for parameter, name in names.items()}


def ghosts() -> dict[str, str]:
    """Ids like any other, of objects that never existed."""
    return {parameter: f"{prefix}{uuid7().hex}" for parameter, (prefix, _) in TENANT_OBJECTS.items()}


def other_project(member: Member) -> ApiClient:
    """A key of a second project in the same organisation."""
    with tenant_scope(member.organization.id):
        project = Project.objects.create(organization_id=member.organization.id, name="Second project")
    return ApiClient(create_api_key(project=project, name="second", actor="system").token)


def test_every_parameter_of_every_route_is_known() -> None:
    used = {name for _, path, _ in public_operations() for name in _PARAMETER.findall(path + BODIES.get(path, ""))}
    assert used == TENANT_OBJECTS.keys() | SHARED_OBJECTS
    assert len(ID_ROUTES) >= 5


@pytest.mark.parametrize(("method", "path", "is_admin"), ID_ROUTES)
def test_a_stranger_and_another_project_get_not_found(
    cast: Cast, everything: Everything, method: str, path: str, is_admin: bool
) -> None:
    neighbour = other_project(cast.alice)
    strangers = [cast.charlie.admin] if is_admin else [cast.charlie.client, neighbour]
    before = rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)
    for stranger in strangers:
        refused = call(stranger, method, path, ids_of(everything, path))
        assert refused == call(stranger, method, path, ghosts())
        assert refused[0] == 404
        assert f'"code":"{"model_" if (method, path) in MODEL_ROUTES else ""}not_found"' in refused[1]
    assert (rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)) == before
    alice = cast.alice.admin if is_admin else cast.alice.client
    status, body, _ = call(alice, method, path, ids_of(everything, path))
    assert (status, path in REFUSED_TO_ALICE) in ((200, False), (400, True))
    assert REFUSED_TO_ALICE.get(path, "") in body


def test_a_list_holds_ones_own_alone(cast: Cast, everything: Everything) -> None:
    neighbour = other_project(cast.alice)
    empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    for path in LISTS:
        assert cast.charlie.client.get(path).json() == empty
        assert neighbour.get(path).json() == empty
        assert len(cast.alice.client.get(path).json()["data"]) >= 2


def test_a_cursor_of_another_tenant_opens_nothing(cast: Cast) -> None:
    file_id = cast.alice.client.upload(b"{}\n").json()["id"]
    answer = cast.charlie.client.get(f"/v1/files?order=desc&after={file_id}")
    assert (answer.status_code, answer.json()["data"]) == (200, [])


def test_the_books_are_ones_own_alone(cast: Cast, everything: Everything) -> None:
    own, strangers = ([member.admin.get(path).json() for path in BOOKS] for member in (cast.alice, cast.charlie))
    assert own[0]["held_nanos"] > 0
    assert (strangers[0]["available_nanos"], strangers[0]["held_nanos"]) == (100 * NANOS_PER_USD, 0)
    assert [entry["reason"] for entry in strangers[1]["data"]] == ["Opening credit"]
    held = next(entry for entry in own[1]["data"] if entry["kind"] == "hold")
    for narrow in (f"subject={held['subject']}", "kind=hold", f"after={held['id']}"):
        assert cast.alice.admin.get(f"/v1/organization/ledger?{narrow}").json()["data"] != []
        found = cast.charlie.admin.get(f"/v1/organization/ledger?{narrow}").json()["data"]
        assert [entry for entry in found if entry not in strangers[1]["data"]] == []


def test_every_list_is_in_the_test_of_lists() -> None:
    plain = {path for method, path, _ in public_operations() if method == "GET" and "<" not in path}
    ours = {
        "/v1/models", "/v1/signing_key", "/v1/fine_tuning/recipes", "/v1/webhook_event_types",
        "/v1/organization/roles",
    }  # fmt: skip
    assert plain == {*LISTS, *BOOKS, *ADMINISTRATION, *COUNTS, *ours}


def test_administration_shows_ones_own_alone(cast: Cast, everything: Everything) -> None:
    rows = " ".join(row for table in rows_of(cast.alice.organization.id).values() for row in table)
    ids = {text.replace("-", "") for text in re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", rows)}
    shared = {text for text in ids if text in str(BaseModel.objects.values_list("id", flat=True))}
    since = f"?start_time={int(time.time()) - 86_400}"
    for path in [*ADMINISTRATION, *(f"{path}{since}" for path in COUNTS)]:
        answer = cast.charlie.admin.get(path)
        text = answer.content.decode()
        assert answer.status_code == 200
        assert [value for value in ids - shared if value in text] == []
        assert "alice" not in text.lower()
    for path in ADMINISTRATION:
        assert cast.alice.admin.get(path).json() != cast.charlie.admin.get(path).json()


def test_a_strangers_ids_narrow_usage_to_nothing(cast: Cast, everything: Everything) -> None:
    with tenant_scope(cast.alice.organization.id):
        used = UsageEvent.objects.select_related("project", "api_key").get(operation="completions")
    since = f"start_time={int(time.time()) - 86_400}"
    for path in COUNTS[:2]:
        for narrow in (f"project_ids[]={used.project.wire_id}", f"api_key_ids[]={used.api_key.wire_id}"):
            for client, is_empty in ((cast.alice.admin, False), (cast.charlie.admin, True)):
                page = client.get(f"{path}?{since}&{narrow}").json()
                assert all(bucket["results"] == [] for bucket in page["data"]) == is_empty


def test_a_strangers_file_cannot_be_the_input_of_a_batch(cast: Cast, everything: Everything) -> None:
    before = rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)
    answers = []
    for file_id in (everything.file_id, ghosts()["file_id"]):
        answer = cast.charlie.client.post(
            "/v1/batches",
            {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        )
        answers.append((answer.status_code, answer.content.decode().replace(file_id, "ID")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert (rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)) == before


def test_a_part_of_another_upload_is_not_found(cast: Cast, everything: Everything) -> None:
    own, (part_id,) = begin(cast.charlie, b"x")
    before = rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)
    refused = []
    for stranger in (everything.part_id, ghosts()["part_id"]):
        answer = complete(cast.charlie, own, [stranger])
        refused.append((answer.status_code, answer.content.decode().replace(stranger, "ID")))
    assert refused[0] == refused[1]
    assert (refused[0][0], '"code":"not_found"' in refused[0][1]) == (404, True)
    assert (rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)) == before
    assert complete(cast.charlie, own, [part_id]).json()["status"] == "completed"


def test_bytes_that_another_tenant_or_project_has_are_no_duplicate(cast: Cast) -> None:
    neighbour = other_project(cast.alice)
    cast.alice.client.upload(b"{}\n")
    before = len(blobs())
    assert [client.upload(b"{}\n").json()["duplicate_of"] for client in (cast.charlie.client, neighbour)] == [None] * 2
    assert len(blobs()) - before == 2


def test_a_strangers_results_cannot_be_read(cast: Cast, everything: Everything) -> None:
    batch = retrieve(cast.alice, {"id": everything.finished_batch_id})
    for file_id in (batch["output_file_id"], batch["error_file_id"], batch["input_file_id"]):
        path = f"/v1/files/{file_id}/content"
        assert cast.alice.client.get(path).getvalue()
        assert cast.charlie.client.get(path).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("prefix", ["file_", "batch-", "org_", "", "FILE-"])
def test_an_id_of_another_kind_is_not_found(cast: Cast, prefix: str) -> None:
    digits = cast.alice.client.upload(b"{}\n").json()["id"].removeprefix("file-")
    answer = cast.alice.client.get(f"/v1/files/{prefix}{digits}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_ids_hold_74_random_bits(cast: Cast) -> None:
    ids = [UUID(hex=text) for (text,) in query("SELECT id::text FROM tenants_auditevent", using="system")]
    assert len(ids) >= 6
    assert {value.version for value in ids} == {7}
    assert len({value.int & (2**62 - 1) for value in ids}) == len(ids)
