"""The reference reads the schema, and nothing that is not on this server."""

import re

import pytest
from django.test import Client


def test_the_page_loads_only_what_this_server_has() -> None:
    page = Client().get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    text = page.content.decode()
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(links) == 3
    assert [link for link in links if Client().get(link).status_code != 200] == []
    start = Client().get("/docs/start.js").content.decode()
    assert "//" not in text.replace("</", "").replace("<!doctype", "") + start


def test_no_script_runs_that_is_not_of_this_server() -> None:
    policy = Client().get("/docs").headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "connect-src 'self'" in policy


@pytest.mark.parametrize(("name", "is_kept"), [("start.js", False), ("redoc.js", True)])
def test_its_scripts_say_that_they_are(name: str, is_kept: bool) -> None:
    answer = Client().get(f"/docs/{name}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/javascript")
    assert ("immutable" in answer.headers["Cache-Control"]) == is_kept
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["LICENSE", "..%2FLICENSE", "redoc.standalone.js.map"])
def test_it_has_no_other_files(name: str) -> None:
    answer = Client().get(f"/docs/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js"])
def test_it_is_only_read(path: str) -> None:
    answer = Client().post(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
