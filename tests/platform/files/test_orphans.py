"""Bytes that nothing refers to go, after a day; all others stay."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import override_settings

from common import orphans
from common.orphans import delete_orphaned_blobs
from common.storage import Removed, save_addressed, save_new
from files.models import StoredFile
from files.tasks import delete_orphans
from tests.services import storage_root
from tests.support.blobs import blobs
from tests.support.cast import Cast
from tests.support.everything import make_everything
from tests.support.rows import jsonl, line, submit
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.worker import Worker, result, run_control

KINDS = {"adapters", "datasets", "evaluations", "files", "parts", "reports", "segments", "training"}


@pytest.fixture(autouse=True)
def clean(database: None) -> Iterator[None]:
    """What earlier tests have left behind would be found too."""
    let_age(25)
    delete_orphaned_blobs()
    yield
    let_age(0)


def let_age(hours: float, *keys: str) -> None:
    """As if these blobs, or all, had been written so long ago."""
    written_at = time.time() - hours * 3_600
    for key in keys or blobs():
        os.utime(storage_root() / key, (written_at, written_at))


def leave_behind(cast: Cast, kind: str = "files", content: bytes = b"orphan") -> str:
    return save_new(cast.alice.organization.id, kind, content)


@pytest.mark.parametrize(
    "kind", ["files", "parts", "reports", "segments", "adapters", "datasets", "evaluations", "training"]
)
@pytest.mark.parametrize(("hours", "is_kept"), [(0, True), (23.9, True), (24.1, False)])
def test_a_blob_without_a_row_is_deleted_after_a_day(cast: Cast, kind: str, hours: float, is_kept: bool) -> None:
    key = leave_behind(cast, kind)
    let_age(hours, key)
    assert delete_orphaned_blobs() == (Removed() if is_kept else Removed(blobs=1, bytes=6))
    assert (key in blobs()) == is_kept


def test_whatever_a_row_refers_to_stays_however_old_it_is(cast: Cast, tmp_path: Path) -> None:
    make_everything(cast.alice, tmp_path)
    submit(cast.charlie, jsonl([line(1), line(2)]))
    run_control()
    grant = Worker(name="node-2").lease()
    grant.put(0, [result(1)])  # a segment that waits for the end of its batch
    let_age(1_000)
    before = blobs(), rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)
    folders = (f"{cast.alice.organization.id.hex}/", f"{cast.charlie.organization.id.hex}/")
    assert {key.split("/")[1] for key in before[0] if key.startswith(folders)} == KINDS
    assert delete_orphaned_blobs() == Removed()
    assert (blobs(), rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)) == before


def test_only_kinds_that_somebody_has_registered_are_touched(cast: Cast) -> None:
    keys = {leave_behind(cast, "nobodys"), save_addressed("catalog/tokenizers", b"{}"), save_addressed("other", b"x")}
    let_age(1_000)
    assert delete_orphaned_blobs() == Removed()
    assert keys <= blobs()


def test_a_blob_belongs_to_the_rows_of_its_own_organisation(cast: Cast) -> None:
    # Charlie's row does not keep a blob alive that lies in Alice's folder.
    key = leave_behind(cast)
    cast.charlie.client.upload(b"{}\n")
    StoredFile.all_tenants.update(storage_key=key)
    let_age(25)
    assert delete_orphaned_blobs().blobs == 2


def test_blobs_of_an_organisation_that_is_no_more_are_deleted(database: None) -> None:
    key = save_new(uuid4(), "files", b"x")
    let_age(25, key)
    assert delete_orphaned_blobs() == Removed(blobs=1, bytes=1)


def test_a_row_that_is_committed_while_the_sweep_runs_keeps_its_blob(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    referenced = orphans._owners["files"]
    uploaded = []

    def upload_meanwhile(organization_id: UUID, keys: list[str]) -> set[str]:
        found = referenced(organization_id, keys)
        uploaded.extend(at_once(lambda: cast.alice.client.upload(b"{}\n").json()["id"]))
        return found

    key = leave_behind(cast)
    let_age(25, key)
    monkeypatch.setitem(orphans._owners, "files", upload_meanwhile)
    assert delete_orphaned_blobs() == Removed(blobs=1, bytes=6)
    (file_id,) = uploaded
    assert cast.alice.client.get(f"/v1/files/{file_id}/content").getvalue() == b"{}\n"


def test_a_blob_that_goes_while_the_sweep_runs_is_fine(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def discard_meanwhile(organization_id: UUID, keys: list[str]) -> set[str]:
        default_storage.delete(keys[0])
        return set()

    keys = [leave_behind(cast), leave_behind(cast)]
    let_age(25, *keys)
    monkeypatch.setitem(orphans._owners, "files", discard_meanwhile)
    assert delete_orphaned_blobs() == Removed(blobs=1, bytes=6)
    assert not blobs() & set(keys)


def test_a_folder_is_worked_through_page_by_page(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "PAGE", 2)
    cast.alice.client.upload(b"{}\n")
    kept = blobs()
    for _ in range(5):
        leave_behind(cast)
    let_age(25)
    assert delete_orphaned_blobs() == Removed(blobs=5, bytes=30)
    assert blobs() == kept


def test_the_log_says_how_much_was_deleted(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    let_age(25, leave_behind(cast), leave_behind(cast))
    with caplog.at_level(logging.WARNING):
        delete_orphans()
        delete_orphans()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "'blobs': 2" in message
    assert "'bytes': 12" in message


def test_a_storage_without_folders_and_paths_is_swept_alike(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(STORAGES={"default": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}):
        assert delete_orphaned_blobs() == Removed()
        file_id = cast.alice.client.upload(b"{}\n").json()["id"]
        orphan = default_storage.save(f"{cast.alice.organization.id.hex}/files/{uuid4().hex}", ContentFile(b"orphan"))
        assert delete_orphaned_blobs() == Removed()
        monkeypatch.setattr(orphans, "ORPHANED_AFTER", -orphans.ORPHANED_AFTER)  # as if all had been written yesterday
        assert delete_orphaned_blobs() == Removed(blobs=1, bytes=6)
        assert not default_storage.exists(orphan)
        assert cast.alice.client.get(f"/v1/files/{file_id}/content").getvalue() == b"{}\n"
