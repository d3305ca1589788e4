"""A report is written in the background once for each set of options, repeated after a kill, and gone with its file."""

import orjson
import pytest
from pytest_django import Settings

from files import reports
from files.models import FileReport
from files.reports import write_report
from files.services import delete_expired_files
from fleet.claims import claim_lease
from fleet.file_reports import FileReportHandler
from fleet.handlers import control_kinds
from fleet.models import Lease
from fleet.tasks import sweep
from tenants.scope import tenant_scope
from tests.support.blobs import blobs
from tests.support.cast import Cast
from tests.support.facts import change, count, leases, let_back_off_pass, let_leases_run_out
from tests.support.training import chat, report, rows, upload
from tests.support.worker import run_control

GOOD = rows([chat("Hi", "Hello!")])
BAD = GOOD + b'{"messages": []}\nno JSON\n'


def claim() -> Lease:
    """As a control worker that is killed right after its claim."""
    lease = claim_lease(kinds=control_kinds(), models=[""], node_id=None)
    assert lease is not None
    return lease


def test_a_training_file_is_looked_at_by_itself(cast: Cast) -> None:
    file_id = upload(cast.alice, GOOD)
    queued = cast.alice.client.get(f"/v1/files/{file_id}/report").json()
    assert (queued["object"], queued["file_id"], queued["status"]) == ("file.report", file_id, "queued")
    assert (queued["progress"], queued["finished_at"], queued["error"]) == (0.0, None, None)
    run_control()
    done = cast.alice.client.get(f"/v1/files/{file_id}/report").json()
    assert (done["status"], done["progress"]) == ("completed", 1.0)
    assert done["finished_at"] >= done["created_at"] == queued["created_at"]
    assert done["rows"] == {"total": 1, "valid": 1, "invalid": 0}
    assert len(leases("file_report")) == 1


def test_a_batch_input_is_looked_at_when_asked(cast: Cast) -> None:
    file_id = upload(cast.alice, b"{}\n", purpose="batch")
    assert leases("file_report") == []
    assert report(cast.alice, file_id)["rows"] == {"total": 1, "valid": 0, "invalid": 1}


def test_files_for_other_purposes_have_no_report(cast: Cast) -> None:
    file_id = upload(cast.alice, b"{}\n", purpose="user_data")
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_purpose")
    assert count("files_filereport") == 0


def test_each_set_of_options_has_its_report(cast: Cast) -> None:
    file_id = upload(cast.alice, b"text,label\nFine,positive\n", filename="a.csv")
    first = report(cast.alice, file_id)
    assert first["problems"]["by_code"] == {"mapping_required": 1}
    for _ in range(2):
        second = report(cast.alice, file_id, recipe="sentiment")
        assert second["rows"] == {"total": 1, "valid": 1, "invalid": 0}
    assert count("files_filereport") == 2


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("colour=red", "unknown_parameter", "colour"),
        ("model=unknown", "model_not_found", "model"),
        ("recipe=unknown", "invalid_value", "recipe"),
        ("validation_file=file-1", "not_found", "validation_file"),
        ("column_mapping=x", "invalid_json", "column_mapping"),
        ("column_mapping=[]", "invalid_type", "column_mapping"),
        ("column_mapping={}&column_mapping={%22a%22:1}", "invalid_value", "column_mapping.a"),
    ],
)
def test_options_that_mean_nothing_are_refused(cast: Cast, query: str, code: str, param: str) -> None:
    file_id = upload(cast.alice, GOOD)
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report?{query}")
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert count("files_filereport") == 1


def test_a_strangers_file_is_no_validation_file(cast: Cast) -> None:
    file_id, strangers = upload(cast.alice, GOOD), upload(cast.charlie, GOOD)
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report?validation_file={strangers}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert count("files_filereport") == 2


def test_bad_rows_are_downloaded_with_what_is_wrong_with_them(cast: Cast) -> None:
    file_id = upload(cast.alice, BAD)
    found = report(cast.alice, file_id)
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report/rejects")
    content = answer.getvalue()
    rejects = [orjson.loads(line) for line in content.splitlines()]
    assert [(row["line"], row["row"]) for row in rejects] == [(2, {"messages": []}), (3, "no JSON")]
    assert [row["problems"] for row in rejects] == [[problem] for problem in found["problems"]["data"]]
    assert set(rejects[0]["problems"][0]) == {"line", "pointer", "code", "message", "fix"}
    assert (answer["Content-Type"], int(answer["Content-Length"])) == ("application/x-ndjson", len(content))
    assert found["rejects_bytes"] == len(content)


def test_where_nothing_is_bad_the_download_is_empty(cast: Cast) -> None:
    file_id = upload(cast.alice, GOOD)
    run_control()
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report/rejects")
    assert (answer.status_code, answer.content) == (200, b"")


def test_rejects_wait_for_the_report(cast: Cast) -> None:
    file_id = upload(cast.alice, BAD)
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report/rejects")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


def test_the_report_names_a_hundred_bad_rows_and_the_download_all(cast: Cast) -> None:
    file_id = upload(cast.alice, b"{}\n" * 150)
    found = report(cast.alice, file_id)["problems"]
    assert (found["count"], found["has_more"], len(found["data"])) == (150, True, 100)
    assert found["by_code"] == {"unknown_row_format": 150}
    rejects = cast.alice.client.get(f"/v1/files/{file_id}/report/rejects").getvalue()
    assert [orjson.loads(line)["line"] for line in rejects.splitlines()] == list(range(1, 151))


def test_a_report_of_a_killed_worker_is_written_by_another(cast: Cast) -> None:
    file_id = upload(cast.alice, BAD)
    claim()
    let_leases_run_out()
    sweep()
    let_back_off_pass()
    run_control()
    assert report(cast.alice, file_id)["status"] == "completed"
    assert [(lease.state, lease.epoch) for lease in leases("file_report")] == [("done", 2)]


def test_a_report_that_comes_second_is_fenced_off(cast: Cast) -> None:
    file_id = upload(cast.alice, BAD)
    slow = claim()
    let_leases_run_out()
    sweep()
    let_back_off_pass()
    run_control()
    before = report(cast.alice, file_id)
    with pytest.raises(Exception, match="has ended or moved on"):
        FileReportHandler().run(slow)
    assert report(cast.alice, file_id) == before
    assert len(cast.alice.client.get(f"/v1/files/{file_id}/report/rejects").getvalue()) == before["rejects_bytes"]


def test_a_report_that_cannot_be_written_ends_with_a_reason(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = upload(cast.alice, GOOD)

    def fail(**_: object) -> None:
        raise RuntimeError("in a test")

    monkeypatch.setattr("fleet.file_reports.write_report", fail)
    for _ in range(settings.LEASE_MAX_ATTEMPTS):
        run_control()
        let_back_off_pass()
    found = cast.alice.client.get(f"/v1/files/{file_id}/report").json()
    assert (found["status"], found["error"]["code"]) == ("failed", "internal_error")
    assert [lease.state for lease in leases("file_report")] == ["failed"]


def test_a_report_whose_validation_file_is_gone_fails_at_once(cast: Cast) -> None:
    file_id, validation_id = upload(cast.alice, GOOD), upload(cast.alice, GOOD)
    path = f"/v1/files/{file_id}/report?validation_file={validation_id}"
    assert cast.alice.client.get(path).json()["status"] == "queued"
    assert cast.alice.client.delete(f"/v1/files/{validation_id}").status_code == 200
    run_control()
    found = cast.alice.client.get(path).json()
    assert (found["status"], found["error"]["code"]) == ("failed", "not_found")


def test_the_report_goes_with_its_file(cast: Cast) -> None:
    before = blobs()
    file_id = upload(cast.alice, BAD)
    report(cast.alice, file_id)
    assert len(blobs() - before) == 2
    assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
    assert blobs() == before
    assert count("files_filereport") == 0
    assert cast.alice.client.get(f"/v1/files/{file_id}/report").status_code == 404


def test_the_report_goes_when_its_file_expires(cast: Cast) -> None:
    before = blobs()
    file_id = upload(cast.alice, BAD)
    report(cast.alice, file_id)
    change("UPDATE files_storedfile SET expires_at = now() - interval '1 second'")
    assert delete_expired_files() == 1
    assert (blobs(), count("files_filereport")) == (before, 0)


def test_a_file_that_is_deleted_before_its_report_is_written_leaves_nothing(cast: Cast) -> None:
    before = blobs()
    file_id = upload(cast.alice, BAD)
    assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
    run_control()
    assert (blobs(), count("files_filereport")) == (before, 0)
    assert [lease.state for lease in leases("file_report")] == ["done"]


def test_a_file_that_is_deleted_while_its_report_is_written_leaves_nothing(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = blobs()
    file_id = upload(cast.alice, BAD)

    def write_then_delete(**arguments: object) -> object:
        written = write_report(**arguments)  # type: ignore[arg-type]  # passed on
        assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
        return written

    monkeypatch.setattr("fleet.file_reports.write_report", write_then_delete)
    run_control()
    assert (blobs(), count("files_filereport")) == (before, 0)


def test_progress_is_seen_while_it_is_written(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "PROGRESS_BYTES", 1)
    file_id = upload(cast.alice, GOOD * 10)
    seen = []

    def look() -> None:
        found = cast.alice.client.get(f"/v1/files/{file_id}/report").json()
        seen.append((found["status"], found["progress"]))

    with tenant_scope(cast.alice.organization.id):
        row = FileReport.objects.select_related("file__project", "requested_by").get()
    write_report(report=row, beat=look)
    assert seen[0] == ("queued", 0.0)
    assert seen[1:] == sorted(seen[1:]) != []
    assert {status for status, _ in seen[1:]} == {"running"}


def test_a_file_keeps_so_many_reports_and_the_oldest_go(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 2)
    file_id = upload(cast.alice, GOOD)
    asked = [{"recipe": name} for name in ("extraction", "sentiment")]
    for options in asked:
        report(cast.alice, file_id, **options)
    with tenant_scope(cast.alice.organization.id):
        kept = [row.options for row in FileReport.objects.order_by("created_at")]
    assert kept == [{}, {"recipe": "sentiment"}]


def test_a_file_has_so_many_unfinished_reports_at_most(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 2)
    file_id = upload(cast.alice, GOOD)
    answers = [
        cast.alice.client.get(f"/v1/files/{file_id}/report?recipe={name}") for name in ("extraction", "sentiment")
    ]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert count("files_filereport") == 2
