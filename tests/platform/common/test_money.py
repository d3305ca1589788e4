"""Dollars to nano-dollars and back, exactly."""

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.money import MAX_NANOS, format_usd, parse_usd


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0), ("0.0", 0), ("000", 0), ("1", 1_000_000_000), ("12.50", 12_500_000_000), ("0.000000001", 1),
        ("0.05", 50_000_000), ("9223372036.854775807", MAX_NANOS),
    ],
)  # fmt: skip
def test_an_amount_is_read_exactly(text: str, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "-0", "+1", "abc", "1,50", "1 ", " 1", "1_000", "1e3", "1E-7", "NaN", "sNaN", "inf", "Infinity",
        "-inf", ".5", "5.", "1.2.3", "$1", "٣", "0.0000000001", "1.0000000000000000000000000000000001",
        "9223372036.854775808", "1e999999999", "9" * 5_000, "1\n", "1\0",
    ],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dollars"):
        parse_usd(text)


@given(st.integers(min_value=0, max_value=MAX_NANOS))
def test_an_amount_survives_the_way_there_and_back(nanos: int) -> None:
    assert parse_usd(format_usd(nanos)) == nanos


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_a_number_is_read_exactly_or_not_at_all(number: Decimal) -> None:
    with suppress(ValueError):
        assert Decimal(parse_usd(str(number))).scaleb(-9) == number


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500_000, "0.0015"), (10**12, "1000"), (-2_500_000_000, "-2.5")],
)
def test_an_amount_is_written_without_rounding(nanos: int, text: str) -> None:
    assert format_usd(nanos) == text
