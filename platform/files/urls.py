"""Routes below ``/v1``."""

from django.urls import path

from files.api import FileContentView, FileListView, FileView
from files.reports_api import FileRejectsView, FileReportView
from files.uploads_api import UploadCancelView, UploadCompleteView, UploadListView, UploadPartListView

urlpatterns = [
    path("files", FileListView.as_view()),
    path("files/<str:file_id>", FileView.as_view()),
    path("files/<str:file_id>/content", FileContentView.as_view()),
    path("files/<str:file_id>/report", FileReportView.as_view()),
    path("files/<str:file_id>/report/rejects", FileRejectsView.as_view()),
    path("uploads", UploadListView.as_view()),
    path("uploads/<str:upload_id>/parts", UploadPartListView.as_view()),
    path("uploads/<str:upload_id>/complete", UploadCompleteView.as_view()),
    path("uploads/<str:upload_id>/cancel", UploadCancelView.as_view()),
]
