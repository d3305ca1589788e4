"""An organisation begins with its ledger."""

import json
from importlib import import_module
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.migrations.loader import MigrationLoader

from accounts.models import User
from billing.models import Account, Posting
from billing.services import open_organization
from common.database import OWNER
from common.ids import from_wire
from tenants.models import ApiKey, AuditEvent, Membership, Organization, Project, Role
from tests.support.cast import ApiClient
from tests.support.facts import query_owner


def counts() -> dict[str, int]:
    models = (Organization, Project, ApiKey, Membership, AuditEvent, Posting, Account)
    return {model.__name__: model.all_tenants.count() for model in models}


def run(**options: Any) -> dict[str, Any]:
    """The command's JSON: the last line of what it prints."""
    out = StringIO()
    arguments = {"name": "Acme", "owner_email": "Owner@Acme.example", **options}
    call_command("create_organization", stdout=out, **arguments)
    made: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return made


def test_a_new_organisation_can_start_working_at_once(database: None) -> None:
    made = run(credit_usd="25.50")
    assert made.keys() == {"organization_id", "project_id", "api_key", "admin_key"}
    answer = ApiClient(made["api_key"]).get("/v1/models", headers={"OpenAI-Project": made["project_id"]})
    assert (answer.status_code, answer["openai-organization"]) == (200, made["organization_id"])
    assert ApiClient(made["admin_key"]).get("/v1/models").json()["error"]["code"] == "wrong_key_type"
    assert Organization.all_tenants.get().name == "Acme"
    found = ApiClient(made["admin_key"]).get("/v1/organization/balance").json()
    assert (found["available"], found["held"], found["spent"]) == ("25.5", "0", "0")
    membership = Membership.all_tenants.select_related("user").get()
    assert (membership.user.email, membership.role) == ("owner@acme.example", Role.OWNER)
    assert not membership.user.has_usable_password()


def test_an_organisation_begins_its_audit_trail(database: None) -> None:
    run()
    events = AuditEvent.all_tenants.order_by("id").values_list("actor", "action")
    assert list(events) == [
        ("system", "organization.created"), ("system", "api_key.created"), ("system", "api_key.created"),
    ]  # fmt: skip


def test_opening_credit_stands_in_the_ledger_and_in_the_audit_trail(database: None) -> None:
    made = run(credit_usd="1")
    posting = Posting.all_tenants.get()
    assert (posting.kind, posting.key, posting.amount_nanos, posting.reason, posting.actor) == (
        "credit", "opening", 1_000_000_000, "Opening credit", "system",
    )  # fmt: skip
    event = AuditEvent.all_tenants.latest("id")
    assert (event.actor, event.action, event.subject) == ("system", "credit.granted", made["organization_id"])
    assert event.details == {
        "posting": posting.wire_id, "amount_nanos": 1_000_000_000, "reason": "Opening credit",
    }  # fmt: skip


def test_two_organisations_may_have_the_same_name_and_owner(database: None) -> None:
    assert run()["organization_id"] != run()["organization_id"]
    assert User.objects.using("system").count() == 1


@pytest.mark.parametrize("amount", ["-1", "abc", "1e3", "NaN", "0.0000000001", "99999999999", "", "1e999999999"])
def test_a_bad_amount_creates_nothing(database: None, amount: str) -> None:
    with pytest.raises(CommandError, match="dollars"):
        run(credit_usd=amount)
    assert counts() == dict.fromkeys(counts(), 0)


@pytest.mark.parametrize("name", ["", " ", "a" * 201, "a\nb", "a\0b"])
def test_a_bad_name_creates_nothing(database: None, name: str) -> None:
    with pytest.raises(CommandError, match="'name' must have 1 to 200 printable characters"):
        run(name=name)
    assert counts() == dict.fromkeys(counts(), 0)


@pytest.mark.parametrize("email", ["", "nobody", "a@b", "a b@example.com", "a" * 250 + "@example.com", "a\0@b.example"])
def test_a_bad_address_creates_nothing(database: None, email: str) -> None:
    with pytest.raises(CommandError, match="Not an e-mail address"):
        run(owner_email=email)
    assert counts() == dict.fromkeys(counts(), 0)


def test_an_organisation_is_opened_with_its_money_or_not_at_all(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr("billing.services.grant_credit", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        open_organization(name="Acme", owner_email="owner@acme.example", credit_nanos=1)
    assert counts() == dict.fromkeys(counts(), 0)


def test_credit_from_before_there_was_a_ledger_opens_it(database: None) -> None:
    rich, _ = (from_wire("org_", run()["organization_id"]) for _ in range(2))
    migration = import_module("billing.migrations.0003_open_ledgers")
    before = MigrationLoader(connections[OWNER]).project_state([("billing", "0002_row_level_security")])
    with transaction.atomic(using=OWNER), connections[OWNER].cursor() as cursor:
        cursor.execute("ALTER TABLE tenants_organization ADD COLUMN opening_credit_nanos bigint DEFAULT 0 NOT NULL")
        cursor.execute("UPDATE tenants_organization SET opening_credit_nanos = 25000000000 WHERE id = %s", [rich])
        with connections[OWNER].schema_editor(atomic=False) as schema_editor:
            migration.open_ledgers(before.apps, schema_editor)
        balances = query_owner("SELECT organization_id, kind, balance_nanos FROM billing_account ORDER BY kind")
        postings = query_owner("SELECT kind, debit, credit, amount_nanos, key, reason, actor FROM billing_posting")
        transaction.set_rollback(True, using=OWNER)
    assert balances == [
        (rich, "available", 25_000_000_000), (rich, "granted", -25_000_000_000), (rich, "held", 0), (rich, "spent", 0),
    ]  # fmt: skip
    assert postings == [
        ("credit", "granted", "available", 25_000_000_000, "opening", "Opening credit", "system")
    ]  # fmt: skip
