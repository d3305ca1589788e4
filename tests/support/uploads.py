"""Uploads in parts, as the SDK makes them."""

from typing import Any

from tests.support.cast import Member
from tests.support.multipart import CONTENT_TYPE, file, form


def announce(member: Member, size: int, *, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """``POST /v1/uploads``; the answer."""
    body = {"bytes": size, "filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "batch", **fields}
    return member.client.post("/v1/uploads", body, headers=headers or {})


def send(member: Member, upload_id: str, data: bytes, *, headers: dict[str, str] | None = None) -> Any:
    """``POST /v1/uploads/{id}/parts``; the answer."""
    return member.client.call(
        "POST",
        f"/v1/uploads/{upload_id}/parts",
        data=form(file(data, name="data", filename="upload")),
        content_type=CONTENT_TYPE,
        headers=headers or {},
    )


def complete(
    member: Member, upload_id: str, part_ids: list[str], *, headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    """``POST /v1/uploads/{id}/complete``; the answer."""
    path = f"/v1/uploads/{upload_id}/complete"
    return member.client.post(path, {"part_ids": part_ids, **fields}, headers=headers or {})


def cancel(member: Member, upload_id: str) -> Any:
    """``POST /v1/uploads/{id}/cancel``; the answer."""
    return member.client.post(f"/v1/uploads/{upload_id}/cancel")


def begin(member: Member, *parts: bytes, **fields: Any) -> tuple[str, list[str]]:
    """An upload that has all its parts and waits for its completion: its id and theirs."""
    upload_id = announce(member, sum(map(len, parts)), **fields).json()["id"]
    return upload_id, [send(member, upload_id, part).json()["id"] for part in parts]
