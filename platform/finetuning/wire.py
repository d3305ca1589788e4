"""Fine-tuning jobs as JSON: what requests may hold, and the objects that answer them."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from common.fields import DollarsField, MetadataField
from common.http import StrictSerializer
from common.ids import to_wire
from common.money import format_usd
from files.models import StoredFile
from finetuning.hyperparameters import (
    ALL_LINEAR,
    AUTO,
    MAX_EPOCHS,
    MAX_RANK,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULERS,
    TRAIN_ON,
)
from finetuning.models import Checkpoint, FineTuningJob, JobEvent, MetricPoint
from finetuning.progress import Progress
from finetuning.quotes import Quote
from finetuning.selectors import numbered_id
from finetuning.services import MAX_SEED

_OPENAI = ("batch_size", "learning_rate_multiplier", "n_epochs")
"""Hyperparameters that OpenAI's job object has at its top level, too."""


class AutoField(serializers.Field[Any, Any, Any, Any], ABC):
    """``"auto"``, or what the derived class takes; null is as good as ``"auto"``."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__(required=False, allow_null=True)
        # Typed for classes and functions; it describes fields as well.
        extend_schema_field({"anyOf": [{"type": "string", "const": AUTO}, schema]})(cast("Any", self))

    def to_internal_value(self, data: Any) -> Any:
        """Leave ``"auto"`` as it is."""
        return data if data == AUTO else self.check(data)

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value

    @abstractmethod
    def check(self, data: Any) -> Any:
        """The value, or an error that says what would be right."""


class AutoNumber(AutoField):
    """A finite number in a range; a whole one where the bounds are whole ones and ``is_whole`` says so."""

    def __init__(self, least: float, most: float, *, is_whole: bool = False, excludes_least: bool = False) -> None:
        least_key = "exclusiveMinimum" if excludes_least else "minimum"
        super().__init__({"type": "integer" if is_whole else "number", least_key: least, "maximum": most})
        self._least, self._most, self._is_whole, self._excludes_least = least, most, is_whole, excludes_least

    def check(self, data: Any) -> float:
        """In the range."""
        is_number = isinstance(data, int if self._is_whole else (int, float)) and not isinstance(data, bool)
        is_within = is_number and math.isfinite(data) and self._least <= data <= self._most
        if not is_within or (self._excludes_least and data == self._least):
            sort = "whole number" if self._is_whole else "number"
            start = "above" if self._excludes_least else "from"
            raise serializers.ValidationError(f'must be "auto" or a {sort} {start} {self._least} to {self._most}')
        return int(data) if self._is_whole else float(data)


class AutoChoice(AutoField):
    """One of some words."""

    def __init__(self, *choices: Any) -> None:
        super().__init__({"enum": list(choices)})
        self._choices = choices

    def check(self, data: Any) -> Any:
        """One of them, and not merely equal to one (1 is not true)."""
        if not any(data is choice or (isinstance(data, str) and data == choice) for choice in self._choices):
            known = ", ".join(str(choice).lower() for choice in self._choices)
            raise serializers.ValidationError(f'must be "auto" or one of {known}')
        return data


class TargetModules(AutoField):
    """``"all-linear"``, or the names of linear layers."""

    def __init__(self) -> None:
        name = {"type": "string", "minLength": 1, "maxLength": 100}
        names = {"type": "array", "items": name, "minItems": 1, "maxItems": 100}
        super().__init__({"anyOf": [{"type": "string", "const": ALL_LINEAR}, names]})

    def check(self, data: Any) -> Any:
        """Names are not looked up here: the trainer knows the model."""
        is_list = isinstance(data, list) and 0 < len(data) <= 100
        if data != ALL_LINEAR and not (
            is_list and all(isinstance(name, str) and 0 < len(name) <= 100 for name in data)
        ):
            raise serializers.ValidationError(f'must be "auto", "{ALL_LINEAR}" or an array of names such as "q_proj"')
        return data


class LoraSerializer(StrictSerializer):
    """The shape of the adapter."""

    UNKNOWN = "Unknown parameter: '{name}'. Of PEFT's settings only those are offered that vLLM serves."

    r = AutoNumber(1, MAX_RANK, is_whole=True)
    alpha = AutoNumber(0, 1_024, excludes_least=True)
    dropout = AutoNumber(0, 0.99)
    target_modules = TargetModules()


class EarlyStoppingSerializer(StrictSerializer):
    """When to stop before the last epoch."""

    patience = serializers.IntegerField(min_value=1, max_value=100)


class HyperparametersSerializer(StrictSerializer):
    """What both methods take; the first three are OpenAI's."""

    batch_size = AutoNumber(1, 256, is_whole=True)
    learning_rate_multiplier = AutoNumber(0, 100, excludes_least=True)
    n_epochs = AutoNumber(1, MAX_EPOCHS, is_whole=True)
    learning_rate = AutoNumber(0, 1, excludes_least=True)
    scheduler = AutoChoice(*SCHEDULERS)
    warmup_ratio = AutoNumber(0, 0.99)
    weight_decay = AutoNumber(0, 1)
    max_grad_norm = AutoNumber(0, 1_000)
    gradient_accumulation = AutoNumber(1, 256, is_whole=True)
    gradient_checkpointing = AutoChoice(True, False)
    optimizer = AutoChoice(*OPTIMIZERS)
    precision = AutoChoice(*PRECISIONS)
    packing = AutoChoice(True, False)
    group_by_length = AutoChoice(True, False)
    max_seq_length = AutoNumber(16, 1_000_000, is_whole=True)
    train_on = AutoChoice(*TRAIN_ON)
    early_stopping = EarlyStoppingSerializer(required=False, allow_null=True)
    n_checkpoints = AutoNumber(1, 100, is_whole=True)
    from_checkpoint = serializers.CharField(required=False, allow_null=True, max_length=300)
    lora = LoraSerializer(required=False, allow_null=True)


class DpoHyperparametersSerializer(HyperparametersSerializer):
    """And what DPO takes besides."""

    beta = AutoNumber(0, 10, excludes_least=True)


class SupervisedSerializer(StrictSerializer):
    """``method.supervised``."""

    hyperparameters = HyperparametersSerializer(required=False)


class DpoSerializer(StrictSerializer):
    """``method.dpo``."""

    hyperparameters = DpoHyperparametersSerializer(required=False)


class MethodSerializer(StrictSerializer):
    """How to train; the other method's part may not be there."""

    type = serializers.ChoiceField(choices=FineTuningJob.Method.values)
    supervised = SupervisedSerializer(required=False)
    dpo = DpoSerializer(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One method, one part."""
        for name in FineTuningJob.Method.values:
            if name in attrs and name != attrs["type"]:
                raise serializers.ValidationError({name: f"the method's type is '{attrs['type']}'"})
        return attrs


class LabelField(serializers.RegexField):
    """What may be part of a model's name, or null."""

    def __init__(self) -> None:
        super().__init__(
            r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            required=False,
            allow_null=True,
            error_messages={"invalid": "takes at most 64 letters, digits, '.', '_' and '-'"},
        )


class JobQuoteSerializer(StrictSerializer):
    """Body of ``POST /v1/fine_tuning/quote``: what decides the cost of a job."""

    model = serializers.CharField(max_length=300)
    training_file = serializers.CharField(max_length=100)
    validation_file = serializers.CharField(max_length=100, required=False, allow_null=True)
    method = MethodSerializer(required=False)
    hyperparameters = HyperparametersSerializer(required=False)
    seed = serializers.IntegerField(min_value=0, max_value=MAX_SEED, required=False, allow_null=True)
    recipe = serializers.CharField(max_length=64, required=False, allow_null=True)
    column_mapping = serializers.DictField(required=False, allow_null=True)
    validation_fraction = serializers.FloatField(min_value=0, max_value=0.5, required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Hyperparameters come in one of two ways."""
        if "method" in attrs and "hyperparameters" in attrs:
            raise serializers.ValidationError({"hyperparameters": "give them in 'method', which replaces this"})
        return attrs


class CreateJobSerializer(JobQuoteSerializer):
    """Body of ``POST /v1/fine_tuning/jobs``; what OpenAI's does not have is ours."""

    suffix = LabelField()
    metadata = MetadataField(required=False, allow_null=True)
    integrations = serializers.ListField(required=False, allow_null=True)
    max_cost = DollarsField(required=False, allow_null=True)
    promote_if = serializers.JSONField(required=False, allow_null=True)
    alias = LabelField()

    def validate_integrations(self, value: list[Any] | None) -> None:
        """None yet."""
        if value:
            raise serializers.ValidationError(
                "Weights & Biases is not connected yet: leave it out. The job's events hold its metrics, and "
                "GET /v1/fine_tuning/jobs/{id}/logs its TensorBoard logs"
            )

    def validate_max_cost(self, value: int | None) -> int | None:
        """A job that may cost nothing never trains."""
        if value == 0:
            raise serializers.ValidationError("must be more than 0")
        return value


def asked_method(data: dict[str, Any]) -> tuple[FineTuningJob.Method, dict[str, Any]]:
    """Method and hyperparameters of a request, wherever they stand; nulls are left out."""
    method = data.get("method") or {"type": FineTuningJob.Method.SUPERVISED}
    kind = FineTuningJob.Method(method["type"])
    asked = method.get(kind, {}).get("hyperparameters") or data.get("hyperparameters") or {}
    return kind, {name: value for name, value in asked.items() if value is not None}


def render_job(job: FineTuningJob, progress: Progress) -> dict[str, Any]:
    """The wire object; what follows ``method`` is ours (money in nano-USD, ``max_cost`` in dollars)."""
    hyperparameters = _hyperparameters(job)
    has_succeeded = job.status == FineTuningJob.Status.SUCCEEDED
    return {
        "id": job.wire_id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at.timestamp()),
        "model": job.model,
        "organization_id": job.organization.wire_id,
        "status": FineTuningJob.Status.QUEUED if job.pause_reason else job.status,
        "fine_tuned_model": job.fine_tuned_model if has_succeeded else None,
        "finished_at": _seconds(job.finished_at),
        "trained_tokens": job.trained_tokens if job.is_terminal else None,
        "training_file": to_wire(StoredFile.ID_PREFIX, job.training_file_id),
        "validation_file": _file_id(job.validation_file_id),
        "result_files": [_file_id(job.result_file_id)] if job.result_file_id else [],
        "estimated_finish": _seconds(progress.estimated_finish_at),
        "seed": job.seed,
        "error": job.error,
        "hyperparameters": {name: hyperparameters[name] for name in _OPENAI},
        "integrations": None,
        "metadata": job.metadata or None,
        "method": {"type": job.method, job.method: {"hyperparameters": hyperparameters}},
        "suffix": job.suffix or None,
        "recipe": job.recipe or None,
        "column_mapping": job.column_mapping,
        "validation_fraction": job.validation_fraction,
        "promote_if": job.promote_if,
        "alias": job.alias or None,
        "paused": bool(job.pause_reason),
        "waiting_reason": progress.waiting_reason,
        "queue_position": progress.queue_position,
        "dataset": job.dataset,
        "progress": _progress(job),
        "cost_nanos": job.cost_nanos,
        "max_cost_nanos": job.bound_nanos if job.dataset else None,
        "max_cost": format_usd(job.max_cost_nanos) if job.max_cost_nanos is not None else None,
    }


def render_quote(quote: Quote) -> dict[str, Any]:
    """What a job would cost at most, and whether the balance pays for that (nano-USD)."""
    hyperparameters = quote.hyperparameters
    seconds = quote.total_tokens / quote.tokens_per_second if quote.tokens_per_second else None
    return {
        "object": "fine_tuning.quote",
        "model": quote.base.name,
        "is_trainable": hyperparameters is not None,
        "problems": [asdict(problem) for problem in quote.problems],
        "examples": quote.rows,
        "skipped_rows": quote.skipped_rows,
        "truncated_rows": quote.truncated_rows,
        "is_estimate": quote.is_estimate,
        "tokens_per_epoch": quote.tokens_per_epoch,
        "hyperparameters": {name: getattr(hyperparameters, name) for name in _OPENAI} if hyperparameters else None,
        "total_steps": hyperparameters.steps(quote.rows) if hyperparameters else 0,
        "total_tokens": quote.total_tokens,
        "price_nanos_per_token": quote.price.input_nanos,
        "max_cost_nanos": quote.cost_nanos,
        "available_nanos": quote.available_nanos,
        "is_affordable": quote.cost_nanos <= quote.available_nanos,
        "estimated_seconds": round(seconds) if seconds is not None else None,
    }


def render_event(event: JobEvent, points: dict[int, MetricPoint]) -> dict[str, Any]:
    """The wire object; ``points`` are those of a page's events."""
    point = points.get(event.step) if event.step is not None else None
    return {
        "id": numbered_id(JobEvent.ID_PREFIX, event.job_id, event.number),
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at.timestamp()),
        "level": event.level,
        "message": event.message,
        "type": "message" if event.step is None else "metrics",
        "data": _metrics(point) if point else None,
    }


def render_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The wire object; its validation is always of all rows."""
    known = checkpoint.metrics
    loss, accuracy = known.get("valid_loss"), known.get("valid_token_accuracy")
    return {
        "id": numbered_id(Checkpoint.ID_PREFIX, checkpoint.job_id, checkpoint.step),
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(checkpoint.created_at.timestamp()),
        "fine_tuning_job_id": to_wire(FineTuningJob.ID_PREFIX, checkpoint.job_id),
        "fine_tuned_model_checkpoint": checkpoint.model,
        "step_number": checkpoint.step,
        "metrics": {
            "step": checkpoint.step,
            "train_loss": known.get("train_loss"),
            "train_mean_token_accuracy": known.get("train_token_accuracy"),
            "valid_loss": loss,
            "valid_mean_token_accuracy": accuracy,
            "full_valid_loss": loss,
            "full_valid_mean_token_accuracy": accuracy,
        },
    }


def _hyperparameters(job: FineTuningJob) -> dict[str, Any]:
    """As asked for until the data is known, then what is used."""
    known = {**dict.fromkeys(_OPENAI, AUTO), **job.hyperparameters, **(job.resolved or {})}
    if job.method != FineTuningJob.Method.DPO:
        known.pop("beta", None)
    return known


def _progress(job: FineTuningJob) -> dict[str, Any] | None:
    run = getattr(job, "run", None)
    if run is None:
        return None
    return {
        "step": run.step,
        "total_steps": run.total_steps,
        "trained_tokens": job.trained_tokens,
        "total_tokens": job.total_tokens,
    }


def _metrics(point: MetricPoint) -> dict[str, Any]:
    return {
        "step": point.step,
        "epoch": point.epoch,
        "train_loss": point.train_loss,
        "train_mean_token_accuracy": point.train_token_accuracy,
        "valid_loss": point.valid_loss,
        "valid_mean_token_accuracy": point.valid_token_accuracy,
        "learning_rate": point.learning_rate,
        "grad_norm": point.grad_norm,
        "tokens_per_second": point.tokens_per_second,
        "trained_tokens": point.trained_tokens,
        **point.more,
    }


def _file_id(file_id: UUID | None) -> str | None:
    return to_wire(StoredFile.ID_PREFIX, file_id) if file_id else None


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
