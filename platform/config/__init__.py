"""Settings, routes and entry points of the control plane; no logic."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
