"""Routes below ``/v1`` and, for nodes, below ``/internal/v1``."""

from django.urls import path

from finetuning import api
from finetuning.data_api import PreviewView, RecipeListView, RecipeSampleView, RecipeView
from finetuning.evaluation_api import EvaluationView, ExampleListView
from finetuning.worker_api import ArtifactView, EventsView, InputView

urlpatterns = [
    path("fine_tuning/jobs", api.JobListView.as_view()),
    path("fine_tuning/jobs/<str:job_id>", api.JobView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/cancel", api.JobCancelView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/pause", api.JobPauseView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/resume", api.JobResumeView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/events", api.JobEventListView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/checkpoints", api.JobCheckpointListView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/evaluation", EvaluationView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/evaluation/examples", ExampleListView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/logs", api.JobLogsView.as_view()),
    path("fine_tuning/jobs/<str:job_id>/download", api.JobDownloadView.as_view()),
    path("fine_tuning/quote", api.JobQuoteView.as_view()),
    path("fine_tuning/recipes", RecipeListView.as_view()),
    path("fine_tuning/recipes/<str:recipe>", RecipeView.as_view()),
    path("fine_tuning/recipes/<str:recipe>/sample", RecipeSampleView.as_view()),
    path("fine_tuning/preview", PreviewView.as_view()),
]
internal_urlpatterns = [
    path("leases/<str:lease_id>/inputs/<path:name>", InputView.as_view()),
    path("leases/<str:lease_id>/artifacts/<path:path>", ArtifactView.as_view()),
    path("leases/<str:lease_id>/events", EventsView.as_view()),
]
