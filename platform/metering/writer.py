"""Usage events by the hundred, in one statement. Knows no Django, so that a gateway can write them, too."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """The columns of ``metering_usageevent`` (:class:`metering.models.UsageEvent` says what they mean)."""

    source: str
    occurred_at: datetime
    organization_id: UUID
    project_id: UUID
    api_key_id: UUID
    job: str = ""
    operation: str = "completions"
    model: str
    price_id: UUID
    requests: int = 1
    input_tokens: int
    cached_tokens: int = 0
    output_tokens: int
    cost_nanos: int


_TYPES = {str: "text", datetime: "timestamptz", UUID: "uuid", int: "bigint"}
_COLUMNS = ", ".join(field.name for field in fields(NewEvent))
_ARRAYS = ", ".join(f"%s::{_TYPES[field.type]}[]" for field in fields(NewEvent))  # type: ignore[index]  # real types

INSERT = f"""
INSERT INTO metering_usageevent ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING
"""  # noqa: S608  # names and types of our own
"""Adds those that are not there yet, of any tenants (the system role). Its parameters: :func:`columns`."""


def columns(events: Sequence[NewEvent]) -> list[list[object]]:
    """The parameters of :data:`INSERT`: an array for each column."""
    return [list(column) for column in zip(*map(astuple, events), strict=True)]
