"""Recipes and previews of training data in the published schema."""

from typing import Any

from rest_framework import serializers

from common.contract import Content, Contract, listing
from common.http import StrictSerializer
from common.shapes import Shape, anything, array, boolean, constant, count, integer, nullable, number, one_of, text
from finetuning.preview import MAX_ROWS
from finetuning.recipes import AnswerKind

MAX_SEQ_LENGTH = 1_000_000


class PreviewSerializer(StrictSerializer):
    """Body of ``POST /v1/fine_tuning/preview``."""

    model = serializers.CharField(max_length=200)
    training_file = serializers.CharField(max_length=100, required=False)
    rows = serializers.ListField(child=serializers.DictField(), required=False, allow_empty=False, max_length=MAX_ROWS)
    method = serializers.ChoiceField(choices=["supervised", "dpo"], required=False, default="supervised")
    recipe = serializers.CharField(max_length=100, required=False, allow_null=True)
    column_mapping = serializers.DictField(required=False, allow_null=True)
    max_seq_length = serializers.IntegerField(min_value=1, max_value=MAX_SEQ_LENGTH, required=False)
    train_on = serializers.ChoiceField(choices=["assistant", "all"], required=False, default="assistant")
    limit = serializers.IntegerField(min_value=1, max_value=MAX_ROWS, required=False, default=10)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The rows come in one of two ways."""
        if ("training_file" in attrs) == ("rows" in attrs):
            raise serializers.ValidationError({"training_file": "give either 'training_file' or 'rows'"})
        return attrs


RECIPE = Shape(
    name="FineTuningRecipe",
    about="A task: what its rows hold, what they become, and the defaults of training and evaluating.",
    fields={
        "id": text(),
        "object": constant("fine_tuning.recipe"),
        "title": text(),
        "description": text(),
        "columns": array(
            Shape(
                name="RecipeColumn",
                about="What a row holds.",
                fields={"name": text(), "description": text(), "required": boolean()},
            )
        ),
        "messages": array(
            Shape(
                name="RecipeMessage",
                about="What a row becomes; `{{name}}` stands for the column.",
                fields={"role": text(), "content": text()},
            )
        ),
        "answer": Shape(
            name="RecipeAnswer",
            about="What answers are held to.",
            fields={
                "kind": one_of(AnswerKind),
                "choices": array(text(), "Empty takes the answers that the training file has."),
                "json_schema": nullable(anything("What answers are valid against.")),
                "max_tokens": nullable(integer(least=1)),
            },
        ),
        "hyperparameters": anything("Defaults, by name."),
        "metrics": array(text(), "The first is the one that decides."),
        "sample": Shape(
            name="RecipeSample", about="A small file of rows.", fields={"filename": text(), "bytes": count()}
        ),
    },
)
PROBLEM = Shape(
    name="RowProblem",
    about="Something that is wrong with a row of training data.",
    fields={
        "line": nullable(integer("null is about all of the file.", least=1)),
        "pointer": text("JSON pointer (RFC 6901) to the member."),
        "code": text(),
        "message": text(),
        "fix": text("What to do about it."),
        "param": nullable(text()),
    },
)
PREVIEWED = Shape(
    name="FineTuningPreview",
    about="What the model would see of the first rows, and which tokens it would learn.",
    fields={
        "object": constant("fine_tuning.preview"),
        "model": text(),
        "problem": nullable(PROBLEM),
        "data": array(
            Shape(
                name="PreviewRow",
                about="A row; a preference has two sequences, the wanted one first.",
                fields={
                    "line": integer(least=1),
                    "tokens": count(),
                    "trained_tokens": count(),
                    "is_truncated": boolean(),
                    "sequences": array(
                        array(
                            Shape(
                                name="PreviewPiece",
                                about="Neighbouring tokens with the same fate.",
                                fields={
                                    "text": text(),
                                    "token_ids": array(count()),
                                    "token_texts": array(text()),
                                    "is_trained": boolean(),
                                    "weight": number("0 where nothing is learnt."),
                                },
                            )
                        )
                    ),
                    "problems": array(PROBLEM),
                },
            )
        ),
    },
)

LIST_RECIPES = Contract(summary="List recipes", answer=listing(RECIPE))
RETRIEVE_RECIPE = Contract(summary="Show a recipe", answer=RECIPE)
RECIPE_SAMPLE = Contract(
    summary="Download a small file of rows that fit a recipe",
    contents=(Content(about="As it would be uploaded."),),
)
PREVIEW = Contract(
    summary="Show what a model would learn of the first rows",
    description="Nothing is kept.",
    body=PreviewSerializer,
    answer=PREVIEWED,
    errors=("model_not_found", "not_found", "invalid_purpose"),
)
