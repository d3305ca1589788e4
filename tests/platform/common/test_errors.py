"""Every error has OpenAI's shape, with all four members, on every route."""

import logging
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client

from common.errors import CODES, HoneError
from tests.support.cast import Cast
from tests.support.tables import rows_of

RETRY = "x-should-retry"


def check(answer: Any, status: int, code: str, *, param: str | None = None) -> dict[str, Any]:
    assert (answer.status_code, answer["content-type"]) == (status, "application/json"), answer.content
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param), body
    assert body["error"]["type"] == CODES[code].type
    assert body["error"]["message"]
    assert answer["x-request-id"].startswith("req_")
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/files/", "/v1/models/", "/v1/files/a/b/c", "/admin"])
def test_an_unknown_url(path: str) -> None:
    check(Client().get(path), 404, "unknown_url")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_a_slash_too_many_is_never_redirected(method: str) -> None:
    check(Client().generic(method, "/v1/files/"), 404, "unknown_url")


def test_a_method_that_a_route_does_not_take(cast: Cast) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        answer = cast.alice.client.call(method, "/v1/files")
        assert method in check(answer, 405, "method_not_allowed")["message"]
        assert answer["allow"] == "GET, POST, HEAD"


def test_a_method_that_a_route_does_not_take_needs_a_key_first(cast: Cast) -> None:
    check(Client().put("/v1/files"), 401, "invalid_api_key")


def post(cast: Cast, body: bytes, content_type: str = "application/json") -> Any:
    return cast.alice.client.call("POST", "/v1/batches", data=body, content_type=content_type)


def test_another_media_type_than_json(cast: Cast) -> None:
    for content_type in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "junk"):
        check(post(cast, b"{}", content_type), 415, "unsupported_media_type")


def test_json_by_any_of_its_names(cast: Cast) -> None:
    for content_type in ("application/json", "application/json; charset=utf-8", "Application/JSON", ""):
        check(post(cast, b"{}", content_type), 400, "missing_required_parameter", param="endpoint")


def test_malformed_json(cast: Cast) -> None:
    for body in (
        b"{", b"{'a': 1}", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"\xff\xfe{\x00}\x00", b"[" * 3000,
        b"{} {}",
    ):  # fmt: skip
        check(post(cast, body), 400, "invalid_json")


def test_json_that_is_no_object(cast: Cast) -> None:
    for body in (b"[]", b"null", b"1", b'"text"', b"true"):
        assert check(post(cast, body), 400, "invalid_json")["message"] == "The body must be a JSON object"


def test_a_body_that_is_too_large(cast: Cast) -> None:
    check(post(cast, b" " * 8_388_609), 413, "request_too_large")


def test_a_body_that_is_as_large_as_allowed(cast: Cast) -> None:
    body = b"{}" + b" " * (8_388_608 - 2)
    check(post(cast, body), 400, "missing_required_parameter", param="endpoint")


def test_an_unknown_parameter(cast: Cast) -> None:
    answer = cast.alice.client.post("/v1/batches", {"input_file": "file-1"})
    error = check(answer, 400, "unknown_parameter", param="input_file")
    assert error["message"] == "Unknown parameter: 'input_file'."


def test_a_missing_parameter(cast: Cast) -> None:
    answer = cast.alice.client.post("/v1/batches", {"endpoint": "/v1/chat/completions", "completion_window": "24h"})
    error = check(answer, 400, "missing_required_parameter", param="input_file_id")
    assert error["message"] == "Missing required parameter: 'input_file_id'."


def test_a_parameter_inside_another_is_named_with_its_path(cast: Cast) -> None:
    before = rows_of(cast.alice.organization.id)
    body = {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "output_expires_after": {"anchor": "created_at", "seconds": 1},
    }
    check(cast.alice.client.post("/v1/batches", body), 400, "invalid_value", param="output_expires_after.seconds")
    body["output_expires_after"] = {"anchor": "created_at", "seconds": 3_600, "minutes": 1}
    check(cast.alice.client.post("/v1/batches", body), 400, "unknown_parameter", param="output_expires_after.minutes")
    assert rows_of(cast.alice.organization.id) == before


def test_null_where_a_value_is_needed(cast: Cast) -> None:
    answer = cast.alice.client.post("/v1/batches", {"input_file_id": None})
    check(answer, 400, "invalid_type", param="input_file_id")


def test_a_bug_is_a_500_that_tells_the_log_and_nobody_else(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def burst(**_: object) -> None:
        raise RuntimeError("the boiler burst")

    monkeypatch.setattr("catalog.api.served_models", burst)
    answer = cast.alice.client.get("/v1/models")
    error = check(answer, 500, "internal_error")
    assert error["message"] == "The server had an error; quote the x-request-id header"
    assert answer[RETRY] == "true"
    assert b"boiler" not in answer.content
    assert cast.alice.token.encode() not in answer.content
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert isinstance(record.msg, dict)
    assert record.msg["request_id"] == answer["x-request-id"]
    assert isinstance(record.msg["exc_info"][1], RuntimeError)


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_is_a_503_worth_a_retry(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(**_: object) -> None:
        raise error("connection to server at 10.0.0.1 failed: password for hone_app")

    monkeypatch.setattr("catalog.api.served_models", refuse)
    answer = cast.alice.client.get("/v1/models")
    check(answer, 503, "service_unavailable")
    assert (answer["retry-after"], answer[RETRY]) == ("2", "true")
    assert b"hone_app" not in answer.content


def test_a_database_that_is_away_while_the_key_is_looked_up(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(token: str) -> None:
        raise OperationalError("away")

    monkeypatch.setattr("tenants.access.find_key", refuse)
    check(cast.alice.client.get("/v1/models"), 503, "service_unavailable")


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_sdk_is_told_to_retry_only_what_waiting_may_cure(code: str) -> None:
    status = CODES[code].status
    repeated_by_default = status in (408, 409, 429) or status >= 500
    expected = {True: {RETRY: str(CODES[code].retry).lower()}, False: {}}[repeated_by_default]
    headers = HoneError(code, "text").headers()
    headers.pop("www-authenticate", None)
    assert headers == expected


def test_who_is_not_known_is_told_how_to_introduce_himself() -> None:
    assert HoneError("invalid_api_key", "text").headers() == {"www-authenticate": "Bearer"}


def test_seconds_to_wait_are_sent() -> None:
    assert HoneError("service_unavailable", "text", retry_after=7).headers() == {
        "x-should-retry": "true",
        "retry-after": "7",
    }


def test_an_error_does_not_repeat_a_key_that_stood_in_the_wrong_place(cast: Cast) -> None:
    secret = cast.alice.token.rpartition("_")[2]
    answer = cast.alice.client.get(f"/v1/files/{cast.alice.token}")
    assert check(answer, 404, "not_found", param="id")["message"].endswith("***")
    assert secret.encode() not in answer.content
    answer = cast.alice.client.post("/v1/batches", {cast.alice.token: 1})
    assert answer.status_code == 400
    assert secret.encode() not in answer.content
