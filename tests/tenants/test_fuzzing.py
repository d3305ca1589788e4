"""schemathesis plays every role and every kind of key: whatever it sends, the answer is one that the schema promises.

``HONE_FUZZ_EXAMPLES`` says how many requests that follow the schema each operation gets from each caller who may call
it; half as many do not follow it. The code alone decides what is sent, so a run that fails fails again.
"""

import os
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts.models import User
from common.database import SYSTEM
from tenants.models import Membership, ProjectMembership, ProjectRole, Role
from tenants.permissions import ADMIN_SCOPES, OPERATIONS, PROJECT_SCOPES, ROLE_SCOPES, SEEING_ALL_PROJECTS
from tenants.scope import tenant_scope
from tests.support.cast import MODEL, Cast, Member
from tests.support.contract import schema
from tests.support.everything import Everything, make_everything
from tests.support.jobs import act
from tests.support.routes import public_operations
from tests.support.rows import jsonl, line
from tests.support.sign_in import let_throttles_pass, make_person
from tests.tenants.test_isolation import ghosts, ids_of

EXAMPLES = int(os.environ.get("HONE_FUZZ_EXAMPLES", "2"))
BELONGING = set(Role) - SEEING_ALL_PROJECTS
"""Roles that are members of the project, too: they would not see it otherwise."""
SCOPES = {
    **{role.value: scopes | (PROJECT_SCOPES if role in BELONGING else set()) for role, scopes in ROLE_SCOPES.items()},
    "project key": PROJECT_SCOPES,
    "admin key": ADMIN_SCOPES,
}
"""By caller."""
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDINGS = ("update", "cancel", "delete", "archive")
"""What comes last, because it leaves less to find; a webhook is tested before guessing may move it elsewhere."""
ROUTES = {operation: path for _, path, operation in public_operations()}
"""Paths by operation, with converters."""
IDENTITY = ("Authorization", "X-Session-Token", "OpenAI-Organization", "OpenAI-Project")
"""Headers that say who calls."""
HARD = {
    "invites.accept",  # wants the token of a mail
    "uploads.add_part",  # finds the upload complete
    "uploads.cancel",
    "webhooks.test",  # nobody listens there
}
"""Operations that guessing never gets done."""


def name_of(operation: Any) -> str:
    """As in the permission table."""
    return str(operation.definition.raw["operationId"])


@cache
def operations() -> list[Any]:
    """All of the schema, in the order in which they are played."""
    loaded = schemathesis.openapi.from_dict(schema())
    found: list[Any] = [result.ok() for result in loaded.get_all_operations() if isinstance(result, Ok)]
    order = {verb: place for place, verb in enumerate(ENDINGS, start=1)}
    return sorted(found, key=lambda operation: order.get(name_of(operation).rpartition(".")[2], 0))


@cache
def cases(name: str, mode: GenerationMode) -> st.SearchStrategy[Any]:
    """Requests that follow the schema, or that do not."""
    (operation,) = (operation for operation in operations() if name_of(operation) == name)
    strategy: st.SearchStrategy[Any] = operation.as_strategy(generation_mode=mode)
    return strategy


def headers_of(caller: str, member: Member) -> dict[str, str]:
    """How a caller authenticates: with a key of the member's, or as somebody with a role in the same organisation."""
    if caller == "project key":
        return {"Authorization": f"Bearer {member.token}"}
    if caller == "admin key":
        return {"Authorization": f"Bearer {member.admin_token}"}
    let_throttles_pass()
    person = make_person(f"the-{caller}")
    user = User.objects.using(SYSTEM).get(email=person.email)
    with tenant_scope(member.organization.id):
        membership = Membership.objects.create(organization=member.organization, user_id=user.id, role=Role(caller))
        if membership.role in BELONGING:
            ProjectMembership.objects.create(
                organization=member.organization, project=member.project, membership=membership, role=ProjectRole.MEMBER
            )
    return {
        "X-Session-Token": str(person.token),
        "OpenAI-Organization": member.organization.wire_id,
        "OpenAI-Project": member.project.wire_id,
    }


def paths_of(everything: Everything, name: str) -> dict[str, str]:
    """Parameters of an operation's path, of which some want objects in another state."""
    objects = ids_of(everything, ROUTES[name]) if name in ROUTES else {}
    return {"recipe": "sentiment", **objects}


def members_of(everything: Everything) -> dict[str, Any]:
    """Members of bodies that cannot be guessed."""
    return {
        "name": "Made by guessing",
        "part_ids": [everything.part_id],
        "user_id": everything.user_id,
        "model_ids": [MODEL],
        "allowed_models": [MODEL],
        "url": "https://nowhere.invalid/",
    }


def bodies_of(everything: Everything, file_id: str) -> dict[str, dict[str, Any]]:
    """Bodies that cannot be guessed, by operation."""
    work = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    training = {"model": MODEL, "training_file": everything.training_file_id}
    return {
        "checkpoint_permissions.create": {"project_ids": [everything.project_id]},
        "fine_tuning.create": training,
        "fine_tuning.preview": training,
        "fine_tuning.quote": training,
        "model_aliases.create": {"alias": "guessed", "model": everything.aliased_model},
        "model_aliases.promote": {"model": everything.aliased_model},
        "batches.create": work,
        "batches.quote": work,
        "project_users.create": {"email": "alice@example.com", "role": "member"},
        "uploads.create": {"bytes": 3, "filename": "rows.jsonl", "mime_type": "text/plain", "purpose": "batch"},
    }


def may_call(caller: str, name: str) -> bool:
    """Whether the edge lets a caller pass."""
    permission = OPERATIONS.get(name)
    if permission is None:
        return caller in set(Role)
    return permission.scope is None or permission.scope in SCOPES[caller]


@pytest.mark.parametrize("caller", SCOPES)
def test_every_answer_is_one_that_the_schema_promises(
    cast: Cast, everything: Everything, tmp_path: Path, caller: str
) -> None:
    waiting = {"id": everything.job_id}
    act(cast.alice, waiting, "pause")  # or a node would train it before any of Charlie's
    strangers = make_everything(cast.charlie, tmp_path / "charlie")
    act(cast.alice, waiting, "resume")
    everythings = [everything, strangers]
    files = [cast.alice.client.upload(jsonl([line(1)])).json()["id"], strangers.file_id]
    headers = headers_of(caller, cast.alice)
    statuses: defaultdict[str, set[int]] = defaultdict(set)
    application = WSGIHandler()

    def play(name: str, mode: GenerationMode, examples: int) -> None:
        paths = [*(paths_of(owner, name) for owner in everythings), {"recipe": "ghost"} | ghosts()]
        bodies = [
            (members_of(owner), bodies_of(owner, file).get(name))
            for owner, file in zip(everythings, files, strict=True)
        ]

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(name, mode), path=st.sampled_from(paths), body=st.sampled_from([*bodies, ({}, None)]))
        def send(case: Any, path: dict[str, str], body: tuple[dict[str, Any], dict[str, Any] | None]) -> None:
            case.path_parameters = {parameter: path[parameter] for parameter in case.path_parameters or {}}
            members, whole = body
            if mode == GenerationMode.POSITIVE and isinstance(case.body, dict):
                case.body = whole or case.body | {name: members[name] for name in members if name in case.body}
            for header in IDENTITY:
                case.headers.pop(header, None)
            answer = case.call(app=application, headers=headers, buffered=True)
            case.validate_response(answer, checks=CHECKS, headers=headers)
            statuses[name].add(answer.status_code)

        send()

    for operation in operations():
        name = name_of(operation)
        if may_call(caller, name):
            play(name, GenerationMode.POSITIVE, EXAMPLES)
            play(name, GenerationMode.NEGATIVE, max(1, EXAMPLES // 2))
        else:
            play(name, GenerationMode.POSITIVE, 1)
    allowed = {name for name in statuses if may_call(caller, name)}
    assert {name for name in allowed if not statuses[name] & {200, 206}} <= HARD
    assert all(statuses[name] & {401, 403} for name in statuses.keys() - allowed)
