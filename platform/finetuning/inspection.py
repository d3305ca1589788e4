"""The report on a file of training data."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import orjson

from catalog.models import BaseModel, Price
from catalog.selectors import active_models, current_prices, get_served_model, served_models
from common.errors import HoneError
from common.storage import open_blob
from files.inspection import Inspector, Notes
from files.models import FileReport, StoredFile
from files.selectors import get_file
from files.similarity import open_row_index
from finetuning.problems import RowError
from finetuning.rendering import Renderer
from finetuning.shaping import Shape, shape_of
from finetuning.survey import Survey
from fleet.file_reports import queue_report
from metering.services import Quantities, cost_of
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope

OPTIONS = ("model", "validation_file", "recipe", "column_mapping")
DEFAULT_EPOCHS = 3
"""Of the quote, where the recipe names none."""


class TrainingDataInspector(Inspector):
    """Holds rows against their format, a recipe or mapping, and a model's template, tokenizer and limit."""

    purpose = StoredFile.Purpose.FINE_TUNE
    starts_by_itself = True

    def check_options(self, *, project: Project, key: ApiKey, options: Mapping[str, str]) -> None:
        """``model``, ``validation_file``, ``recipe`` and ``column_mapping`` (JSON)."""
        unknown = next((name for name in options if name not in OPTIONS), None)
        if unknown is not None:
            raise HoneError("unknown_parameter", f"Unknown parameter: '{unknown}'.", param=unknown)
        if "model" in options:
            get_served_model(key=key, name=options["model"])
        if "validation_file" in options:
            get_file(project=project, wire_id=options["validation_file"], param="validation_file")
        _shape(options)

    def queue(self, report: FileReport) -> None:
        """As a lease of the control plane."""
        queue_report(report)

    def inspect(self, report: FileReport, notes: Notes, progress: Callable[[int], None]) -> dict[str, Any]:
        """One pass over the validation file, if one is named, and one over the file."""
        shape = _shape(report.options)
        with tenant_scope(report.organization_id):
            base = _model(report)
            validation = _validation_file(report)
        renderer = Renderer(base=base, max_seq_length=base.context_length) if base is not None else None
        with ExitStack() as stack:
            survey = Survey(stack.enter_context(open_row_index()), renderer)
            if validation is not None:
                for row, _ in _read(validation, shape, stack):
                    progress(0)
                    if row.example is not None:
                        survey.add_held_out(row.example, line=row.line)
            position = 0
            for row, position in _read(report.file, shape, stack):  # where it ends is used below
                progress(position)
                notes.search(row.raw, line=row.line)
                errors = list(row.errors)
                if row.example is not None:
                    try:
                        survey.add(row, row.example)
                    except RowError as error:
                        errors = [error]
                if errors:
                    notes.bad_row([error.at(row.line) for error in errors], raw=row.raw)
                else:
                    notes.good_row()
            return {
                "model": base.name if base is not None else None,
                "recipe": report.options.get("recipe"),
                "validation_file": report.options.get("validation_file"),
                **survey.describe(notes, lambda: progress(position)),
            }

    def describe(self, report: FileReport) -> dict[str, Any]:
        """What training would cost at today's price."""
        summary = report.summary or {}
        tokens: int = summary.get("statistics", {}).get("tokens_per_epoch") or 0
        base = BaseModel.objects.filter(name=summary.get("model")).first()
        price = current_prices(kind=Price.Kind.TRAINING).get(base.id) if base is not None else None
        if not tokens or price is None:
            return {"quote": None}
        recipe = _shape(report.options).recipe
        epochs = recipe.hyperparameters.get("n_epochs", DEFAULT_EPOCHS) if recipe else DEFAULT_EPOCHS
        cost = cost_of(quantities=Quantities(input_tokens=tokens), price=price)
        return {
            "quote": {
                "tokens_per_epoch": tokens,
                "price_nanos_per_token": price.input_nanos,
                "cost_nanos_per_epoch": cost,
                "epochs": epochs,
                "cost_nanos": cost * epochs,
            }
        }


def default_model(*, key: ApiKey | None) -> BaseModel | None:
    """The model that data is held against when none is named: the first by name that can be fine-tuned."""
    models = active_models() if key is None else [served.base for served in served_models(key=key).values()]
    trainable = current_prices(kind=Price.Kind.TRAINING).keys()
    return min((model for model in models if model.id in trainable), key=lambda model: model.name, default=None)


def _shape(options: Mapping[str, str]) -> Shape:
    mapping = None
    if "column_mapping" in options:
        try:
            mapping = orjson.loads(options["column_mapping"])
        except orjson.JSONDecodeError as error:
            raise HoneError("invalid_json", "'column_mapping' is not valid JSON", param="column_mapping") from error
        if not isinstance(mapping, dict):
            raise HoneError("invalid_type", "'column_mapping' must be a JSON object", param="column_mapping")
    return shape_of(recipe=options.get("recipe"), column_mapping=mapping)


def _model(report: FileReport) -> BaseModel | None:
    name, key = report.options.get("model"), report.requested_by
    if name is None or key is None:
        return default_model(key=key)
    return get_served_model(key=key, name=name).base


def _validation_file(report: FileReport) -> StoredFile | None:
    wire_id = report.options.get("validation_file")
    if wire_id is None:
        return None
    return get_file(project=report.file.project, wire_id=wire_id, param="validation_file")


def _read(file: StoredFile, shape: Shape, stack: ExitStack) -> Any:
    stored = stack.enter_context(open_blob(file.storage_key))
    for row in shape.read(stored, filename=file.filename):
        yield row, stored.tell()
