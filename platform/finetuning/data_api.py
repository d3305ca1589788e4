"""``/v1/fine_tuning/recipes`` and ``/v1/fine_tuning/preview``."""

from dataclasses import asdict
from typing import Any, ClassVar

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import not_found
from common.http import StrictSerializer, parsed
from finetuning.preview import MAX_ROWS, Preview, PreviewRequest, preview_rows
from finetuning.recipes import Recipe, all_recipes
from tenants.access import TenantAPIView

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


def render_recipe(recipe: Recipe) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": recipe.name,
        "object": "fine_tuning.recipe",
        "title": recipe.title,
        "description": recipe.description,
        "columns": [asdict(column) for column in recipe.columns],
        "messages": [{"role": role, "content": text} for role, text in recipe.template.messages],
        "answer": asdict(recipe.answer),
        "hyperparameters": recipe.hyperparameters,
        "metrics": recipe.metrics,
        "sample": {"filename": recipe.sample.name, "bytes": recipe.sample.stat().st_size},
    }


def render_preview(preview: Preview) -> dict[str, Any]:
    """The wire object; of each row the sequences that the model sees, in pieces with the same fate."""
    return {
        "object": "fine_tuning.preview",
        "model": preview.base.name,
        "problem": asdict(preview.problem) if preview.problem else None,
        "data": [
            {
                "line": row.line,
                "tokens": row.tokens,
                "trained_tokens": row.trained_tokens,
                "is_truncated": row.is_truncated,
                "sequences": [[asdict(piece) for piece in sequence] for sequence in row.sequences],
                "problems": [asdict(problem) for problem in row.problems],
            }
            for row in preview.rows
        ],
    }


class RecipeListView(TenantAPIView):
    """The recipes of this installation."""

    operations: ClassVar = {"GET": "fine_tuning.list_recipes"}

    def get(self, request: Request) -> Response:
        """All of them, by name; there are no pages."""
        data = [render_recipe(recipe) for recipe in all_recipes().values()]
        return Response(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": False,
            }
        )


class RecipeView(TenantAPIView):
    """One recipe."""

    operations: ClassVar = {"GET": "fine_tuning.retrieve_recipe"}

    def get(self, request: Request, recipe: str) -> Response:
        """The recipe object."""
        return Response(render_recipe(_find(recipe)))


class RecipeSampleView(TenantAPIView):
    """A small file of rows that fit a recipe."""

    operations: ClassVar = {"GET": "fine_tuning.recipe_sample"}

    def get(self, request: Request, recipe: str) -> HttpResponse:
        """The bytes, as they would be uploaded."""
        sample = _find(recipe).sample
        disposition = f'attachment; filename="{sample.name}"'
        headers = {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}
        return HttpResponse(sample.read_bytes(), content_type="application/octet-stream", headers=headers)


class PreviewView(TenantAPIView):
    """The loss mask of the first rows."""

    operations: ClassVar = {"POST": "fine_tuning.preview"}

    def post(self, request: Request) -> Response:
        """Render and show; nothing is kept."""
        data = parsed(PreviewSerializer, request)
        optional = ("training_file", "rows", "recipe", "column_mapping", "max_seq_length")
        asked = PreviewRequest(**{**dict.fromkeys(optional), **data})
        preview = preview_rows(project=self.project, key=self.principal.key, request=asked)
        return Response(render_preview(preview))


def _find(name: str) -> Recipe:
    recipe = all_recipes().get(name)
    if recipe is None:
        raise not_found("recipe", name)
    return recipe
