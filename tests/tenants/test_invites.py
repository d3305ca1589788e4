"""An invitation brings its addressee in, once, in time, and nobody else."""

import smtplib
from typing import Any

import pytest
from django.core import mail
from pytest_django import Settings

from accounts.models import User
from accounts.services import get_or_create_user
from common.errors import HoneError
from tenants.invites import accept_invite, invite_token, send_invites
from tenants.models import Invite, Membership, Organization, Project, ProjectMembership
from tenants.scope import tenant_scope
from tenants.services import set_organization_status
from tenants.tasks import send_invites as send_invites_task
from tests.support.cast import Cast, Member
from tests.support.facts import change, count
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
    assert token not in str(rows_of(cast.alice.organization.id))
    assert token.rpartition("_")[2] not in str(rows_of(cast.alice.organization.id))
    send_invites_task.run()
    send_invites_task.run()
    (sent,) = mail.outbox
    assert (sent.to, sent.subject) == (["dora@example.com"], "Join Alice's company on Hone")
    assert token in sent.body
    member = accept_invite(token=token, user=dora)
    assert (member.user_id, member.role) == (dora.id, "developer")
    assert roles(cast.alice)["dora@example.com"] == "developer"
    shown = cast.alice.admin.get(f"{INVITES}/{invited['id']}").json()
    assert (shown["status"], shown["role"], shown["organization_role"]) == ("accepted", "reader", "developer")


def test_a_mail_that_fails_is_sent_later(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise smtplib.SMTPServerDisconnected

    invite(cast.alice)
    invite(cast.alice, email="eve@example.com")
    with monkeypatch.context() as patch:
        patch.setattr("tenants.invites.send_mail", refuse)
        assert send_invites() == 0
    assert mail.outbox == []
    assert send_invites() == 2
    assert {sent.to[0] for sent in mail.outbox} == {"dora@example.com", "eve@example.com"}
    assert send_invites() == 0


def test_nothing_is_mailed_that_has_expired_or_been_taken_back(cast: Cast) -> None:
    gone = invite(cast.alice, email="gone@example.com")
    assert cast.alice.admin.delete(f"{INVITES}/{gone['id']}").status_code == 200
    invite(cast.alice)
    expire()
    assert send_invites() == 0
    assert mail.outbox == []


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
    send_invites()
    assert mail.outbox[0].from_email == "hone@models.example"
