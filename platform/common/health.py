"""Probes for load balancers and supervisors."""

from django.db import connections
from django.db.utils import Error
from django.http import HttpRequest, JsonResponse

from common.database import SYSTEM


def alive(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> JsonResponse:
    """The process can do its work: both database roles answer."""
    try:
        for alias in ("default", SYSTEM):
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
    except Error:
        return JsonResponse({"status": "database unavailable"}, status=503)
    return JsonResponse({"status": "ready"})
