"""An invitation brings its addressee in, once, in time, and nobody else."""

from collections.abc import Callable
from importlib import import_module
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from django.core import mail
from pytest_django import Settings

from accounts.models import User
from accounts.services import get_or_create_user, send_due_emails
from common.errors import HoneError
from operations.services import delete_organization
from tenants.invites import accept_invite, invite_token
from tenants.models import Invite, Membership, Organization, Project, ProjectMembership
from tenants.scope import tenant_scope
from tenants.services import set_organization_status
from tests.support.cast import Cast, Member
from tests.support.facts import change, count, query_owner
from tests.support.people import roles
from tests.support.tables import rows_of
from tests.support.threads import at_once

INVITES = "/v1/organization/invites"


@pytest.fixture
def dora(database: None) -> User:
    return get_or_create_user(email="dora@example.com")


def invite(member: Member, *, email: str = "dora@example.com", role: str = "developer", **fields: Any) -> Any:
    answer = member.admin.post(INVITES, {"email": email, "role": role, **fields})
    assert answer.status_code == 200, answer.content
    return answer.json()


def token_of(invited: Any) -> str:
    return invite_token(invite_id=Invite.all_tenants.get(email=invited["email"], accepted_at=None).id)


def expire() -> None:
    assert change("UPDATE tenants_invite SET expires_at = now()") == 1


def refused(token: str, user: User) -> str:
    with pytest.raises(HoneError) as caught:
        accept_invite(token=token, user=user)
    return caught.value.code


def test_the_mail_carries_the_token_and_nothing_else_does(cast: Cast, dora: User) -> None:
    invited = invite(cast.alice)
    token = token_of(invited)
    stored = str([rows_of(cast.alice.organization.id), query_owner("SELECT * FROM accounts_email")])
    assert token not in stored
    assert token.rpartition("_")[2] not in stored
    assert [send_due_emails(), send_due_emails()] == [1, 0]
    (sent,) = mail.outbox
    assert (sent.to, sent.subject) == (["dora@example.com"], "Join Alice's company on Hone")
    assert token in sent.body
    member = accept_invite(token=token, user=dora)
    assert (member.user_id, member.role) == (dora.id, "developer")
    assert roles(cast.alice)["dora@example.com"] == "developer"
    shown = cast.alice.admin.get(f"{INVITES}/{invited['id']}").json()
    assert (shown["status"], shown["role"], shown["organization_role"]) == ("accepted", "reader", "developer")


def test_a_mail_is_queued_with_its_invitation_or_not_at_all(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tenants.invites.remember", crash)
        assert cast.alice.admin.post(INVITES, {"email": "dora@example.com", "role": "viewer"}).status_code == 500
    assert (count("tenants_invite"), count("accounts_email")) == (0, 0)
    again = {"x-stainless-retry-count": "1"}
    for headers in ({}, again):
        answer = cast.alice.admin.post(INVITES, {"email": "dora@example.com", "role": "viewer"}, headers=headers)
        assert answer.status_code == 200
    assert (count("tenants_invite"), count("accounts_email")) == (1, 1)


def test_a_mail_that_fails_is_sent_while_the_invitation_is_valid(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    invite(cast.alice)
    with monkeypatch.context() as patch:
        patch.setattr("accounts.services.send_mail", disconnect)
        assert send_due_emails() == 0
    change("UPDATE accounts_email SET next_attempt_at = now(), created_at = now() - interval '6 days'")
    assert send_due_emails() == 1
    assert [sent.to for sent in mail.outbox] == [["dora@example.com"]]


@pytest.mark.parametrize("end", ["deleted", "expired", "accepted", "organisation deleted"])
def test_nothing_is_mailed_that_has_come_to_an_end(cast: Cast, dora: User, end: str) -> None:
    invited = invite(cast.alice)
    ends: dict[str, Callable[[], Any]] = {
        "deleted": lambda: cast.alice.admin.delete(f"{INVITES}/{invited['id']}"),
        "expired": expire,
        "accepted": lambda: accept_invite(token=token_of(invited), user=dora),
        "organisation deleted": lambda: delete_organization(
            wire_id=cast.alice.organization.wire_id, confirm="Alice's company", by="ops@example.com"
        ),
    }
    ends[end]()
    assert send_due_emails() == 0
    assert (mail.outbox, count("accounts_email")) == ([], 0)


def test_invitations_of_before_the_outbox_are_moved_there(cast: Cast) -> None:
    """Those that had not been mailed."""
    (first, *_) = import_module("tenants.migrations.0012_invites_in_the_outbox").Migration.operations
    assert "sent_at IS NULL" in first.sql
    invited = invite(cast.alice)
    gone = invite(cast.alice, email="eve@example.com")
    change("DELETE FROM accounts_email")
    change("ALTER TABLE tenants_invite ADD COLUMN sent_at timestamptz")
    try:
        change("UPDATE tenants_invite SET sent_at = now() WHERE email = %s", gone["email"])
        assert change(first.sql) == 1
    finally:
        change("ALTER TABLE tenants_invite DROP COLUMN sent_at")
    assert query_owner('SELECT "to", about FROM accounts_email') == [("dora@example.com", invited["id"])]
    assert send_due_emails() == 1


def test_accepting_twice_at_once_makes_one_member(cast: Cast, dora: User) -> None:
    token = token_of(invite(cast.alice))
    first, second = at_once(*[lambda: accept_invite(token=token, user=dora)] * 2)
    assert first.id == second.id
    with tenant_scope(cast.alice.organization.id):
        assert Membership.objects.filter(user_id=dora.id).count() == 1
    after = rows_of(cast.alice.organization.id)
    assert accept_invite(token=token, user=dora).id == first.id
    assert rows_of(cast.alice.organization.id) == after


def test_only_the_addressee_accepts(cast: Cast, dora: User) -> None:
    token = token_of(invite(cast.alice))
    eve = get_or_create_user(email="eve@example.com")
    before = rows_of(cast.alice.organization.id)
    forged = token[:-1] + format(15 - int(token[-1], 16), "x")
    assert [refused(token, eve), refused(forged, dora), refused("", dora), refused("hone_iv_x", dora)] == [
        "not_found"
    ] * 4
    assert rows_of(cast.alice.organization.id) == before


def test_one_that_has_expired_or_been_taken_back_opens_nothing(cast: Cast, dora: User) -> None:
    invited = invite(cast.alice)
    token = token_of(invited)
    expire()
    assert refused(token, dora) == "conflict"
    assert cast.alice.admin.get(f"{INVITES}/{invited['id']}").json()["status"] == "expired"
    assert cast.alice.admin.delete(f"{INVITES}/{invited['id']}").status_code == 200
    assert refused(token, dora) == "not_found"
    assert cast.alice.admin.delete(f"{INVITES}/{invited['id']}").status_code == 404
    assert "dora@example.com" not in roles(cast.alice)


def test_taking_back_and_accepting_at_once(cast: Cast, dora: User) -> None:
    invited = invite(cast.alice)
    token = token_of(invited)

    def accept() -> str:
        try:
            accept_invite(token=token, user=dora)
        except HoneError as error:
            return error.code
        return "accepted"

    accepted, deleted = at_once(accept, lambda: cast.alice.admin.delete(f"{INVITES}/{invited['id']}"))
    assert (accepted, deleted.status_code) in (("accepted", 409), ("not_found", 200))
    assert ("dora@example.com" in roles(cast.alice)) == (accepted == "accepted")


def test_who_was_removed_does_not_come_back_with_an_old_token(cast: Cast, dora: User) -> None:
    token = token_of(invite(cast.alice))
    accept_invite(token=token, user=dora)
    users = cast.alice.admin.get("/v1/organization/users?emails[]=dora@example.com").json()["data"]
    assert cast.alice.admin.delete(f"/v1/organization/users/{users[0]['id']}").status_code == 200
    assert refused(token, dora) == "conflict"
    assert "dora@example.com" not in roles(cast.alice)


def test_a_suspended_organisation_takes_nobody_in(cast: Cast, dora: User) -> None:
    token = token_of(invite(cast.alice))
    set_organization_status(organization=cast.alice.organization, status=Organization.Status.SUSPENDED, actor="system")
    before = rows_of(cast.alice.organization.id)
    assert refused(token, dora) == "organization_inactive"
    assert rows_of(cast.alice.organization.id) == before


def test_projects_come_along_unless_they_have_been_archived(cast: Cast, dora: User) -> None:
    other = cast.alice.admin.post("/v1/organization/projects", {"name": "Other"}).json()["id"]
    own = cast.alice.project.wire_id
    token = token_of(invite(cast.alice, projects=[{"id": own, "role": "owner"}, {"id": other, "role": "member"}]))
    cast.alice.admin.post(f"/v1/organization/projects/{other}/archive")
    accept_invite(token=token, user=dora)
    with tenant_scope(cast.alice.organization.id):
        (joined,) = ProjectMembership.objects.select_related("project")
    assert (joined.project.wire_id, joined.role) == (own, "owner")


def test_an_address_has_one_pending_invitation(cast: Cast) -> None:
    body = {"email": "Dora@Example.com ", "role": "viewer"}
    answers = at_once(*[lambda: cast.alice.admin.post(INVITES, body)] * 3)
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert count("tenants_invite") == 1
    retried = cast.alice.admin.post(INVITES, body, headers={"x-stainless-retry-count": "1"})
    assert retried.json() == next(answer.json() for answer in answers if answer.status_code == 200)
    expire()
    assert cast.alice.admin.post(INVITES, body).json()["status"] == "pending"
    assert count("tenants_invite") == 1


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"email": "nobody", "role": "viewer"}, 400, "email"),
        ({"email": "a\n@example.com", "role": "viewer"}, 400, "email"),
        ({"email": "eve@example.com"}, 400, "role"),
        ({"email": "bob@example.com", "role": "viewer"}, 409, "email"),
        ({"email": "eve@example.com", "role": "viewer", "projects": [{"id": "proj_1", "role": "member"}]}, 404,
         "projects"),
    ],
)  # fmt: skip
def test_an_invitation_that_makes_no_sense(cast: Cast, fields: dict[str, Any], status: int, param: str) -> None:
    before = rows_of(cast.alice.organization.id)
    answer = cast.alice.admin.post(INVITES, fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert rows_of(cast.alice.organization.id) == before


def test_a_strangers_project_cannot_be_given(cast: Cast) -> None:
    with tenant_scope(cast.charlie.organization.id):
        project = Project.objects.get()
    projects = [{"id": project.wire_id, "role": "member"}]
    answer = cast.alice.admin.post(INVITES, {"email": "eve@example.com", "role": "viewer", "projects": projects})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_sender_is_the_installations(cast: Cast, settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "hone@models.example"
    invite(cast.alice)
    send_due_emails()
    assert mail.outbox[0].from_email == "hone@models.example"


def crash(*_: object) -> None:
    raise ZeroDivisionError


def disconnect(*_: object) -> None:
    raise SMTPServerDisconnected
