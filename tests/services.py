"""Pytest plugin: real PostgreSQL and Valkey for the session, started before Django reads its settings.

Named in ``addopts`` with ``-p``, because settings are read before any conftest. Processes that share the tests out
among them (``-n``, pytest-xdist) have services of their own each: nothing of one is seen by another.
"""

import os
import shutil
from pathlib import Path

import pytest

from infra.dev import services
from infra.dev.services import Services

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
HOME = services.default_home() / (f"test-{_WORKER}" if _WORKER else "test")
_PLACES = ("DATABASE_URL", "DATABASE_SYSTEM_URL", "DATABASE_OWNER_URL", "REDIS_URL")
_running: Services | None = None


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Start the services and put their environment where the settings look."""
    global _running  # noqa: PLW0603  # one per session, handed from hook to hook
    if early_config.known_args_namespace.numprocesses and not _WORKER:
        return  # it only hands the tests out
    if _WORKER:
        for name in _PLACES:  # inherited from that process, in which they lead nowhere
            os.environ.pop(name, None)
    storage = HOME / "storage"
    shutil.rmtree(storage, ignore_errors=True)
    _running = services.start(HOME, durable=False)
    _running.create_database("hone")
    os.environ.update(_running.environment())
    os.environ["STORAGE_ROOT"] = str(storage)
    os.environ["LOG_LEVEL"] = "WARNING"


def pytest_unconfigure() -> None:
    """Stop them."""
    if _running is not None:
        _running.stop()


def running() -> Services:
    """The services of this session."""
    assert _running is not None
    return _running


def storage_root() -> Path:
    """Where the tests' blobs are."""
    return HOME / "storage"
