"""Who may do what: every route and method with every role, every scope, the wrong key, nobody and strangers.

The routes come from Django's resolver; what is expected stands in the tables below and nowhere else, so that a right
is given or taken on purpose: there and here.

A call that must be refused is one that would change something. A call that must be let in is about things that never
existed, in a body that no route reads: it shows that the door opens, and leaves everything as it is.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from tenants.models import ApiKey, Membership, Project, ProjectMembership, ProjectRole, Role
from tenants.permissions import ADMIN_SCOPES, ALL_SCOPES, OPERATIONS, PERSON_OPERATIONS, PROJECT_SCOPES, Permission
from tenants.scope import tenant_scope
from tenants.services import create_admin_key, create_api_key, session_key
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member, make_cast
from tests.support.everything import Everything, make_everything
from tests.support.multipart import CONTENT_TYPE, field, file, form
from tests.support.routes import all_routes, person_operations, public_operations
from tests.support.rows import line
from tests.support.sign_in import let_throttles_pass, make_person
from tests.support.tables import rows_of
from tests.tenants.test_isolation import BODIES, FORMS, SHARED_OBJECTS, ghosts, ids_of

_OPERATIONS = """
operation                  key      scope           elsewhere belongs
files.create               project  files.write     ++?-?     +++++
files.list                 project  files.read      ++?-?     +++++
files.retrieve             project  files.read      ++?-?     +++++
files.content              project  files.read      ++?-?     +++++
files.delete               project  files.write     ++?-?     +++++
files.report               project  files.read      ++?-?     +++++
files.report_rejects       project  files.read      ++?-?     +++++
uploads.create             project  files.write     ++?-?     +++++
uploads.add_part           project  files.write     ++?-?     +++++
uploads.complete           project  files.write     ++?-?     +++++
uploads.cancel             project  files.write     ++?-?     +++++
models.list                project  models.read     ++?-?     +++++
models.retrieve            project  models.read     ++?-?     +++++
models.delete              project  models.write    ++?-?     +++++
models.manifest            project  models.read     ++?-?     +++++
models.download            project  weights.read    ++?-?     +++++
signing_key.retrieve       project  models.read     ++?-?     +++++
model_aliases.list         project  models.read     ++?-?     +++++
model_aliases.create       project  models.write    ++?-?     +++++
model_aliases.retrieve     project  models.read     ++?-?     +++++
model_aliases.promote      project  models.write    ++?-?     +++++
model_aliases.rollback     project  models.write    ++?-?     +++++
model_aliases.delete       project  models.write    ++?-?     +++++
model_aliases.history      project  models.read     ++?-?     +++++
batches.create             project  batches.write   ++?-?     +++++
batches.list               project  batches.read    ++?-?     +++++
batches.retrieve           project  batches.read    ++?-?     +++++
batches.cancel             project  batches.write   ++?-?     +++++
batches.pause              project  batches.write   ++?-?     +++++
batches.resume             project  batches.write   ++?-?     +++++
batches.retry              project  batches.write   ++?-?     +++++
batches.quote              project  batches.write   ++?-?     +++++
batches.results            project  batches.read    ++?-?     +++++
fine_tuning.create         project  fine_tuning.write ++?-?     +++++
fine_tuning.list           project  fine_tuning.read ++?-?     +++++
fine_tuning.retrieve       project  fine_tuning.read ++?-?     +++++
fine_tuning.cancel         project  fine_tuning.write ++?-?     +++++
fine_tuning.pause          project  fine_tuning.write ++?-?     +++++
fine_tuning.resume         project  fine_tuning.write ++?-?     +++++
fine_tuning.list_events    project  fine_tuning.read ++?-?     +++++
fine_tuning.list_checkpoints project  fine_tuning.read ++?-?     +++++
fine_tuning.logs           project  fine_tuning.read ++?-?     +++++
fine_tuning.evaluation     project  fine_tuning.read ++?-?     +++++
fine_tuning.evaluation_examples project  fine_tuning.read ++?-?     +++++
fine_tuning.download       project  weights.read    ++?-?     +++++
fine_tuning.quote          project  fine_tuning.write ++?-?     +++++
fine_tuning.list_recipes   project  fine_tuning.read ++?-?     +++++
fine_tuning.retrieve_recipe project  fine_tuning.read ++?-?     +++++
fine_tuning.recipe_sample  project  fine_tuning.read ++?-?     +++++
fine_tuning.preview        project  fine_tuning.write ++?-?     +++++
webhooks.list_event_types  project  webhooks.read   ++?-?     +++++
webhooks.create            project  webhooks.write  ++?-?     +++++
webhooks.list              project  webhooks.read   ++?-?     +++++
webhooks.retrieve          project  webhooks.read   ++?-?     +++++
webhooks.update            project  webhooks.write  ++?-?     +++++
webhooks.delete            project  webhooks.write  ++?-?     +++++
webhooks.rotate_secret     project  webhooks.write  ++?-?     +++++
webhooks.test              project  webhooks.write  ++?-?     +++++
webhooks.list_deliveries   project  webhooks.read   ++?-?     +++++
webhooks.replay            project  webhooks.write  ++?-?     +++++
whoami.retrieve            any      none            +++++     +++++
balance.retrieve           admin    billing.read    ++-++     ++-++
ledger.list                admin    billing.read    ++-++     ++-++
costs.list                 admin    billing.read    ++-++     ++-++
usage.completions          admin    usage.read      ++-++     ++-++
usage.embeddings           admin    usage.read      ++-++     ++-++
audit_logs.list            admin    audit.read      ++--+     ++--+
admin_keys.list            admin    keys.read       ++--+     ++--+
admin_keys.create          admin    keys.write      ++---     ++---
admin_keys.retrieve        admin    keys.read       ++--+     ++--+
admin_keys.delete          admin    keys.write      ++---     ++---
project_keys.list          admin    keys.read       ++--?     ++--+
project_keys.create        admin    keys.write      ++---     ++---
project_keys.retrieve      admin    keys.read       ++--?     ++--+
project_keys.update        admin    keys.write      ++---     ++---
project_keys.delete        admin    keys.write      ++---     ++---
service_accounts.list      admin    keys.read       ++--?     ++--+
service_accounts.create    admin    keys.write      ++---     ++---
service_accounts.retrieve  admin    keys.read       ++--?     ++--+
service_accounts.update    admin    keys.write      ++---     ++---
service_accounts.delete    admin    keys.write      ++---     ++---
service_accounts.create_key admin   keys.write      ++---     ++---
projects.list              admin    projects.read   +++++     +++++
projects.create            admin    projects.write  ++---     ++---
projects.retrieve          admin    projects.read   ++?+?     +++++
projects.update            admin    projects.write  ++---     ++---
projects.archive           admin    projects.write  ++---     ++---
rate_limits.list           admin    projects.read   ++?+?     +++++
rate_limits.update         admin    projects.write  ++---     ++---
model_permissions.retrieve admin    projects.read   ++?+?     +++++
model_permissions.update   admin    projects.write  ++---     ++---
model_permissions.delete   admin    projects.write  ++---     ++---
checkpoint_permissions.list admin  projects.read   +++++     +++++
checkpoint_permissions.create admin projects.write ++---     ++---
checkpoint_permissions.delete admin projects.write ++---     ++---
project_users.list         admin    members.read    ++--?     ++--+
project_users.create       admin    members.write   ++---     ++---
project_users.retrieve     admin    members.read    ++--?     ++--+
project_users.update       admin    members.write   ++---     ++---
project_users.delete       admin    members.write   ++---     ++---
users.list                 admin    members.read    ++--+     ++--+
users.retrieve             admin    members.read    ++--+     ++--+
users.update               admin    members.write   ++---     ++---
users.delete               admin    members.write   ++---     ++---
invites.list               admin    members.read    ++--+     ++--+
invites.create             admin    members.write   ++---     ++---
invites.retrieve           admin    members.read    ++--+     ++--+
invites.delete             admin    members.write   ++---     ++---
roles.list                 admin    members.read    ++--+     ++--+
"""
"""What it takes: a key of this kind with this scope, or one of the signed-in roles below.

Owner, admin, developer, billing, viewer, in this order, in a project where others are (elsewhere) and in one's own:
``+`` may, ``-`` lacks the scope, ``?`` is told that there is no such project.
"""
_COLUMNS = (Role.OWNER, Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER)
EXPECTED = {name: tuple(words) for name, *words in (row.split() for row in _OPERATIONS.strip().splitlines()[1:])}
ANYBODY_SIGNED_IN = {"organizations.create", "organizations.list", "invites.accept"}

NEW = {
    "/v1/uploads": {"bytes": 1, "filename": "a", "mime_type": "text/plain", "purpose": "batch"},
    "/v1/batches": {"requests": [line(1)], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    "/v1/webhook_endpoints": {"name": "New", "url": "https://example.com/", "event_types": ["batch.failed"]},
    "/v1/organization/admin_api_keys": {"name": "New"},
    "/v1/organization/projects": {"name": "New"},
    "/v1/organization/invites": {"email": "new@example.com", "role": "viewer"},
    "/v1/organizations": {"name": "New"},
}
"""What makes something new, where the isolation test does not say it already."""
_UPLOAD = form(field("purpose", "batch"), file(b"{}\n"))
_client = Client(raise_request_exception=False)
_PARAMETER = re.compile(r"<\w+:(\w+)>")
LET_IN = "let in"
NOT_FOUND = "not found"
HIDDEN = "no such project"

Headers = dict[str, str]


@dataclass(frozen=True)
class Call:
    """A method of a route."""

    operation: str
    method: str
    path: str

    @property
    def expected(self) -> tuple[str, ...]:
        """Kind of key, scope, and what the roles may elsewhere and in a project of their own."""
        return EXPECTED[self.operation]


CALLS = [Call(operation, method, path) for method, path, operation in public_operations()]
PEOPLES_CALLS = [Call(operation, method, path) for method, path, operation in person_operations()]


@dataclass(frozen=True)
class World:
    """Alice's organisation with everything in it, a project of hers without anything, and whoever knocks."""

    cast: Cast
    everything: Everything
    empty_project: str
    elsewhere: dict[Role, Headers]
    belonging: dict[Role, Headers]
    stranger: Headers
    one_scope: dict[str, Headers]
    all_but_one: dict[str, Headers]

    def ids(self, call: Call) -> dict[str, str]:
        """Of Alice's objects, and of a recipe."""
        return {**ids_of(self.everything, call.path), "recipe": "sentiment"}

    def refused(self, headers: Headers, call: Call) -> str:
        """What comes of a call that would change something of Alice's."""
        ids = self.ids(call)
        body = BODIES.get(call.path, json.dumps(NEW.get(call.path, {})))
        form_ = _UPLOAD if call.path == "/v1/files" else FORMS.get(call.path)
        return _outcome(
            call.method,
            _filled(call.path, ids),
            headers,
            form_ or _filled(body, ids).encode(),
            CONTENT_TYPE if form_ else "application/json",
        )

    def let_in(self, headers: Headers, call: Call) -> str:
        """What comes of a call that finds nothing to change."""
        ids = {**ghosts(), "project_id": self.empty_project, "recipe": "nothing"}
        named = {"OpenAI-Project": self.empty_project} if "OpenAI-Project" in headers else {}
        outcome = _outcome(call.method, _filled(call.path, ids), headers | named, b"?", "text/plain")
        return LET_IN if outcome == NOT_FOUND else outcome

    def try_all(self, headers: Headers, expected: dict[Call, str]) -> dict[str, str]:
        """What comes of all calls, each in the way that fits what is expected of it."""
        return {
            call.operation: self.let_in(headers, call) if outcome == LET_IN else self.refused(headers, call)
            for call, outcome in expected.items()
        }

    def state(self) -> Any:
        """Everything that a call could change."""
        return [rows_of(member.organization.id) for member in (self.cast.alice, self.cast.charlie)], blobs()


@pytest.fixture(scope="module")
def world(lasting_database: None, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once: no test here changes anything, and each asserts that."""
    cast = make_cast()
    everything = make_everything(cast.alice, tmp_path_factory.mktemp("everything"))
    organization = cast.alice.organization
    empty = cast.alice.admin.post("/v1/organization/projects", {"name": "Empty"}).json()["id"]
    let_throttles_pass()
    with tenant_scope(organization.id):
        projects = list(Project.objects.all())
    elsewhere = {role: _sign_in(cast, f"{role}.elsewhere", role, []) for role in Role}
    belonging = {role: _sign_in(cast, f"{role}.belonging", role, projects) for role in Role}
    return World(
        cast,
        everything,
        empty,
        elsewhere=elsewhere,
        belonging=belonging,
        stranger={"X-Session-Token": str(make_person("Eve").token)},
        one_scope={scope: _make_key(cast, frozenset({scope})) for scope in ALL_SCOPES},
        all_but_one={scope: _make_key(cast, _scopes_beside(scope) - {scope}) for scope in ALL_SCOPES},
    )


@pytest.fixture(autouse=True)
def nothing_changes(world: World) -> Iterator[None]:
    """Whatever a test here calls."""
    before = world.state()
    yield
    assert world.state() == before


def test_the_table_has_every_operation_once() -> None:
    assert sorted(EXPECTED) == sorted(call.operation for call in CALLS) == sorted(OPERATIONS)
    assert _OPERATIONS.count("\n") == len(EXPECTED) + 2
    assert sorted(ANYBODY_SIGNED_IN) == sorted(call.operation for call in PEOPLES_CALLS) == sorted(PERSON_OPERATIONS)
    assert {len(marks) for _, _, elsewhere, belongs in EXPECTED.values() for marks in (elsewhere, belongs)} == {5}
    assert set(_COLUMNS) == set(Role)


def test_an_operation_is_in_the_permission_table_as_it_is_here() -> None:
    assert {
        name: Permission(None if kind == "any" else ApiKey.Kind(kind), None if scope == "none" else scope)
        for name, (kind, scope, *_) in EXPECTED.items()
    } == OPERATIONS
    assert {scope for _, scope, *_ in EXPECTED.values()} - {"none"} == ALL_SCOPES


@pytest.mark.parametrize("belongs", [False, True], ids=["elsewhere", "belonging"])
@pytest.mark.parametrize("role", Role)
def test_a_role(world: World, role: Role, belongs: bool) -> None:
    headers = (world.belonging if belongs else world.elsewhere)[role]
    expected: dict[Call, str] = {}
    for call in CALLS:
        mark = call.expected[2 + belongs][_COLUMNS.index(role)]
        lacks = f"insufficient_scope The role '{role}' lacks the scope '{call.expected[1]}'"
        expected[call] = {"+": LET_IN, "-": lacks, "?": HIDDEN}[mark]
    of_projects = {call: outcome for call, outcome in expected.items() if call.expected[0] == "project"}
    of_all = {call: outcome for call, outcome in expected.items() if call not in of_projects}
    named = {**headers, "OpenAI-Project": world.everything.project_id}
    found = world.try_all(named, of_projects) | world.try_all(headers, of_all)
    assert found == {call.operation: outcome for call, outcome in expected.items()}


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
def test_a_project_of_others_is_like_one_that_never_was(world: World, role: Role) -> None:
    """To the letter, and before anything else about the request is looked at."""
    headers = world.elsewhere[role]
    hidden = [call for call in CALLS if call.expected[2][_COLUMNS.index(role)] == "?"]
    assert len(hidden) >= 30
    for call in hidden:
        answers = []
        for project_id in (world.everything.project_id, ghosts()["project_id"]):
            ids = {**world.ids(call), "project_id": project_id}
            named = {"OpenAI-Project": project_id} if call.expected[0] == "project" else {}
            answer = _send(call.method, _filled(call.path, ids), headers | named, b"?", "text/plain")
            answers.append((answer.status_code, answer.content.decode().replace(project_id, "ID")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
def test_a_key_with_one_scope(world: World, scope: str) -> None:
    expected = {call: _outcome_for_key(call, _kind_with(scope), frozenset({scope})) for call in CALLS}
    found = world.try_all(world.one_scope[scope], expected)
    assert found == {call.operation: outcome for call, outcome in expected.items()}
    assert LET_IN in found.values()


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
def test_a_key_with_all_scopes_but_one(world: World, scope: str) -> None:
    needing_it = [call for call in CALLS if call.expected[1] == scope]
    found = {world.refused(world.all_but_one[scope], call) for call in needing_it}
    assert found == {f"insufficient_scope The key lacks the scope '{scope}'"}


@pytest.mark.parametrize("kind", ["project", "admin"])
def test_a_key_with_all_scopes_of_its_kind(world: World, kind: str) -> None:
    expected = {call: _outcome_for_key(call, kind, ALL_SCOPES) for call in CALLS}
    found = world.try_all(_key_of(world.cast.alice, kind), expected)
    assert found == {call.operation: outcome for call, outcome in expected.items()}


def test_nobody(world: World) -> None:
    nothing: Headers = {}
    made_up = _bearer(f"hone_sk_{'0' * 32}_{'0' * 64}")
    signed_out = {"X-Session-Token": f"hone_st_{'a' * 32}_{'0' * 64}"}
    for headers, code in ((nothing, "invalid_api_key"), (made_up, "invalid_api_key"), (signed_out, "invalid_session")):
        codes = {call.operation: world.refused(headers, call).partition(" ")[0] for call in CALLS}
        assert codes == dict.fromkeys(OPERATIONS, code)


@pytest.mark.parametrize("kind", ["project", "admin"])
def test_a_strangers_key(world: World, kind: str) -> None:
    headers = _key_of(world.cast.charlie, kind)
    expected = {call: _outcome_for_stranger(call, kind) for call in CALLS}
    assert world.try_all(headers, expected) == {call.operation: outcome for call, outcome in expected.items()}
    borrowed = headers | {"OpenAI-Organization": world.cast.alice.organization.wire_id}
    outcomes = {call.operation: world.refused(borrowed, call) for call in CALLS}
    mismatch = "organization_mismatch The header OpenAI-Organization does not agree with the key"
    assert outcomes == dict.fromkeys(OPERATIONS, mismatch)


def test_a_stranger_who_is_signed_in(world: World) -> None:
    """Told the same as about an organisation that never was."""
    project = {"OpenAI-Project": world.cast.alice.project.wire_id}
    alices, ghost = world.cast.alice.organization.wire_id, f"org_{'0' * 32}"
    for call in CALLS:
        ids = world.ids(call)
        answers = []
        for organization_id in (alices, ghost):
            headers = world.stranger | project | {"OpenAI-Organization": organization_id}
            answer = _send(call.method, _filled(call.path, ids), headers, b"{}", "application/json")
            answers.append((answer.status_code, answer.content.decode().replace(organization_id, "ID")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404


def test_anybody_who_is_signed_in_and_nobody_else(world: World) -> None:
    for call in PEOPLES_CALLS:
        for headers in (world.stranger, *world.elsewhere.values()):
            assert world.let_in(headers, call) == LET_IN
        for token in (world.cast.alice.token, world.cast.alice.admin_token):
            assert world.refused(_bearer(token), call).startswith("invalid_session ")
        assert world.refused({}, call).startswith("invalid_session ")


def test_no_customer_opens_what_is_for_nodes(world: World) -> None:
    routes = [route for route in all_routes() if route.path.startswith("internal/")]
    calls = [
        Call(route.path, method.upper(), "/" + _PARAMETER.sub("1", route.path))
        for route in routes
        for method in ("get", "post", "put", "patch", "delete")
        if hasattr(route.view_class, method)
    ]
    assert len(calls) >= len(routes) >= 8
    alice = world.cast.alice
    for headers, code in (
        (_bearer(alice.token), "invalid_worker_token"),
        (_bearer(alice.admin_token), "invalid_worker_token"),
        (world.elsewhere[Role.OWNER], "invalid_api_key"),
        ({}, "invalid_api_key"),
    ):
        outcomes = [_outcome(call.method, call.path, headers, b"{}", "application/json") for call in calls]
        assert {outcome.partition(" ")[0] for outcome in outcomes} == {code}


def _outcome_for_key(call: Call, kind: str, scopes: frozenset[str]) -> str:
    """The kind first, then the scope."""
    wanted, scope, *_ = call.expected
    if wanted not in (kind, "any"):
        return f"wrong_key_type This route takes a key of kind '{wanted}'"
    return LET_IN if scope in scopes | {"none"} else f"insufficient_scope The key lacks the scope '{scope}'"


def _outcome_for_stranger(call: Call, kind: str) -> str:
    """What is not named is the stranger's own."""
    refused = _outcome_for_key(call, kind, ALL_SCOPES)
    named = set(_PARAMETER.findall(call.path)) - SHARED_OBJECTS
    if refused != LET_IN or not named:
        return refused
    return HIDDEN if "project_id" in named else NOT_FOUND


def _sign_in(cast: Cast, name: str, role: Role, projects: list[Project]) -> Headers:
    """Somebody of Alice's organisation who belongs to these projects of it."""
    person = make_person(name)
    organization = cast.alice.organization
    with tenant_scope(organization.id):
        membership = Membership.objects.create(
            organization=organization, user=User.objects.get(email=person.email), role=role
        )
        for project in projects:
            ProjectMembership.objects.create(
                organization=organization, project=project, membership=membership, role=ProjectRole.MEMBER
            )
        for booked_in in (None, *Project.objects.all()):  # made with the first call otherwise
            session_key(membership=membership, project=booked_in)
    return {"X-Session-Token": str(person.token), "OpenAI-Organization": organization.wire_id}


def _kind_with(scope: str) -> str:
    return "project" if scope in PROJECT_SCOPES else "admin"


def _scopes_beside(scope: str) -> frozenset[str]:
    return PROJECT_SCOPES if scope in PROJECT_SCOPES else ADMIN_SCOPES


def _make_key(cast: Cast, scopes: frozenset[str]) -> Headers:
    """A key of Alice's: of her project, or an admin key where the scopes are an admin key's."""
    if scopes <= ADMIN_SCOPES:
        organization_id = cast.alice.organization.id
        return _bearer(create_admin_key(organization_id=organization_id, name="k", actor="system", scopes=scopes).token)
    return _bearer(create_api_key(project=cast.alice.project, name="k", actor="system", scopes=scopes).token)


def _key_of(member: Member, kind: str) -> Headers:
    return _bearer({"project": member.token, "admin": member.admin_token}[kind])


def _bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def _filled(text: str, ids: dict[str, str]) -> str:
    return _PARAMETER.sub(lambda match: ids[match[1]], text)


def _send(method: str, path: str, headers: Headers, body: bytes, content_type: str) -> Any:
    return _client.generic(method, path, body, content_type, headers=headers)


def _outcome(method: str, path: str, headers: Headers, body: bytes, content_type: str) -> str:
    """Code and message of a refusal at the door, or one of the words above."""
    answer = _send(method, path, headers, body, content_type)
    error = answer.json()["error"] if answer.status_code >= 400 else {}
    if answer.status_code in (401, 403):
        return f"{error['code']} {error['message']}"
    if answer.status_code == 404:
        is_at_the_door = error["param"] in ("OpenAI-Organization", "OpenAI-Project", "project_id")
        return HIDDEN if is_at_the_door else NOT_FOUND
    assert answer.status_code in (200, 400, 415), answer.content
    return LET_IN
