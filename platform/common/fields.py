"""Members of requests that several apps take, and bodies that consist of nothing else."""

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from common.http import StrictSerializer
from common.money import format_usd, parse_usd


class MetadataField(serializers.DictField):
    """At most 16 pairs of a key (64 characters) and a text (512)."""

    child = serializers.CharField(max_length=512, allow_blank=True, trim_whitespace=False)

    def to_internal_value(self, data: Any) -> dict[str, str]:
        """Check the keys too."""
        value: dict[str, str] = super().to_internal_value(data)
        if any(not isinstance(text, str) for text in data.values()):
            raise serializers.ValidationError("values must be strings")
        if len(value) > 16:
            raise serializers.ValidationError("at most 16 pairs are allowed")
        if any(not 0 < len(key) <= 64 or "\0" in key for key in value):
            raise serializers.ValidationError("keys have 1 to 64 characters")
        return value


class DollarsField(serializers.Field[int, str | float, str, Any]):
    """US dollars, ``"0.50"`` or ``0.5``; nano-USD inside."""

    def to_internal_value(self, data: str | float) -> int:
        """Exact to nine decimals; a number means its shortest decimal form."""
        if isinstance(data, bool) or not isinstance(data, (str, int, float)):
            raise serializers.ValidationError('must be an amount in dollars, such as "0.50"')
        try:
            return parse_usd(data if isinstance(data, str) else f"{Decimal(repr(data)):f}")
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error

    def to_representation(self, value: int) -> str:
        """Dollars."""
        return format_usd(value)


class CapSerializer(StrictSerializer):
    """Body of retry and resume: perhaps a cap on the cost."""

    max_cost = DollarsField(required=False, allow_null=True)


class NoParametersSerializer(StrictSerializer):
    """A body that may hold nothing."""
