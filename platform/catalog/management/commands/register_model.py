"""Put a prepared model into the catalogue."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from catalog.models import COMPLETION_WINDOWS
from catalog.services import TokenPrice, TunedPrices, register_model
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
        parser.add_argument(
            "--tuned-factor",
            help="price of models fine-tuned from this one over its own; without it they cost what it costs",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Register and say what was registered."""
        usd = options["input_usd"], options["output_usd"]
        try:
            windows = _factors(options["batch_factor"])
            tuned = options["tuned_factor"]
            model = register_model(
                directory=options["directory"],
                online=_token_price(*usd),
                batch={window: _token_price(*usd, factor) for window, factor in windows.items()},
                training=_token_price(options["training_usd"], "0"),
                tuned=tuned
                and TunedPrices(
                    online=_token_price(*usd, tuned),
                    batch={window: _token_price(*usd, factor, tuned) for window, factor in windows.items()},
                ),
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


def _token_price(input_usd: str, output_usd: str, *factors: str) -> TokenPrice:
    per_input, per_output = _per_token(input_usd, *factors), _per_token(output_usd, *factors)
    return TokenPrice(input_nanos=per_input, cached_input_nanos=per_input, output_nanos=per_output)


def _per_token(usd_per_million: str, *factors: str) -> int:
    price = Fraction(parse_usd(usd_per_million), 1_000_000)
    for factor in factors:
        # A plain decimal, too: read as dollars it is exact to nine places.
        price *= Fraction(parse_usd(factor), NANOS_PER_USD)
    if price.denominator != 1:
        times = " times ".join(factors) or "1"
        raise ValueError(
            f"${usd_per_million} per million tokens times {times} is not a whole number of nano-dollars per token"
        )
    return price.numerator
