"""Ids: time-ordered, unguessable, and the same on the wire and back."""

import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ids import from_wire, to_wire, uuid7

PREFIXES = st.sampled_from(["file-", "batch_", "org_", "proj_", "key_", "lease_", "audit_log-"])
MILLISECONDS = st.integers(min_value=0, max_value=2**48 - 1)


def uuid7_at(milliseconds: int) -> UUID:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: milliseconds * 1_000_000)
        return uuid7()


def test_an_id_is_a_uuid_of_version_7() -> None:
    assert (uuid7().version, uuid7().variant) == (7, "specified in RFC 4122")


def test_ids_of_the_same_moment_differ() -> None:
    assert len({uuid7_at(1) for _ in range(10_000)}) == 10_000


@given(MILLISECONDS)
def test_an_id_begins_with_its_time(milliseconds: int) -> None:
    assert uuid7_at(milliseconds).int >> 80 == milliseconds


@given(MILLISECONDS, MILLISECONDS)
def test_ids_sort_by_their_time(one: int, other: int) -> None:
    first, second = sorted({one, other, (one + 1) % 2**48})[:2]
    assert uuid7_at(first) < uuid7_at(second)
    assert to_wire("file-", uuid7_at(first)) < to_wire("file-", uuid7_at(second))


@given(PREFIXES, st.uuids())
def test_an_id_survives_the_way_to_the_wire_and_back(prefix: str, value: UUID) -> None:
    assert from_wire(prefix, to_wire(prefix, value)) == value


@given(PREFIXES, st.text(st.characters(max_codepoint=0x3FF), max_size=60))
def test_other_text_is_no_id(prefix: str, text: str) -> None:
    assert from_wire(prefix, text) is None
    assert from_wire(prefix, prefix + text) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "file-", "0199f2c400007000800000000000000a", "batch_0199f2c400007000800000000000000a",
        "file-0199F2C400007000800000000000000A", "file-0199f2c4-0000-7000-8000-00000000000a",
        "file-0199f2c400007000800000000000000", "file-0199f2c400007000800000000000000a0",
        "file-file-0199f2c400007000800000000000000a", " file-0199f2c400007000800000000000000a",
        "file-0199f2c400007000800000000000000a\n", "file-0199f2c4000070008000000000000\u06600a", "file-" + "\0" * 32,
    ],
)  # fmt: skip
def test_what_only_looks_like_an_id_is_none(text: str) -> None:
    assert from_wire("file-", text) is None
