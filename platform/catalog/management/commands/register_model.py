"""Put a prepared model into the catalogue."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from catalog.models import COMPLETION_WINDOWS
from catalog.services import TokenPrice, register_model
from common.errors import HoneError
from common.money import NANOS_PER_USD, parse_usd

BATCH_FACTORS = {"1h": "0.8", "24h": "0.5", "7d": "0.4"}
"""Price of a batch over the online price: who can wait pays less."""


class Command(BaseCommand):
    """Prices are dollars per million tokens; a batch costs a part of the online price, half of it within a day."""

    help = "Register a model folder made by 'python -m inference_workers prepare'"

    def add_arguments(self, parser: CommandParser) -> None:
        """The folder and the online price."""
        parser.add_argument("directory", type=Path)
        parser.add_argument("--input-usd", default="0.05", help="dollars per million input tokens, online")
        parser.add_argument("--output-usd", default="0.10", help="dollars per million output tokens, online")
        parser.add_argument("--training-usd", default="0.50", help="dollars per million tokens trained on")
        parser.add_argument(
            "--batch-factor",
            action="append",
            default=[],
            metavar="WINDOW=FACTOR",
            help=f"price of a batch over the online price; by default {_shown(BATCH_FACTORS)}",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Register and say what was registered."""
        try:
            model = register_model(
                directory=options["directory"],
                online=_token_price(options["input_usd"], options["output_usd"], factor="1"),
                batch={
                    window: _token_price(options["input_usd"], options["output_usd"], factor=factor)
                    for window, factor in _factors(options["batch_factor"]).items()
                },
                training=_token_price(options["training_usd"], "0", factor="1"),
            )
        except (HoneError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{model.name} is registered (revision {model.revision[:12]}, {model.context_length} tokens)")


def _factors(given: list[str]) -> dict[str, str]:
    factors = dict(BATCH_FACTORS)
    for text in given:
        window, _, factor = text.partition("=")
        if window not in COMPLETION_WINDOWS:
            raise ValueError(f"--batch-factor takes WINDOW=FACTOR, such as {_shown(BATCH_FACTORS)}, not {text!r}")
        factors[window] = factor
    return factors


def _shown(factors: dict[str, str]) -> str:
    return " ".join(f"{window}={factor}" for window, factor in factors.items())


def _token_price(input_usd: str, output_usd: str, *, factor: str) -> TokenPrice:
    per_input, per_output = _per_token(input_usd, factor), _per_token(output_usd, factor)
    return TokenPrice(input_nanos=per_input, cached_input_nanos=per_input, output_nanos=per_output)


def _per_token(usd_per_million: str, factor: str) -> int:
    # The factor is a plain decimal, too: read as dollars it is exact to nine places.
    price = Fraction(parse_usd(usd_per_million), 1_000_000) * Fraction(parse_usd(factor), NANOS_PER_USD)
    if price.denominator != 1:
        raise ValueError(
            f"${usd_per_million} per million tokens times {factor} is not a whole number of nano-dollars per token"
        )
    return price.numerator
