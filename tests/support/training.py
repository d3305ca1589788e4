"""Training data: files, rows, and what a dataset made of them holds."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import orjson

from catalog.models import BaseModel
from catalog.tokens import token_counter
from common.storage import IncomingBlob, open_blob
from files.models import StoredFile
from files.services import NewFile, create_file
from finetuning.datasets import DatasetPart, DatasetRequest, PreparedDataset, prepare_dataset
from tests.support.cast import Member
from tests.support.worker import run_control


def chat(*turns: str, **members: Any) -> dict[str, Any]:
    """A row of turns by user and assistant in turn; ``members`` are more of the row's."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)], **members}


def rows(values: Sequence[Any]) -> bytes:
    """The bytes of JSON Lines."""
    return b"".join(orjson.dumps(value) + b"\n" for value in values)


def store(member: Member, content: bytes, *, filename: str = "rows.jsonl") -> StoredFile:
    """A file with the purpose fine-tune."""
    with IncomingBlob() as blob:
        blob.write(content)
        new = NewFile(filename=filename, purpose=StoredFile.Purpose.FINE_TUNE)
        return create_file(project=member.project, blob=blob, new=new, actor="test", created_by=None)


def prepare(base: BaseModel, training: StoredFile, **changes: Any) -> PreparedDataset:
    """A prepared dataset of everything in the file; ``changes`` replace fields of the request."""
    fields: dict[str, Any] = {
        "training_file": training,
        "validation_file": None,
        "base": base,
        "method": "supervised",
        "recipe": None,
        "column_mapping": None,
        "max_seq_length": 4_096,
        "train_on": "assistant",
        "validation_fraction": 0.0,
        "seed": 7,
        "max_evaluation_rows": 100,
    }
    return prepare_dataset(request=DatasetRequest(**fields | changes), keep_alive=lambda: None)


def records(part: DatasetPart | None) -> list[dict[str, Any]]:
    """The examples of a part."""
    assert part is not None
    with open_blob(part.storage_key) as file:
        return [orjson.loads(line) for line in file.read().splitlines()]


def pieces(base: BaseModel, record: dict[str, Any]) -> list[tuple[str, bool]]:
    """The text of an example in pieces, each with whether it is learnt."""
    counter = token_counter(base)
    ids, found, at = record["ids"], [], 0
    for start, stop in record["trained"]:
        found += [(counter.decode(ids[at:start]), False), (counter.decode(ids[start:stop]), True)]
        at = stop
    return [piece for piece in [*found, (counter.decode(ids[at:]), False)] if piece[0]]


def upload(member: Member, content: bytes, *, filename: str = "rows.jsonl", purpose: str = "fine-tune") -> str:
    """The id of a file that was uploaded as customers do."""
    answer = member.client.upload(content, filename=filename, purpose=purpose)
    assert answer.status_code == 200, answer.content
    file_id: str = answer.json()["id"]
    return file_id


def report(member: Member, file_id: str, **options: Any) -> Any:
    """The report on a file once it is done; texts of the query are given as they are, all else as JSON."""
    query = {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in options.items()}
    path = f"/v1/files/{file_id}/report?{urlencode(query)}"
    assert member.client.get(path).status_code == 200, member.client.get(path).content
    run_control()
    return member.client.get(path).json()
