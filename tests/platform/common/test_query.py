"""Query strings in brackets."""

import pytest
from django.http import QueryDict

from common import query as read
from common.errors import HoneError


def test_a_list_comes_with_brackets_or_without() -> None:
    assert read.texts(QueryDict("a[]=1&a[]=2&b[]=3"), "a") == ["1", "2"]
    assert read.texts(QueryDict("a=1&a=2"), "a") == ["1", "2"]
    assert read.texts(QueryDict(""), "a") == []


@pytest.mark.parametrize("text", ["&".join("a[]=1" for _ in range(101)), "a[]=%00"])
def test_a_list_that_is_no_list(text: str) -> None:
    with pytest.raises(HoneError, match="'a'") as caught:
        read.texts(QueryDict(text), "a")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "a")


def test_choices_are_known_and_named_once() -> None:
    assert read.choices(QueryDict("a[]=y&a[]=x&a[]=y"), "a", ("x", "y")) == ["y", "x"]
    with pytest.raises(HoneError, match="'a' takes x, y, not 'z'"):
        read.choices(QueryDict("a[]=z"), "a", ("x", "y"))


@pytest.mark.parametrize(("text", "value"), [("", None), ("a=true", True), ("a=false", False)])
def test_a_flag(text: str, value: bool | None) -> None:
    assert read.flag(QueryDict(text), "a") is value


@pytest.mark.parametrize("text", ["a=", "a=1", "a=True", "a=no"])
def test_a_flag_that_is_none(text: str) -> None:
    with pytest.raises(HoneError, match="must be 'true' or 'false'"):
        read.flag(QueryDict(text), "a")


@pytest.mark.parametrize(("text", "value"), [("", None), ("a=0", 0), ("a=253402300799", read.MAX_SECONDS)])
def test_a_moment(text: str, value: int | None) -> None:
    assert read.seconds(QueryDict(text), "a") == value


@pytest.mark.parametrize("text", ["", "-1", "1.5", "253402300800", "9" * 400, "now", "\u0661"])
def test_a_moment_that_is_none(text: str) -> None:
    with pytest.raises(HoneError, match="must be a moment in seconds") as caught:
        read.seconds(QueryDict(f"a={text}"), "a")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "a")
