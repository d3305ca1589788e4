"""Validation in constant memory, whatever the file; ``tests.bench.validation`` measures the full size."""

from common.storage import IncomingBlob
from files.models import StoredFile
from files.services import NewFile, create_file
from tests.bench.validation import submit_and_validate, validate_in_a_process
from tests.support.cast import Cast
from tests.support.facts import query_owner
from tests.support.rows import create, retrieve

PEAK_MIB = 200


def test_a_large_file_is_sharded_in_little_memory(cast: Cast) -> None:
    found = submit_and_validate(cast.alice, rows=5_000, size=15_000_000, bad=500)
    assert (found["status"], found["rows"]) == ("in_progress", 5_000)
    assert found["lines_named"] == list(range(10, 5_001, 10))
    assert found["peak_mib"] < PEAK_MIB
    ((rows, tokens, shards),) = query_owner(
        "SELECT sum(rows), max(estimated_tokens), count(*) FROM batches_shard s JOIN fleet_lease l ON l.id = s.lease_id"
    )
    assert rows == 4_500
    assert tokens < 32_768 + 4_096
    assert 50 < shards < 500


def test_a_single_line_of_200_megabytes_is_named_in_little_memory(cast: Cast) -> None:
    with IncomingBlob() as blob:
        blob.write(b'{"custom_id": "')
        for _ in range(200):
            blob.write(b"x" * 1_000_000)
        new = NewFile(filename="one.jsonl", purpose=StoredFile.Purpose.BATCH)
        file = create_file(project=cast.alice.project, blob=blob, new=new, actor="test", created_by=None)
    batch = create(cast.alice, file.wire_id).json()
    assert validate_in_a_process()["peak_mib"] < PEAK_MIB
    failed = retrieve(cast.alice, batch)
    assert failed["status"] == "failed"
    assert failed["errors"]["data"] == [
        {
            "code": "line_too_large",
            "message": "The line has 200000015 bytes; at most 4194304 are allowed",
            "param": None,
            "line": 1,
        }
    ]
