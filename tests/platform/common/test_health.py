"""Probes."""

import pytest
from django.db import OperationalError, connections
from django.test import Client

from common.database import SYSTEM


def test_a_process_that_runs_is_alive() -> None:
    answer = Client().get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_a_process_with_its_database_is_ready(database: None) -> None:
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("role", ["default", SYSTEM])
def test_a_process_without_its_database_is_not_ready(
    database: None, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    def refuse() -> None:
        raise OperationalError("away")

    monkeypatch.setattr(connections[role], "cursor", refuse)
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "database unavailable"})
