"""Money is an integer of nano-USD (10^-9 dollars) everywhere; these are its only conversions."""

import re
from decimal import Decimal

NANOS_PER_USD = 1_000_000_000
MAX_NANOS = 2**63 - 1
"""What a BIGINT holds: a little over nine billion dollars."""
AMOUNT = re.compile(r"^([0-9]{1,10})(?:\.([0-9]{1,9}))?$")
"""Dollars as customers write them."""


def parse_usd(text: str) -> int:
    """``"12.50"`` -> nano-USD; ValueError when it is not an exact amount from zero to :data:`MAX_NANOS`."""
    match = AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an amount in dollars with at most nine decimals, such as 12.50: {text!r}")
    dollars, fraction = match.groups(default="")
    nanos = int(dollars) * NANOS_PER_USD + int(fraction.ljust(9, "0"))
    if nanos > MAX_NANOS:
        raise ValueError(f"more than {format_usd(MAX_NANOS)} dollars: {text!r}")
    return nanos


def format_usd(nanos: int) -> str:
    """Nano-USD as dollars without rounding: ``1500000`` -> ``"0.0015"``."""
    return f"{Decimal(nanos).scaleb(-9).normalize():f}"
