"""The ledger as CSV, for whoever keeps the operator's books."""

import csv
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.models import Posting
from common.money import NANOS_PER_USD
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.ledger import grant, guards_off, hold

USD = NANOS_PER_USD


def lines(member: Member, *options: str) -> list[dict[str, str]]:
    out = StringIO()
    call_command("ledger_statement", member.organization.wire_id, *options, stdout=out)
    return list(csv.DictReader(StringIO(out.getvalue())))


def test_a_statement_has_every_posting_oldest_first(dora: Member, cast: Cast) -> None:
    grant(dora, 1_500_000, key="k", reason='Paid, "twice"')
    hold(dora, "batch_1", 3 * USD)
    opening, credit, held = Posting.all_tenants.filter(organization_id=dora.organization.id).order_by("id")
    assert lines(dora) == [
        {
            "id": posting.wire_id, "created_at": posting.created_at.isoformat(), "kind": kind, "debit": debit,
            "credit": to, "amount_usd": usd, "amount_nanos": nanos, "subject": subject, "reason": reason,
            "actor": actor,
        }
        for posting, kind, debit, to, usd, nanos, subject, reason, actor in [
            (opening, "credit", "granted", "available", "10", "10000000000", "", "Opening credit", "system"),
            (credit, "credit", "granted", "available", "0.0015", "1500000", "", 'Paid, "twice"', "operator:olga"),
            (held, "hold", "available", "held", "3", "3000000000", "batch_1", "", ""),
        ]
    ]  # fmt: skip


def test_a_statement_is_of_the_time_that_was_asked_for(dora: Member) -> None:
    with guards_off("billing_posting"):
        change("UPDATE billing_posting SET created_at = %s", datetime(2026, 3, 1, tzinfo=UTC))
    grant(dora, 1, key="k")
    assert [line["reason"] for line in lines(dora, "--since=2026-03-01", "--until=2026-03-02")] == ["Opening credit"]
    assert [line["reason"] for line in lines(dora, "--since=2026-03-01T00:00:01Z")] == ["Paid"]
    assert [line["reason"] for line in lines(dora, "--until=2026-03-01T01:00:00+01:00")] == []
    assert len(lines(dora, "--since=2026-03-01T01:00:00+01:00")) == 2


@pytest.mark.parametrize("option", ["--since=yesterday", "--until=2026-13-01"])
def test_a_moment_that_is_none_is_refused(dora: Member, option: str) -> None:
    with pytest.raises(CommandError, match="invalid moment value"):
        lines(dora, option)


def test_a_stranger_has_no_statement(dora: Member) -> None:
    with pytest.raises(CommandError, match="No such organisation: org_1"):
        call_command("ledger_statement", "org_1")
