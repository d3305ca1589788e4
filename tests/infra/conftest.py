"""A home of their own for tests of the launcher; whoever runs the tests may have services already."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.dev import services
from infra.dev.programs import without_connections


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - without_connections(os.environ).keys():
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose servers have run once, so that a test does not wait for initdb."""
    home = tmp_path_factory.mktemp("cluster") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - without_connections(os.environ).keys():
            patch.delenv(name)
        services.start(home, durable=False).stop()
    return home


@pytest.fixture
def home(cluster: Path) -> Iterator[Path]:
    """The cluster's home; whatever a test has left running in it is stopped."""
    yield cluster
    services.attach(cluster).stop()


def servers_of(home: Path) -> list[psutil.Process]:
    """The processes that work in the data folders of this home."""
    folders = {str(home.resolve() / "postgres" / "data"), str(home.resolve() / "valkey")}
    return [
        process
        for process in psutil.process_iter(["cwd", "status"])
        if process.info["cwd"] in folders and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
