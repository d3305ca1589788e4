"""Routes below ``/v1`` and, for nodes, below ``/internal/v1``."""

from django.urls import URLPattern, path

from finetuning.data_api import PreviewView, RecipeListView, RecipeSampleView, RecipeView

urlpatterns = [
    path("fine_tuning/recipes", RecipeListView.as_view()),
    path("fine_tuning/recipes/<str:recipe>", RecipeView.as_view()),
    path("fine_tuning/recipes/<str:recipe>/sample", RecipeSampleView.as_view()),
    path("fine_tuning/preview", PreviewView.as_view()),
]
internal_urlpatterns: list[URLPattern] = []
