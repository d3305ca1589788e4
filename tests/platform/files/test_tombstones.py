"""Rows of files that were deleted long ago."""

from pathlib import Path

import pytest
from pytest_django import Settings

from files.models import StoredFile
from files.services import forget_deleted_files
from files.tasks import forget_deleted
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.model import add_model
from tests.support.rows import cancel, jsonl, line, retrieve, submit
from tests.support.tables import rows_of
from tests.support.worker import run_control


def deleted(member: Member) -> str:
    """The id of a file that was deleted just now."""
    file_id: str = member.client.upload(b"{}\n").json()["id"]
    assert member.client.delete(f"/v1/files/{file_id}").status_code == 200
    return file_id


def let_age(days: float) -> None:
    """As if all deletions had happened so long ago."""
    change("UPDATE files_storedfile SET deleted_at = now() - make_interval(secs => %s)", days * 86_400)


def test_a_deleted_file_is_forgotten_after_thirty_days(cast: Cast) -> None:
    deleted(cast.alice), deleted(cast.charlie)
    let_age(29.99)
    assert forget_deleted_files() == 0
    let_age(30.01)
    audit = rows_of(cast.alice.organization.id)["tenants_auditevent"]
    kept = cast.alice.client.upload(b"{}\n").json()["id"]
    forget_deleted()
    assert [file.wire_id for file in StoredFile.all_tenants.all()] == [kept]
    assert set(audit) < set(rows_of(cast.alice.organization.id)["tenants_auditevent"])


def test_zero_days_keep_every_row(cast: Cast, settings: Settings) -> None:
    deleted(cast.alice)
    let_age(10_000)
    settings.DELETED_FILE_RETENTION_DAYS = 0
    assert forget_deleted_files() == 0
    assert StoredFile.all_tenants.count() == 1


def test_bytes_that_are_still_there_keep_their_row(cast: Cast) -> None:
    deleted(cast.alice)
    change("UPDATE files_storedfile SET storage_key = 'could-not-be-deleted'")
    let_age(31)
    assert forget_deleted_files() == 0


def test_the_file_of_a_batch_keeps_its_row(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    cancel(cast.alice, batch)
    run_control()
    ended = retrieve(cast.alice, batch)
    for name in ("input_file_id", "error_file_id"):
        assert cast.alice.client.delete(f"/v1/files/{ended[name]}").status_code == 200
    unrelated = deleted(cast.alice)
    let_age(31)
    assert forget_deleted_files() == 1
    assert unrelated not in {file.wire_id for file in StoredFile.all_tenants.all()}
    assert retrieve(cast.alice, batch) == ended


@pytest.mark.parametrize("limit", [1, 2])
def test_a_round_forgets_so_many_and_the_next_goes_on(cast: Cast, limit: int) -> None:
    for member in (cast.alice, cast.charlie, cast.alice):
        deleted(member)
    let_age(31)
    assert sum(forget_deleted_files(limit=limit) for _ in range(3)) == 3
    assert StoredFile.all_tenants.count() == 0
