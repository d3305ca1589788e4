"""Lists of files, page by page."""

from typing import Any

import pytest

from tests.support.cast import Cast


def upload(cast: Cast, count: int, **fields: str) -> list[str]:
    """Ids in the order of their uploads."""
    return [cast.alice.client.upload(b"{}\n", **fields).json()["id"] for _ in range(count)]


def ids(page: Any) -> list[str]:
    return [entry["id"] for entry in page["data"]]


def page(cast: Cast, **query: Any) -> Any:
    answer = cast.alice.client.get("/v1/files", data=query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_an_empty_list(cast: Cast) -> None:
    assert page(cast) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_files_are_listed_newest_first(cast: Cast) -> None:
    uploaded = upload(cast, 5)
    listed = page(cast)
    assert ids(listed) == uploaded[::-1]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (uploaded[-1], uploaded[0], False)
    assert listed["data"][0] == cast.alice.client.get(f"/v1/files/{uploaded[-1]}").json()


@pytest.mark.parametrize(("order", "step"), [("desc", -1), ("asc", 1)])
@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (10_000, [7])])
def test_pages_hold_every_file_once(cast: Cast, order: str, step: int, limit: int, sizes: list[int]) -> None:
    expected = upload(cast, 7)[::step]
    pages = []
    after = ""
    for _ in sizes:
        pages.append(page(cast, limit=limit, order=order, after=after))
        after = pages[-1]["last_id"]
    assert [len(each["data"]) for each in pages] == sizes
    assert [each["has_more"] for each in pages] == [True] * (len(sizes) - 1) + [False]
    assert [file_id for each in pages for file_id in ids(each)] == expected


def test_a_page_after_the_last_is_empty(cast: Cast) -> None:
    (only,) = upload(cast, 1)
    assert page(cast, after=only) == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


def test_files_that_come_and_go_shift_no_page(cast: Cast) -> None:
    first, second, third, fourth = upload(cast, 4)
    newest = page(cast, limit=2)
    assert ids(newest) == [fourth, third]
    upload(cast, 1)
    cast.alice.client.delete(f"/v1/files/{third}")
    assert ids(page(cast, limit=2, after=newest["last_id"])) == [second, first]


def test_a_purpose_filters_and_pages(cast: Cast) -> None:
    upload(cast, 2)
    wanted = upload(cast, 3, purpose="evals")
    upload(cast, 2)
    listed = page(cast, purpose="evals", limit=2)
    assert (ids(listed), listed["has_more"]) == ([wanted[2], wanted[1]], True)
    assert ids(page(cast, purpose="evals", limit=2, after=listed["last_id"])) == [wanted[0]]
    assert ids(page(cast, purpose="batch_output")) == []


@pytest.mark.parametrize("purpose", ["", "nonsense", "batch\0", "Batch"])
def test_an_unknown_purpose(cast: Cast, purpose: str) -> None:
    answer = cast.alice.client.get("/v1/files", data={"purpose": purpose})
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_purpose", "purpose")


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "10001"}, "limit"), ({"limit": "9" * 5_000}, "limit"),
     ({"order": "newest"}, "order"), ({"after": "batch_1"}, "after"), ({"after": "\0"}, "after")],
)  # fmt: skip
def test_a_page_that_does_not_exist(cast: Cast, query: dict[str, str], param: str) -> None:
    answer = cast.alice.client.get("/v1/files", data=query)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_value", param)
