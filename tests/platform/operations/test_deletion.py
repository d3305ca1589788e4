"""A deleted organisation leaves its books, and nothing else; nobody else loses anything."""

import json
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

from accounts.models import User
from accounts.services import create_operator
from batches.models import Batch
from common.errors import HoneError
from common.ids import to_wire, uuid7
from common.storage import IncomingBlob
from operations import services
from operations.holdings import EMPTIED, KEPT, references, removed_models, tenant_models
from operations.services import delete_organization
from tenants.models import ApiKey, AuditEvent, Membership, Organization, Project, Role, TenantModel
from tenants.scope import tenant_scope
from tenants.services import create_api_key, set_organization_status
from tests.services import storage_root
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.everything import Everything
from tests.support.facts import count, query_owner
from tests.support.rows import retrieve
from tests.support.sign_in import let_throttles_pass, make_person
from tests.support.tables import rows_of, tenant_tables
from tests.support.threads import at_once
from tests.support.worker import Worker, run_control

NAME = "Alice's company"
EMPTIED_TABLES = {model._meta.db_table for model in EMPTIED} - {"tenants_serviceaccount"}
"""Of those with a row that the books refer to; nothing was used through the service account."""


def delete(member: Member, *options: str, name: str = NAME) -> dict[str, Any]:
    """Run the command; what it prints."""
    out = StringIO()
    arguments = (member.organization.wire_id, "--confirm", name, "--by", "ops@example.com", *options)
    call_command("delete_organization", *arguments, stdout=out)
    printed: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return printed


def end_work(member: Member) -> None:
    """Cancel all batches, and let the workers end them; as an owner would before the deletion."""
    with pytest.raises(CommandError, match="not all has ended"):
        delete(member, "--cancel-work", "--wait", "0")
    run_control()


def folder_of(member: Member) -> set[str]:
    return {key for key in blobs() if key.startswith(f"{member.organization.id.hex}/")}


def state(member: Member) -> tuple[Any, set[str]]:
    return rows_of(member.organization.id), folder_of(member)


def test_what_is_left_are_the_books(cast: Cast, everything: Everything) -> None:
    end_work(cast.alice)
    before = state(cast.alice)
    others = state(cast.charlie)
    assert [table for table, rows in before[0].items() if not rows] == ["files_fileuse"]  # no work, no use
    size = sum((storage_root() / key).stat().st_size for key in before[1])
    printed = delete(cast.alice)
    rows, stored = state(cast.alice)
    assert stored == set()
    assert {table for table, left in rows.items() if left} == KEPT.keys() & tenant_tables().keys() | EMPTIED_TABLES
    assert rows["metering_usageevent"] == before[0]["metering_usageevent"]
    assert set(before[0]["tenants_auditevent"]) < set(rows["tenants_auditevent"])
    assert state(cast.charlie) == others
    assert printed == {
        "organization_id": cast.alice.organization.wire_id,
        "removed": {
            table: len(before[0][table]) - (1 if table in EMPTIED_TABLES else 0)
            for table in printed["removed"]
        },
        "kept": {table: len(rows[table]) for table in printed["kept"]},
        "people": 2,
        "blobs": len(before[1]),
        "bytes": size,
    }  # fmt: skip
    assert printed["removed"].keys() | printed["kept"].keys() == tenant_tables().keys() - {"tenants_organization"}


def test_no_name_address_or_key_is_left_outside_of_the_audit_trail(cast: Cast, everything: Everything) -> None:
    end_work(cast.alice)
    delete(cast.alice)
    rows = rows_of(cast.alice.organization.id)
    left = " ".join(row for table, found in rows.items() for row in found if table != "tenants_auditevent")
    telling = ["Alice", "alice@example.com", "bob@example.com", "Default project", "First key", "row-1", "rows.jsonl"]
    assert [text for text in telling if text in left] == []
    with tenant_scope(cast.alice.organization.id):
        (organization,) = Organization.objects.all()
        (key,) = ApiKey.objects.all()
        (project,) = Project.objects.all()
    assert (organization.name, organization.status) == ("(deleted)", "deleted")
    assert (bytes(key.digest), key.scopes, key.created_by_id) == (b"", [], None)
    assert key.revoked_at is not None
    assert (project.name, project.status) == ("(deleted)", "archived")
    for client in (cast.alice.client, cast.alice.admin):
        assert client.get("/v1/files").json()["error"]["code"] == "invalid_api_key"
    assert set(User.objects.using("system").values_list("email", flat=True)) == {"charlie@example.com"}


def test_nothing_is_left_of_how_its_people_signed_in(database: None) -> None:
    let_throttles_pass()
    ada, bob = make_person("Ada"), make_person("Bob")
    ada.activate_totp()
    founded = ada.call("POST", "/v1/organizations", {"name": "Analytical Engines"}).json()
    deletion = delete_organization(wire_id=founded["id"], confirm="Analytical Engines", by="ops@example.com")
    assert deletion.people == 1
    assert ada.auth("GET", "auth/session").status_code == 410
    for table in ("accounts_user", "account_emailaddress", "usersessions_usersession", "django_session"):
        assert (table, count(table)) == (table, 1)
    assert count("mfa_authenticator") == 0
    assert bob.auth("GET", "auth/session").status_code == 200


def test_the_audit_trail_says_who_did_it(cast: Cast, everything: Everything) -> None:
    end_work(cast.alice)
    printed = delete(cast.alice)
    with tenant_scope(cast.alice.organization.id):
        started, suspended, deleted = AuditEvent.objects.order_by("-id")[:3][::-1]
    assert [event.action for event in (started, suspended, deleted)] == [
        "organization.deletion_started", "organization.suspended", "organization.deleted",
    ]  # fmt: skip
    assert started.details == {"by": "ops@example.com"}
    assert deleted.details == {"by": "ops@example.com", "removed": printed["removed"], "blobs": printed["blobs"]}
    assert {event.subject for event in (started, suspended, deleted)} == {cast.alice.organization.wire_id}


def test_again_is_harmless(cast: Cast, everything: Everything) -> None:
    end_work(cast.alice)
    delete(cast.alice)
    before = rows_of(cast.alice.organization.id)
    assert delete(cast.alice) == {
        "organization_id": cast.alice.organization.wire_id,
        "removed": {}, "kept": {}, "people": 0, "blobs": 0, "bytes": 0,
    }  # fmt: skip
    assert rows_of(cast.alice.organization.id) == before
    with pytest.raises(HoneError, match="has been deleted"):
        set_organization_status(
            organization=cast.alice.organization, status=Organization.Status.ACTIVE, actor="system"
        )  # fmt: skip
    assert rows_of(cast.alice.organization.id) == before


@pytest.mark.parametrize("name", ["", "alice's company", "Alice's company ", "Charlie's company", "(deleted)"])
def test_another_name_deletes_nothing(cast: Cast, name: str) -> None:
    before = rows_of(cast.alice.organization.id)
    with pytest.raises(CommandError, match="not that of the organisation"):
        delete(cast.alice, name=name)
    assert rows_of(cast.alice.organization.id) == before


def test_an_unknown_organisation(database: None) -> None:
    for wire_id in ("", "org_", to_wire("org_", uuid7())):
        with pytest.raises(HoneError, match="No such organisation"):
            delete_organization(wire_id=wire_id, confirm="x", by="x")


def test_open_work_refuses_the_deletion(cast: Cast, everything: Everything) -> None:
    before = state(cast.alice)
    work = f"{everything.batch_id} is in_progress; {everything.job_id} is queued; 3 leases are open"
    with pytest.raises(CommandError, match=work):
        delete(cast.alice)
    assert state(cast.alice) == before


def test_work_is_ended_in_the_ordinary_way_before_anything_goes(cast: Cast, everything: Everything) -> None:
    grant = Worker(name="node-2").lease()
    with pytest.raises(CommandError, match=f"{everything.batch_id} is cancelling; 1 leases are open"):
        delete(cast.alice, "--cancel-work", "--wait", "0")
    assert cast.alice.client.get("/v1/files").json()["error"]["code"] == "invalid_api_key"
    assert grant.heartbeat() == "cancel"
    assert grant.fail("cancelled").status_code == 200
    with pytest.raises(CommandError, match="cancelling; 1 leases are open"):  # its files are still to be written
        delete(cast.alice, "--cancel-work", "--wait", "0")
    run_control()
    (batch,) = query_owner("SELECT status, cancelled, pending FROM batches_batch ORDER BY id DESC LIMIT 1")
    assert batch == ("cancelled", 1, 0)
    assert delete(cast.alice, "--cancel-work", "--wait", "0")["removed"]["batches_batch"] == 2


def test_waiting_for_the_workers(cast: Cast, everything: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    naps = []

    def work(seconds: float) -> None:
        naps.append(seconds)
        run_control()

    monkeypatch.setattr("operations.services.time.sleep", work)
    assert delete(cast.alice, "--cancel-work")["removed"]["batches_batch"] == 2
    assert naps == [services.POLL_SECONDS]


def test_an_organisation_that_is_suspended_already(cast: Cast, everything: Everything) -> None:
    set_organization_status(organization=cast.alice.organization, status=Organization.Status.SUSPENDED, actor="system")
    with pytest.raises(CommandError, match="There is open work"):
        delete(cast.alice)
    end_work(cast.alice)
    delete(cast.alice)
    assert Organization.all_tenants.get(id=cast.alice.organization.id).status == "deleted"


def test_a_batch_that_is_held_for_the_operator_is_named(cast: Cast, everything: Everything) -> None:
    end_work(cast.alice)
    Batch.all_tenants.filter(organization_id=cast.alice.organization.id).update(
        status="finalizing", held_reason="lines: (3, 2)"
    )
    before = state(cast.alice)
    with pytest.raises(CommandError, match=r"is finalizing and held: lines: \(3, 2\)"):
        delete(cast.alice)
    assert state(cast.alice) == before


def test_a_person_with_another_place_stays(cast: Cast, everything: Everything) -> None:
    people = User.objects.using("system")
    with tenant_scope(cast.charlie.organization.id):
        Membership.objects.create(
            organization=cast.charlie.organization, user=people.get(email="bob@example.com"), role=Role.VIEWER
        )
    create_operator(email="alice@example.com", password="correct horse battery staple")
    before = rows_of(cast.charlie.organization.id)
    end_work(cast.alice)
    assert delete(cast.alice)["people"] == 0
    assert set(people.values_list("email", flat=True)) == {
        "alice@example.com",
        "bob@example.com",
        "charlie@example.com",
    }
    assert rows_of(cast.charlie.organization.id) == before


def test_a_person_who_made_a_key_elsewhere_stays(cast: Cast, everything: Everything) -> None:
    bob = User.objects.using("system").get(email="bob@example.com")
    create_api_key(project=cast.charlie.project, name="Bob's", actor="system", created_by=bob.id)
    before = rows_of(cast.charlie.organization.id)
    end_work(cast.alice)
    assert delete(cast.alice)["people"] == 1
    assert rows_of(cast.charlie.organization.id) == before


STEPS = ["_close", "_remove_rows", "_empty_rows", "_remove_people", "delete_folder", "_bury"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_before", [True, False])
def test_a_deletion_that_was_killed_is_taken_up_again(
    cast: Cast, everything: Everything, monkeypatch: pytest.MonkeyPatch, step: str, is_before: bool
) -> None:
    class KilledError(BaseException):
        pass

    original = getattr(services, step)
    calls: list[Any] = []

    def die(*arguments: Any) -> None:
        if not is_before or calls:
            original(*arguments)
        calls.append(arguments)
        if len(calls) == (2 if step == "_remove_rows" else 1):
            raise KilledError

    end_work(cast.alice)
    others = state(cast.charlie)
    with monkeypatch.context() as patch:
        patch.setattr(services, step, die)
        with pytest.raises(KilledError):
            delete(cast.alice)
    delete(cast.alice)
    rows, stored = state(cast.alice)
    assert {table for table, left in rows.items() if left} == KEPT.keys() & tenant_tables().keys() | EMPTIED_TABLES
    assert stored == set()
    assert Organization.all_tenants.get(id=cast.alice.organization.id).status == "deleted"
    assert User.objects.using("system").count() == 1
    assert state(cast.charlie) == others


def test_an_upload_that_is_under_way_leaves_nothing_behind(
    cast: Cast, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_work(cast.alice)
    with tenant_scope(cast.alice.organization.id):
        ApiKey.objects.update(revoked_at=None)  # as if nobody had cancelled anything
    keep = IncomingBlob.keep_new

    def delete_meanwhile(blob: IncomingBlob, organization_id: Any, kind: str) -> str:
        monkeypatch.setattr(IncomingBlob, "keep_new", keep)
        at_once(lambda: delete(cast.alice))
        return keep(blob, organization_id, kind)

    monkeypatch.setattr(IncomingBlob, "keep_new", delete_meanwhile)
    answer = cast.alice.client.upload(b"late\n")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "organization_inactive")
    assert folder_of(cast.alice) == set()
    assert rows_of(cast.alice.organization.id)["files_storedfile"] == []


def test_a_create_after_the_suspension_changes_nothing(
    cast: Cast, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its key was checked before.
    from tenants import access

    def suspend_meanwhile(**_: object) -> None:
        set_organization_status(
            organization=cast.alice.organization, status=Organization.Status.SUSPENDED, actor="system"
        )  # fmt: skip

    monkeypatch.setattr(access, "note_key_use", suspend_meanwhile)
    before = rows_of(cast.alice.organization.id)
    answer = cast.alice.client.post(
        "/v1/batches",
        {"input_file_id": everything.file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "organization_inactive")
    after = rows_of(cast.alice.organization.id)
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"tenants_auditevent", "tenants_organization"}  # the suspension


def test_every_model_is_removed_or_kept_by_name() -> None:
    models = {model for model in apps.get_models() if issubclass(model, TenantModel)}
    assert set(tenant_models()) == models
    kept = {model for model in models if model._meta.db_table in KEPT}
    assert kept >= {AuditEvent}
    assert set(removed_models()) == models - kept - {Membership}
    assert not kept & set(EMPTIED)


def test_what_refers_goes_before_what_it_refers_to() -> None:
    order = tenant_models()
    assert [
        (model, target)
        for model in order
        for _, target in references(model)
        if order.index(model) > order.index(target)
    ] == []
    # What is kept refers to nothing but what is kept, and rows that stay empty.
    staying = {model for model in order if model._meta.db_table in KEPT} | set(EMPTIED)
    assert {target for model in staying for _, target in references(model)} <= staying


def test_rows_of_deleted_organisations_do_not_disturb_the_others_work(cast: Cast, everything: Everything) -> None:
    end_work(cast.alice)
    delete(cast.alice)
    file_id = cast.charlie.client.upload(b"{}\n").json()["id"]
    assert cast.charlie.client.get(f"/v1/files/{file_id}").status_code == 200
    assert retrieve(cast.charlie, {"id": everything.batch_id})["error"]["code"] == "not_found"
