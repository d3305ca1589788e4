"""Rows that begin alike run next to one another; where nothing is shared the order is the file's."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from batches.prefixes import BLOCK_BYTES, MAX_BLOCKS, execution_order, prefix_key


@dataclass(frozen=True)
class Prompt:
    text: str

    @property
    def prefix(self) -> bytes:
        return prefix_key(self.text)


LONG, OTHER = "a" * 3 * BLOCK_BYTES, "b" * 3 * BLOCK_BYTES


def order(*texts: str) -> list[int]:
    return execution_order([Prompt(text) for text in texts])


def test_without_shared_prefixes_the_order_is_the_files() -> None:
    assert order("one", "two", "three", f"x{LONG}", f"y{LONG}") == [0, 1, 2, 3, 4]


def test_rows_with_the_same_prefix_run_together_where_the_first_of_them_stands() -> None:
    assert order("short", LONG + "1", OTHER + "1", LONG + "2", "short", OTHER + "2") == [0, 1, 3, 2, 5, 4]


def test_inside_a_group_the_longer_shared_prefixes_stay_together() -> None:
    deep, deeper = LONG + "c" * BLOCK_BYTES, LONG + "d" * BLOCK_BYTES
    found = order(deep + "1", deeper + "1", deep + "2", deeper + "2")
    assert found in ([0, 2, 1, 3], [1, 3, 0, 2])


def test_a_key_grows_with_the_blocks_and_ends_at_the_bound() -> None:
    assert prefix_key("a") == b""
    assert len(prefix_key("a" * BLOCK_BYTES * 2)) == 2 * 4
    assert len(prefix_key("a" * BLOCK_BYTES * 1_000)) == MAX_BLOCKS * 4


@given(st.lists(st.sampled_from([LONG, OTHER, LONG + OTHER, LONG + LONG, "x"]), max_size=20))
def test_every_row_runs_once(texts: list[str]) -> None:
    assert sorted(order(*texts)) == list(range(len(texts)))
