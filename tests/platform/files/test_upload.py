"""Uploads."""

from tests.support.cast import Cast


def test_an_upload_is_stored_with_its_digest(cast: Cast) -> None:
    answer = cast.alice.client.upload(b'{"a": 1}\n')
    assert answer.status_code == 200, answer.content
    assert answer.json()["bytes"] == 9
    listed = cast.alice.client.get("/v1/files").json()
    assert [file["id"] for file in listed["data"]] == [answer.json()["id"]]
    content = cast.alice.client.get(f"/v1/files/{answer.json()['id']}/content")
    assert content.getvalue() == b'{"a": 1}\n'
    assert cast.charlie.client.get(f"/v1/files/{answer.json()['id']}").status_code == 404
