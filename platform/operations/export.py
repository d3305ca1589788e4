"""All that an organisation owns, written to a folder: its rows as they were at one moment, and its files' bytes.

::

    manifest.json           written last: what there is, with counts and SHA-256 digests
    tables/<table>.ndjson   a row per line, ids as UUIDs (32 digits of them are the end of an id of the API)
    contents.ndjson         a line per stored file: path, bytes, sha256; or path null where it was deleted meanwhile
    contents/<file id>      its bytes

Streamed throughout: memory does not grow with what there is.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import orjson
from django.db import connection
from django.db.models import Model

from accounts.models import User
from common.errors import HoneError
from common.ids import to_wire
from common.storage import CHUNK_BYTES, open_blob
from files.models import StoredFile
from operations.holdings import secret_columns, tenant_models
from operations.selectors import find_organization
from tenants.models import Organization
from tenants.scope import tenant_scope

FETCH_ROWS = 2_000
FILES = StoredFile._meta.db_table
_OWNED = {
    "tenants_organization": "t.id = %s",
    # People are nobody's own.
    "accounts_user": "t.id IN (SELECT user_id FROM tenants_membership WHERE organization_id = %s)",
}
"""What belongs to an organisation in the tables that do not say so in a column of their own."""


@dataclass
class _Output:
    """A file of the export while it is written."""

    file: IO[bytes]
    digest: Any = field(default_factory=sha256)
    size: int = 0
    lines: int = 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def write_line(self, text: bytes) -> None:
        self.write(text + b"\n")
        self.lines += 1


def export_organization(*, wire_id: str, folder: Path) -> dict[str, Any]:
    """Write the export of an organisation to ``folder``, which must be empty or not there yet; returns the manifest.

    ``not_found`` for an unknown organisation, ``conflict`` for a folder with something in it. An export that was
    interrupted has no manifest.
    """
    organization = find_organization(wire_id=wire_id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise HoneError("conflict", f"{folder} is not empty")
    with tenant_scope(organization.id, is_snapshot=True):
        with connection.cursor() as cursor:
            cursor.execute("SELECT now()")
            (taken_at,) = cursor.fetchone()
        exported: list[type[Model]] = [Organization, User, *reversed(tenant_models())]
        tables = {model._meta.db_table: _export_table(model, organization, folder) for model in exported}
    manifest = {
        "organization_id": organization.wire_id,
        "taken_at": taken_at.isoformat(),
        "tables": tables,
        "contents": _export_contents(organization, folder),
    }
    with _create(folder / "manifest.json") as output:
        output.write(json.dumps(manifest, indent=2).encode())
    return manifest


def _export_table(model: type[Model], organization: Organization, folder: Path) -> dict[str, Any]:
    table = model._meta.db_table
    order = ", ".join(f't."{part.column}"' for part in model._meta.pk_fields)
    statement = f"""
        SELECT (to_jsonb(t) - %s::text[])::text FROM {table} t WHERE {_OWNED.get(table, "t.organization_id = %s")}
        ORDER BY {order}
    """  # noqa: S608  # names of our own models
    path = f"tables/{table}.ndjson"
    with _create(folder / path) as output, connection.chunked_cursor() as cursor:
        cursor.execute(statement, [secret_columns(model), organization.id])
        while rows := cursor.fetchmany(FETCH_ROWS):
            for (text,) in rows:
                output.write_line(text.encode())
    return {"path": path, "rows": output.lines, "sha256": output.digest.hexdigest()}


def _export_contents(organization: Organization, folder: Path) -> dict[str, Any]:
    """After the transaction: bytes come over the network, and may be gone by now."""
    total = missing = 0
    with _create(folder / "contents.ndjson") as index, (folder / "tables" / f"{FILES}.ndjson").open("rb") as rows:
        for row in map(orjson.loads, rows):
            if row["deleted_at"] is not None or not row["storage_key"]:
                continue
            entry = _export_content(organization, row, folder)
            index.write_line(orjson.dumps(entry))
            total += entry["bytes"]
            missing += entry["path"] is None
    return {
        "path": "contents.ndjson",
        "files": index.lines - missing,
        "missing": missing,
        "bytes": total,
        "sha256": index.digest.hexdigest(),
    }


def _export_content(organization: Organization, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    file_id = StoredFile._meta.pk.to_python(row["id"])
    wire_id = to_wire(StoredFile.ID_PREFIX, file_id)
    path = f"contents/{wire_id}"
    try:
        with open_blob(row["storage_key"]) as blob, _create(folder / path) as output:
            while chunk := blob.read(CHUNK_BYTES):
                output.write(chunk)
    except HoneError:
        with tenant_scope(organization.id):
            if StoredFile.objects.filter(id=file_id, deleted_at=None).exists():
                raise
        return {"file_id": wire_id, "path": None, "bytes": 0, "sha256": None}
    if output.digest.hexdigest() != row["sha256"]:
        raise HoneError("conflict", f"The bytes of {wire_id} are not those that were stored")
    return {"file_id": wire_id, "path": path, "bytes": output.size, "sha256": row["sha256"]}


@contextmanager
def _create(path: Path) -> Iterator[_Output]:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield _Output(file)
