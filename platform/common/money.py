"""Money is an integer of nano-USD (10^-9 dollars) everywhere; these are its only conversions."""

from decimal import Decimal, InvalidOperation

NANOS_PER_USD = 1_000_000_000


def parse_usd(text: str) -> int:
    """``"12.50"`` -> nano-USD; ValueError when it is not an exact, finite amount of at least zero."""
    try:
        nanos = Decimal(text) * NANOS_PER_USD
    except InvalidOperation as error:
        raise ValueError(f"not an amount in dollars: {text!r}") from error
    if not nanos.is_finite() or nanos < 0 or nanos != nanos.to_integral_value():
        raise ValueError(f"not an amount of whole nano-dollars, zero or more: {text!r}")
    return int(nanos)


def format_usd(nanos: int) -> str:
    """Nano-USD as dollars without rounding: ``1500000`` -> ``"0.0015"``."""
    return f"{Decimal(nanos).scaleb(-9).normalize():f}"
