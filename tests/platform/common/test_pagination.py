"""Pages over a list that others change meanwhile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import HoneError
from common.pagination import PageRequest, page_request


def test_a_page_has_defaults() -> None:
    assert page_request({}, prefix="file-") == PageRequest(limit=20, after=None, descending=True)


def test_an_empty_after_is_none() -> None:
    assert page_request({"after": ""}, prefix="file-").after is None


@pytest.mark.parametrize("limit", ["1", "100", "007"])
def test_a_limit_within_bounds(limit: str) -> None:
    assert page_request({"limit": limit}, prefix="file-").limit == int(limit)


@pytest.mark.parametrize("limit", ["", "0", "101", "-1", "+1", "1.0", "1e1", " 1", "ten", "²", "٣", "9" * 5_000, "\0"])
def test_a_limit_out_of_bounds(limit: str) -> None:
    with pytest.raises(HoneError, match=r"'limit' must be a number from 1 to 100") as caught:
        page_request({"limit": limit}, prefix="file-")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "limit")


@pytest.mark.parametrize("order", ["", "DESC", "up", "desc "])
def test_an_unknown_order(order: str) -> None:
    with pytest.raises(HoneError, match="'order' must be 'asc' or 'desc'") as caught:
        page_request({"order": order}, prefix="file-")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "order")


@given(st.text(st.characters(max_codepoint=0x3FF), min_size=1, max_size=60))
def test_an_after_that_is_no_id(after: str) -> None:
    with pytest.raises(HoneError, match="'after' is not an id of this list") as caught:
        page_request({"after": after}, prefix="file-")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "after")
