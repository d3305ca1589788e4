"""Input files of batches."""

from typing import Any

import orjson

from tests.support.cast import MODEL, Member


def line(number: int, **changes: Any) -> dict[str, Any]:
    """A good line; ``changes`` replace members of it."""
    return {
        "custom_id": f"row-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, "messages": [{"role": "user", "content": f"Question {number}?"}], "max_tokens": 16},
        **changes,
    }


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    """The bytes of a file with these lines."""
    return b"".join(orjson.dumps(entry) + b"\n" for entry in lines)


def submit(member: Member, content: bytes, **options: Any) -> Any:
    """Upload and create a batch; the batch object."""
    upload = member.client.upload(content)
    assert upload.status_code == 200, upload.content
    answer = create(member, upload.json()["id"], **options)
    assert answer.status_code == 200, answer.content
    return answer.json()


def create(member: Member, file_id: str, **options: Any) -> Any:
    """Ask for a batch; the answer, whatever it is."""
    fields = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **options}
    return member.client.post("/v1/batches", fields)


def cancel(member: Member, batch: Any) -> Any:
    """Ask to cancel; the answer."""
    return member.client.post(f"/v1/batches/{batch['id']}/cancel")


def retrieve(member: Member, batch: Any) -> Any:
    """The batch as it is now."""
    return member.client.get(f"/v1/batches/{batch['id']}").json()


def read_file(member: Member, file_id: str) -> list[Any]:
    """The lines of an output or error file."""
    content = member.client.get(f"/v1/files/{file_id}/content")
    assert content.status_code == 200, content.content
    return [orjson.loads(text) for text in content.getvalue().splitlines()]


def quote(member: Member, content: bytes, **options: Any) -> Any:
    """Upload and ask what a batch would cost; the quote."""
    file_id = member.client.upload(content).json()["id"]
    fields = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **options}
    answer = member.client.post("/v1/batches/quote", fields)
    assert answer.status_code == 200, answer.content
    return answer.json()
