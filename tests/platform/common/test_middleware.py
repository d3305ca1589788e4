"""What every response carries."""

import logging

import pytest
from django.test import Client
from structlog.contextvars import bind_contextvars

from tests.support.cast import Cast
from tests.support.worker import Worker


def test_a_response_carries_the_headers_that_the_sdk_reads(cast: Cast) -> None:
    answer = cast.alice.client.get("/v1/models")
    assert len(answer["x-request-id"]) == len("req_") + 32
    assert answer["openai-version"] == "2020-10-01"
    assert answer["openai-processing-ms"].isdigit()
    assert answer["openai-organization"] == cast.alice.organization.wire_id
    assert answer["content-length"] == str(len(answer.content))
    assert answer["x-content-type-options"] == "nosniff"


def test_every_request_has_an_id_of_its_own(cast: Cast) -> None:
    ids = {cast.alice.client.get("/v1/models")["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_who_is_not_known_learns_no_organisation(cast: Cast) -> None:
    assert "openai-organization" not in Client().get("/v1/models").headers
    assert "openai-organization" not in Client().get("/nowhere").headers


@pytest.mark.parametrize("value", ["a", "a" * 512, "~ !"])
def test_a_clients_own_request_id_is_logged(cast: Cast, caplog: pytest.LogCaptureFixture, value: str) -> None:
    with caplog.at_level(logging.INFO, logger="hone.access"):
        answer = cast.alice.client.get("/v1/models", headers={"X-Client-Request-Id": value})
    assert answer.status_code == 200
    (line,) = [record.msg for record in caplog.records if record.name == "hone.access"]
    assert isinstance(line, dict)
    assert (line["client_request_id"], line["request_id"]) == (value, answer["x-request-id"])


@pytest.mark.parametrize("value", ["a" * 513, "Zürich"])
def test_a_clients_own_request_id_has_limits(cast: Cast, value: str) -> None:
    answer = cast.alice.client.get("/v1/models", headers={"X-Client-Request-Id": value})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "X-Client-Request-Id takes at most 512 ASCII characters",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_value",
    }


def test_a_request_leaves_one_line_with_ids_and_without_content(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hone.access"):
        answer = cast.alice.client.get(
            "/v1/files?purpose=batch",
            headers={"x-stainless-lang": "python", "x-stainless-retry-count": "1"},
        )
    (line,) = [record.msg for record in caplog.records if record.name == "hone.access"]
    assert isinstance(line, dict)
    assert line.pop("ms") >= 0
    assert line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "hone.access",
        "method": "GET",
        "path": "/v1/files",
        "status": 200,
        "organization_id": cast.alice.organization.wire_id,
        "client_request_id": None,
        "retry": "1",
        "sdk": "python",
        "request_id": answer["x-request-id"],
    }


def test_of_a_nodes_calls_only_those_that_fail_are_logged_at_info(
    database: None, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    with caplog.at_level(logging.DEBUG, logger="hone.access"):
        assert worker.report().status_code == 200
        assert worker.request_lease().status_code == 204
        assert worker.call("GET", "nodes/node-9").status_code == 404
    levels = [record.levelname for record in caplog.records if record.name == "hone.access"]
    assert levels == ["DEBUG", "DEBUG", "INFO"]


def test_a_line_names_nothing_of_an_earlier_request(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    bind_contextvars(lease="lease_of_another_request")
    with caplog.at_level(logging.INFO, logger="hone.access"):
        cast.alice.client.get("/v1/models")
    assert "lease_of_another_request" not in caplog.text


def test_head_is_get_without_a_body(cast: Cast) -> None:
    file_id = cast.alice.client.upload(b"{}\n").json()["id"]
    for path in ("/v1/files", f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        answer = cast.alice.client.call("HEAD", path)
        assert (answer.status_code, answer.getvalue()) == (200, b"")
        assert int(answer["content-length"]) > 0
