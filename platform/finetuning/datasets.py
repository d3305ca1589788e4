"""Prepared data: what the trainer reads, written once by the control plane."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from catalog.models import BaseModel
from common.errors import HoneError
from files.models import StoredFile


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """What is wrong with a row, or with the whole file (line 0)."""

    line: int
    pointer: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """Everything that decides the bytes."""

    training_file: StoredFile
    validation_file: StoredFile | None
    base: BaseModel
    method: str
    recipe: str | None
    column_mapping: dict[str, Any] | None
    max_seq_length: int
    train_on: str
    validation_fraction: float
    seed: int
    max_evaluation_rows: int


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """One file of the prepared data."""

    storage_key: str
    sha256: str
    bytes: int
    rows: int
    tokens: int
    trained_tokens: int


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """What the data was made into."""

    train: DatasetPart
    validation: DatasetPart | None
    evaluation: DatasetPart | None
    skipped_rows: int
    truncated_rows: int
    labels: list[str] | None
    problems: list[RowProblem]


def prepare_dataset(*, request: DatasetRequest, keep_alive: Callable[[], None]) -> PreparedDataset:
    """Write the parts."""
    raise HoneError("service_unavailable", "Data cannot be prepared yet")
