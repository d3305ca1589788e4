"""Routes below ``/v1``."""

from django.urls import path

from files.api import FileContentView, FileListView, FileView

urlpatterns = [
    path("files", FileListView.as_view()),
    path("files/<str:file_id>", FileView.as_view()),
    path("files/<str:file_id>/content", FileContentView.as_view()),
]
