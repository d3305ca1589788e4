"""Reports in constant memory, whatever the file; ``tests.bench.reports`` measures a million rows."""

from catalog.models import BaseModel
from tests.bench.reports import upload_and_report
from tests.support.cast import Cast

PEAK_MIB = 200


def test_a_large_file_is_reported_on_in_little_memory(cast: Cast, base: BaseModel) -> None:
    found = upload_and_report(cast.alice, rows=20_000)
    assert (found["status"], found["rows"], found["bad"], found["exact"]) == ("completed", 20_000, 20, 20)
    assert found["sensitive"] == [200]
    assert found["peak_mib"] < PEAK_MIB
