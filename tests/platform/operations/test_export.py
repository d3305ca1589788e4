"""An export holds all that an organisation owns, nothing of others, and no secret."""

import json
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.core.management import CommandError, call_command
from django.db import InternalError

from common.errors import HoneError
from common.ids import to_wire, uuid7
from common.storage import delete_blob
from files.models import StoredFile
from operations import export
from operations.export import export_organization
from tenants.models import ApiKey
from tenants.scope import TenantScopeError, tenant_scope
from tests.services import storage_root
from tests.support.cast import Cast
from tests.support.everything import Everything
from tests.support.rows import retrieve
from tests.support.tables import rows_of
from tests.support.threads import at_once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "export"


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_every_row_and_every_byte_is_there(cast: Cast, everything: Everything, folder: Path) -> None:
    out = StringIO()
    before = rows_of(cast.alice.organization.id)
    call_command("export_organization", cast.alice.organization.wire_id, "--output", str(folder), stdout=out)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert json.loads(out.getvalue()) == manifest
    assert manifest["organization_id"] == cast.alice.organization.wire_id
    assert rows_of(cast.alice.organization.id) == before
    expected = {table: len(rows) for table, rows in before.items()} | {"accounts_user": 2}
    assert {table: entry["rows"] for table, entry in manifest["tables"].items()} == expected
    assert {table: len(lines(folder / entry["path"])) for table, entry in manifest["tables"].items()} == expected
    with tenant_scope(cast.alice.organization.id):
        files = {file.wire_id: file.sha256 for file in StoredFile.objects.all()}
    assert len(files) == 9
    assert manifest["contents"]["files"] == 9
    assert {path.name: sha256(path.read_bytes()).hexdigest() for path in (folder / "contents").iterdir()} == files
    output_id = retrieve(cast.alice, {"id": everything.finished_batch_id})["output_file_id"]
    content = cast.alice.client.get(f"/v1/files/{output_id}/content").getvalue()
    assert (folder / "contents" / output_id).read_bytes() == content


def test_rows_are_as_they_stand_in_the_tables_without_their_secrets(
    cast: Cast, everything: Everything, folder: Path
) -> None:
    export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    (organization,) = lines(folder / "tables" / "tenants_organization.ndjson")
    assert organization["name"] == "Alice's company"
    batches = lines(folder / "tables" / "batches_batch.ndjson")
    assert [f"batch_{row['id'].replace('-', '')}" for row in batches] == [
        everything.finished_batch_id, everything.batch_id,
    ]  # fmt: skip
    people = lines(folder / "tables" / "accounts_user.ndjson")
    assert sorted(person["email"] for person in people) == ["alice@example.com", "bob@example.com"]
    assert "password" not in people[0]
    for row in lines(folder / "tables" / "tenants_apikey.ndjson"):
        assert "digest" not in row
        assert len(row["public_id"]) == 16


def test_no_secret_and_nothing_of_another_tenant_is_in_any_file(
    cast: Cast, everything: Everything, folder: Path
) -> None:
    export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    everything_written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode()
    digests = [bytes(digest).hex() for digest in ApiKey.all_tenants.values_list("digest", flat=True)]
    secrets = [token.rpartition("_")[2] for token in (cast.alice.token, cast.alice.admin_token, cast.charlie.token)]
    theirs = [str(cast.charlie.organization.id), "charlie@example.com", "Charlie"]
    assert [text for text in (*digests, *secrets, *theirs) if text in everything_written] == []


def test_the_manifest_has_the_digest_of_every_file(cast: Cast, everything: Everything, folder: Path) -> None:
    manifest = export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    named = {entry["path"]: entry["sha256"] for entry in [*manifest["tables"].values(), manifest["contents"]]}
    contents = lines(folder / "contents.ndjson")
    named |= {entry["path"]: entry["sha256"] for entry in contents}
    assert {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    } == named
    assert manifest["contents"]["bytes"] == sum(entry["bytes"] for entry in contents) > 0
    assert {entry["bytes"] for entry in contents} == {
        path.stat().st_size for path in (folder / "contents").iterdir()
    }  # fmt: skip


def test_nobody_else_on_the_machine_can_read_it(cast: Cast, everything: Everything, folder: Path) -> None:
    export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    paths = [folder, *folder.rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}


def test_rows_are_those_of_one_moment(
    cast: Cast, everything: Everything, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_table = export._export_table
    before = rows_of(cast.alice.organization.id)

    def upload_meanwhile(*arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(export, "_export_table", export_table)
        at_once(lambda: cast.alice.client.upload(b"later\n"))
        return export_table(*arguments)

    monkeypatch.setattr(export, "_export_table", upload_meanwhile)
    manifest = export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    assert len(rows_of(cast.alice.organization.id)["files_storedfile"]) == len(before["files_storedfile"]) + 1
    for table in ("files_storedfile", "tenants_auditevent", "tenants_idempotencyrecord"):
        assert manifest["tables"][table]["rows"] == len(before[table])


def test_a_file_that_is_deleted_meanwhile_is_named_as_missing(
    cast: Cast, everything: Everything, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_contents = export._export_contents

    def delete_first(*arguments: Any) -> dict[str, Any]:
        cast.alice.client.delete(f"/v1/files/{everything.file_id}")
        return export_contents(*arguments)

    monkeypatch.setattr(export, "_export_contents", delete_first)
    manifest = export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    assert (manifest["contents"]["files"], manifest["contents"]["missing"]) == (8, 1)
    missing = [entry for entry in lines(folder / "contents.ndjson") if entry["path"] is None]
    assert missing == [{"file_id": everything.file_id, "path": None, "bytes": 0, "sha256": None}]


def test_bytes_that_are_lost_or_changed_end_the_export_without_a_manifest(
    cast: Cast, everything: Everything, folder: Path, tmp_path: Path
) -> None:
    file = StoredFile.all_tenants.get(id=everything.file_id.removeprefix("file-"))
    (storage_root() / file.storage_key).write_bytes(b"others")
    with pytest.raises(HoneError, match="not those that were stored"):
        export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    assert not (folder / "manifest.json").exists()
    delete_blob(file.storage_key)
    with pytest.raises(CommandError, match="The file store is away"):
        call_command(
            "export_organization", cast.alice.organization.wire_id, "--output", str(tmp_path / "second")
        )  # fmt: skip
    assert not (tmp_path / "second" / "manifest.json").exists()


def test_a_folder_with_something_in_it_is_refused(cast: Cast, folder: Path) -> None:
    folder.mkdir(parents=True)
    export_organization(wire_id=cast.alice.organization.wire_id, folder=folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(CommandError, match="is not empty"):
        call_command("export_organization", cast.alice.organization.wire_id, "--output", str(folder))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_unknown_organisation_leaves_no_folder(cast: Cast, folder: Path) -> None:
    for wire_id in ("org_1", to_wire("org_", uuid7()), cast.alice.project.wire_id, ""):
        with pytest.raises(CommandError, match="No such organisation"):
            call_command("export_organization", wire_id, "--output", str(folder))
    assert not folder.exists()


def test_a_snapshot_is_no_scope_inside_another(cast: Cast) -> None:
    with (
        tenant_scope(cast.alice.organization.id),
        pytest.raises(TenantScopeError),
        tenant_scope(cast.alice.organization.id, is_snapshot=True),
    ):
        pass


def test_in_a_snapshot_nothing_can_be_written(cast: Cast) -> None:
    before = rows_of(cast.alice.organization.id)
    with (
        pytest.raises(InternalError, match="read-only transaction"),
        tenant_scope(cast.alice.organization.id, is_snapshot=True),
    ):
        ApiKey.objects.update(name="changed")
    assert rows_of(cast.alice.organization.id) == before
