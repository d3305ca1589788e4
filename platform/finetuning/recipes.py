"""Ready-made tasks. Each is one file, ``recipes/<name>.toml``; with its sample it is all that a recipe consists of."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import HoneError
from finetuning.templates import Template, TemplateSyntaxError

FOLDER = Path(__file__).parent / "recipes"
METRICS = frozenset(
    {
        "accuracy", "precision", "recall", "f1", "confusion_matrix", "exact_match", "rouge", "chrf", "bleu",
        "json_validity", "field_accuracy", "cross_entropy", "perplexity",
    }
)  # fmt: skip
"""Names that a recipe may put into ``metrics``; the evaluation computes them."""
HYPERPARAMETERS = frozenset(
    {
        "batch_size", "beta", "dropout", "gradient_accumulation", "group_by_length", "learning_rate", "max_grad_norm",
        "max_seq_length", "n_epochs", "optimizer", "packing", "scheduler", "train_on", "warmup_ratio", "weight_decay",
        "lora", "early_stopping",
    }
)  # fmt: skip
"""Names that a recipe may give a default, as ``method.<type>.hyperparameters`` of a job has them."""


class AnswerKind(StrEnum):
    """What the answers of a task are."""

    TEXT = "text"
    CHOICES = "choices"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a row holds, under the name that the recipe's texts use for it."""

    name: str
    description: str
    required: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What answers are held to, in the data and in the evaluation."""

    kind: AnswerKind
    choices: tuple[str, ...] = ()
    """The labels; empty takes those that the training file has."""
    json_schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    """Most tokens of an answer in the evaluation; None is by the length of the expected one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A task: what its rows hold, what they become, and the defaults of training and evaluating."""

    name: str
    title: str
    description: str
    columns: tuple[Column, ...]
    template: Template
    answer: Answer
    hyperparameters: Mapping[str, Any]
    metrics: tuple[str, ...]
    """The first is the one that decides."""
    sample: Path


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    return load_recipes(FOLDER)


def get_recipe(name: str) -> Recipe:
    """One recipe, or ``invalid_value`` that names all."""
    recipes = all_recipes()
    if name not in recipes:
        raise HoneError("invalid_value", f"'recipe' must be one of {', '.join(sorted(recipes))}", param="recipe")
    return recipes[name]


@cache
def load_recipes(folder: Path) -> dict[str, Recipe]:
    """Read and check all recipes of a folder; ValueError names the file and what is wrong with it."""
    recipes = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            recipes[path.stem] = _read(path)
        except (KeyError, TypeError, AttributeError, ValueError, TemplateSyntaxError, OSError) as error:
            raise ValueError(f"{path.name}: {error!r}") from error
    return recipes


def _read(path: Path) -> Recipe:
    content = tomllib.loads(path.read_text())
    if parent := content.pop("extends", None):
        if not (path.parent / f"{parent}.toml").is_file():
            raise ValueError(f"there is no recipe {parent} to extend")
        content = tomllib.loads((path.parent / f"{parent}.toml").read_text()) | content
    _only(content, {"title", "description", "columns", "messages", "answer", "hyperparameters", "metrics", "sample"})
    columns = tuple(_column(name, entry) for name, entry in content["columns"].items())
    template = Template.parse({"messages": content["messages"]})
    unknown = template.columns - {column.name for column in columns}
    if unknown:
        raise ValueError(f"the messages use columns that are not described: {sorted(unknown)}")
    _only(content.get("hyperparameters", {}), HYPERPARAMETERS)
    metrics = tuple(content["metrics"])
    if not metrics or not set(metrics) <= METRICS:
        raise ValueError(f"metrics must be some of {sorted(METRICS)}")
    sample = path.parent / content["sample"]
    if not sample.is_file():
        raise ValueError(f"there is no sample {content['sample']}")
    return Recipe(
        name=path.stem,
        title=content["title"],
        description=" ".join(content["description"].split()),
        columns=columns,
        template=template,
        answer=_answer(content["answer"]),
        hyperparameters=content.get("hyperparameters", {}),
        metrics=metrics,
        sample=sample,
    )


def _column(name: str, entry: dict[str, Any]) -> Column:
    _only(entry, {"description", "required"})
    return Column(name=name, description=entry["description"], required=entry.get("required", True))


def _answer(entry: dict[str, Any]) -> Answer:
    _only(entry, {"kind", "choices", "json_schema", "max_tokens"})
    return Answer(
        kind=AnswerKind(entry["kind"]),
        choices=tuple(entry.get("choices", ())),
        json_schema=entry.get("json_schema"),
        max_tokens=entry.get("max_tokens"),
    )


def _only(entry: dict[str, Any], known: frozenset[str] | set[str]) -> None:
    unknown = entry.keys() - known
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
