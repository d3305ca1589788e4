"""No secret leaves, wherever it was put in."""

import base64
import logging
from typing import Any

import pytest

from tenants.models import ApiKey
from tenants.services import create_api_key, revoke_key
from tests.support.cast import ApiClient, Cast
from tests.support.everything import Everything
from tests.support.tables import rows_of


def leaks(text: str, tokens: list[str]) -> list[str]:
    """Secrets or digests of these tokens that the text holds, in any of the usual spellings."""
    secrets = [token.rpartition("_")[2] for token in tokens]
    digests = [bytes(digest) for digest in ApiKey.all_tenants.values_list("digest", flat=True)]
    spellings = [*secrets, *(digest.hex() for digest in digests)]
    spellings += [base64.b64encode(value).decode() for value in [*digests, *map(bytes.fromhex, secrets)]]
    return [spelling for spelling in spellings if spelling in text]


def whole(answer: Any) -> str:
    return f"{dict(answer.headers)} {answer.getvalue().decode()}"


def test_no_answer_log_line_or_audit_row_holds_a_key(
    cast: Cast, everything: Everything, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    issued = create_api_key(project=cast.alice.project, name="second", actor="system")
    tokens = [cast.alice.token, cast.alice.admin_token, cast.charlie.token, issued.token]
    secret = issued.token.rpartition("_")[2]
    alice, client = cast.alice.client, ApiClient(issued.token)
    answers = [
        client.get("/v1/files"),
        client.get(f"/v1/files/{issued.token}"),
        client.get(f"/v1/models/{issued.token}"),
        client.get(f"/v1/{issued.token}"),
        client.get("/v1/files", data={"after": issued.token}),
        client.get("/v1/files", data={"purpose": issued.token}),
        client.get("/v1/files", data={"limit": issued.token}),
        client.post("/v1/batches", {issued.token: 1}),
        client.post("/v1/batches", {"input_file_id": issued.token, "endpoint": issued.token}),
        client.upload(b"{}\n", purpose=issued.token),
        client.upload(b"{}\n", **{issued.token: "1"}),
        client.get("/v1/models", headers={"OpenAI-Project": issued.token}),
        client.get("/v1/models", headers={"X-Client-Request-Id": issued.token}),
        ApiClient(f"{issued.token}0").get("/v1/models"),
        ApiClient(issued.token.replace("_sk_", "_ak_")).get("/v1/models"),
        ApiClient(issued.token.replace("hone", "home")).get("/v1/models"),
        cast.alice.admin.get("/v1/files"),
        cast.charlie.client.get(f"/v1/files/{everything.file_id}"),
        alice.get("/v1/batches"),
    ]
    revoke_key(key=issued.key, actor="system")
    answers.append(client.get("/v1/files"))
    assert {answer.status_code for answer in answers} == {200, 400, 401, 403, 404}
    assert [leaks(whole(answer), tokens) for answer in answers] == [[]] * len(answers)
    lines = [record.getMessage() for record in caplog.records if record.name == "hone.access"]
    assert len(lines) == len(answers)
    rows = rows_of(cast.alice.organization.id)
    stored = " ".join(row for table, table_rows in rows.items() for row in table_rows if table != "tenants_apikey")
    assert leaks(stored, tokens) == []
    assert secret not in str(rows["tenants_apikey"])


def test_no_log_line_of_a_server_holds_a_key(cast: Cast, server: Any) -> None:
    # The lines as they are written, through the whole chain (caplog sees records before it).
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    for path in (f"/v1/files/{cast.alice.token}", f"/v1/{cast.alice.token}?key={cast.alice.token}"):
        headers = {"Authorization": f"Bearer {cast.alice.token}", "X-Client-Request-Id": cast.alice.token}
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(server.url + path, headers=headers), timeout=10)
        assert leaks(caught.value.read().decode() + str(caught.value.headers), [cast.alice.token]) == []
        caught.value.close()
    public_id = cast.alice.token.split("_")[2]
    assert server.log().count(f"hone_sk_{public_id}***") >= 4
    assert leaks(server.log(), [cast.alice.token]) == []
