"""Rows that stand twice, or nearly."""

from pathlib import Path

import pytest

from files import similarity
from files.similarity import open_row_index
from tests.services import storage_root

TEXT = "The parcel that I ordered last week for my sister has still not arrived at her house in the village"


def pairs(*texts: str, others: tuple[str, ...] = ()) -> list[tuple[int, int]]:
    """``(line, like)`` of texts numbered from 1, and others numbered from -1 down."""
    with open_row_index() as index:
        for line, text in enumerate(others, start=1):
            index.add_text(text, line=-line)
        for line, text in enumerate(texts, start=1):
            index.add_text(text, line=line)
        return sorted((pair.line, pair.like) for pair in index.pairs(lambda: None))


def test_content_is_known_from_its_first_line_and_by_its_purpose() -> None:
    with open_row_index() as index:
        assert index.first_line("row", b"a", line=1) is None
        assert index.first_line("row", b"b", line=2) is None
        assert index.first_line("row", b"a", line=3) == 1
        assert index.first_line("question", b"a", line=4) is None
        assert (index.find("row", b"b"), index.find("row", b"c")) == (2, None)


@pytest.mark.parametrize(
    "changed",
    [
        TEXT.replace("sister", "brother"),
        TEXT.upper() + "!!!",
        f"Hello! {TEXT}",
        TEXT.replace(" that I ordered", ""),
    ],
)
def test_small_changes_leave_texts_nearly_the_same(changed: str) -> None:
    assert pairs("Something else entirely, about trains", TEXT, changed) == [(3, 2)]


@pytest.mark.parametrize(
    "other",
    ["The book that I read last month for my class is about a house in the mountains far away from here", "", "The"],
)
def test_other_texts_are_others(other: str) -> None:
    assert pairs(TEXT, other) == []


def test_texts_without_spaces_are_compared_by_character() -> None:
    text = "我上周给妹妹订的包裹还没有送到她在村里的家"
    assert pairs(text, "你们明年还会在城里开新的书店吗我很期待") == []
    assert pairs(f"{text}里", f"{text}了") == [(2, 1)]


def test_each_line_is_paired_once_with_an_earlier_one() -> None:
    found = pairs(*(f"{TEXT} number {number}" for number in range(20)))
    assert [line for line, _ in found] == list(range(2, 21))
    assert [(line, like) for line, like in found if like >= line] == []


def test_lines_of_another_file_are_told_apart() -> None:
    assert pairs(TEXT, "About trains", others=(f"{TEXT}.", f"{TEXT}!")) == [(1, -1)]
    assert pairs(TEXT, f"{TEXT} again", others=(f"{TEXT}.",)) == [(1, -1), (2, -1), (2, 1)]


def test_rows_beyond_the_limit_are_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "MAX_ROWS", 2)
    with open_row_index() as index:
        for line in (1, 2, 3):
            index.add_text(TEXT, line=line)
        assert [(pair.line, pair.like, pair.similarity) for pair in index.pairs(lambda: None)] == [(2, 1, 1.0)]
        assert index.is_full


def test_nothing_is_left_on_disk_not_even_when_killed() -> None:
    scratch = storage_root() / "incoming"
    before: set[Path] = set(scratch.iterdir()) if scratch.exists() else set()
    with open_row_index() as index:
        index.first_line("row", b"a", line=1)
        assert set(scratch.iterdir()) == before
