"""Put a prepared model into the catalogue."""

from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from catalog.services import TokenPrice, register_model
from common.errors import HoneError
from common.money import parse_usd


class Command(BaseCommand):
    """Prices are dollars per million tokens; batches cost half of the online price unless told otherwise."""

    help = "Register a model folder made by 'python -m inference_workers prepare'"

    def add_arguments(self, parser: CommandParser) -> None:
        """The folder and the online price."""
        parser.add_argument("directory", type=Path)
        parser.add_argument("--input-usd", default="0.05", help="dollars per million input tokens, online")
        parser.add_argument("--output-usd", default="0.10", help="dollars per million output tokens, online")
        parser.add_argument("--batch-factor", default="0.5", help="price of a batch over the online price")

    def handle(self, *args: Any, **options: Any) -> None:
        """Register and say what was registered."""
        try:
            factor = Decimal(options["batch_factor"])
            online = [_per_token(Decimal(options[name])) for name in ("input_usd", "output_usd")]
            batch = [_per_token(Decimal(options[name]) * factor) for name in ("input_usd", "output_usd")]
            model = register_model(
                directory=options["directory"],
                online=TokenPrice(online[0], online[0], online[1]),
                batch=TokenPrice(batch[0], batch[0], batch[1]),
            )
        except (HoneError, ArithmeticError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{model.name} is registered (revision {model.revision[:12]}, {model.context_length} tokens)")


def _per_token(usd_per_million: Decimal) -> int:
    nanos = parse_usd(str(usd_per_million))
    if nanos % 1_000_000:
        raise ValueError(f"${usd_per_million} per million tokens is not a whole number of nano-dollars per token")
    return nanos // 1_000_000
