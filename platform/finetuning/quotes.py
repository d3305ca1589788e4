"""What a job would cost, before anybody commits to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from billing.selectors import balance
from catalog.models import BaseModel, Price
from catalog.selectors import current_prices
from common.errors import HoneError
from files.inspection import RowProblem
from files.models import FileReport, StoredFile
from files.selectors import get_file
from finetuning.continuation import starting_point
from finetuning.datasets import measure_dataset
from finetuning.hyperparameters import Choices, Hyperparameters, resolve
from finetuning.models import FineTuningJob
from finetuning.preparation import dataset_request
from finetuning.recipes import get_recipe
from fleet.selectors import training_places
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope

EXACT_BYTES = 16 * 1024 * 1024
"""Files up to this size are read whole while the caller waits; of larger ones their reports are asked."""


@dataclass(frozen=True, kw_only=True)
class QuoteRequest:
    """What decides the cost."""

    model: str
    training_file: str
    validation_file: str | None
    method: FineTuningJob.Method
    hyperparameters: dict[str, Any]
    seed: int
    recipe: str
    column_mapping: dict[str, Any] | None
    validation_fraction: float


@dataclass(frozen=True, kw_only=True)
class Quote:
    """What a training would process and cost; with ``problems`` it would fail instead."""

    base: BaseModel
    price: Price
    rows: int
    tokens_per_epoch: int
    is_estimate: bool
    """Whether the tokens are those of the file's report instead of what would be trained on."""
    skipped_rows: int
    truncated_rows: int
    problems: list[RowProblem]
    hyperparameters: Hyperparameters | None
    """None where there is nothing to train on."""
    available_nanos: int
    tokens_per_second: float
    """That a node makes of a training of this model; 0 while none knows."""

    @property
    def total_tokens(self) -> int:
        """Of all epochs."""
        return self.tokens_per_epoch * self.hyperparameters.n_epochs if self.hyperparameters else 0

    @property
    def cost_nanos(self) -> int:
        """What is held when the training is queued, in nano-USD: it cannot cost more."""
        return self.total_tokens * self.price.input_nanos


@dataclass(frozen=True)
class _Size:
    rows: int
    tokens: int
    is_estimate: bool = False
    skipped_rows: int = 0
    truncated_rows: int = 0
    problems: tuple[RowProblem, ...] = ()


def quote_job(*, project: Project, key: ApiKey, request: QuoteRequest) -> Quote:
    """Count as the preparation would; nothing is stored, held or queued.

    ``conflict`` for a large file whose report is not there yet.
    """
    with tenant_scope(project.organization_id):
        start = starting_point(
            key=key, model=request.model, method=request.method, hyperparameters=request.hyperparameters
        )  # fmt: skip
        job = FineTuningJob(
            organization_id=project.organization_id,
            base=start.base,
            method=request.method,
            hyperparameters=request.hyperparameters,
            seed=request.seed,
            recipe=request.recipe,
            column_mapping=request.column_mapping,
            validation_fraction=0 if request.validation_file else request.validation_fraction,
            training_file=_get_training_file(project, request.training_file, "training_file"),
            validation_file=(
                _get_training_file(project, request.validation_file, "validation_file")
                if request.validation_file
                else None
            ),
        )
        price = current_prices(kind=Price.Kind.TRAINING)[start.base.id]
        available = balance(organization_id=project.organization_id).available_nanos
    size = _measure(job) if _bytes_of(job) <= EXACT_BYTES else _reported(job)
    hyperparameters = None
    if size.rows and not size.problems:
        recipe = get_recipe(job.recipe).hyperparameters if job.recipe else {}
        choices = Choices(
            method=job.method, context_length=job.base.context_length, rows=size.rows, recipe=recipe
        )  # fmt: skip
        hyperparameters = resolve(job.hyperparameters, choices)
    return Quote(
        base=job.base,
        price=price,
        rows=size.rows,
        tokens_per_epoch=size.tokens,
        is_estimate=size.is_estimate,
        skipped_rows=size.skipped_rows,
        truncated_rows=size.truncated_rows,
        problems=list(size.problems),
        hyperparameters=hyperparameters,
        available_nanos=available,
        tokens_per_second=training_places(model=job.base.name).tokens_per_second,
    )


def _get_training_file(project: Project, wire_id: str, param: str) -> StoredFile:
    file = get_file(project=project, wire_id=wire_id, param=param)
    if file.purpose != StoredFile.Purpose.FINE_TUNE:
        raise HoneError("invalid_purpose", f"The file has the purpose '{file.purpose}'", param=param)
    return file


def _bytes_of(job: FineTuningJob) -> int:
    return sum(file.bytes for file in (job.training_file, job.validation_file) if file is not None)


def _measure(job: FineTuningJob) -> _Size:
    measured = measure_dataset(request=dataset_request(job), keep_alive=lambda: None)
    return _Size(
        rows=measured.train.rows,
        tokens=measured.train.tokens,
        skipped_rows=measured.skipped_rows,
        truncated_rows=measured.truncated_rows,
        problems=tuple(measured.problems),
    )


def _reported(job: FineTuningJob) -> _Size:
    with tenant_scope(job.organization_id):
        reports = FileReport.objects.filter(
            file_id=job.training_file.id, state=FileReport.State.COMPLETED, summary__model=job.base.name
        ).order_by("-created_at")
        summaries = [report.summary or {} for report in reports if _is_about(job, report.options)]
    if not summaries:
        raise HoneError(
            "conflict",
            f"The file is too large to be read now: get its report first, "
            f"GET /v1/files/{job.training_file.wire_id}/report?model={job.base.name}",
            param="training_file",
        )
    kept = 1 - job.validation_fraction
    return _Size(
        rows=int(summaries[0]["rows"]["valid"] * kept),
        tokens=int((summaries[0]["statistics"]["tokens_per_epoch"] or 0) * kept),
        is_estimate=True,
    )


def _is_about(job: FineTuningJob, options: Mapping[str, str]) -> bool:
    """Whether a report shapes the rows as the job does."""
    mapping = orjson.loads(options["column_mapping"]) if "column_mapping" in options else None
    return (options.get("recipe") or "", mapping) == (job.recipe, job.column_mapping)
