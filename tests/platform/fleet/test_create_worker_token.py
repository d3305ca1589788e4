"""The token of a node, as its operator gets it."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from fleet.models import WorkerToken
from fleet.selectors import find_worker_token


def run(**options: object) -> str:
    out = StringIO()
    call_command("create_worker_token", name="node-1", stdout=out, **options)
    return out.getvalue()


def test_a_token_is_printed_once_and_works(database: None) -> None:
    token = run().strip()
    found = find_worker_token(token)
    assert found is not None
    assert found.name == "node-1"
    assert find_worker_token(run().strip()) != found
    assert WorkerToken.objects.using("system").count() == 2


def test_a_token_goes_into_a_file_that_its_owner_alone_can_read(database: None, tmp_path: Path) -> None:
    path = tmp_path / "worker.token"
    path.write_text("something old")
    path.chmod(0o644)
    said = run(output=path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert find_worker_token(path.read_text()) is not None
    assert path.read_text() not in said
    assert list(tmp_path.iterdir()) == [path]


def test_a_token_that_works_is_kept(database: None, tmp_path: Path) -> None:
    path = tmp_path / "worker.token"
    run(output=path)
    before = path.read_text()
    run(output=path)
    assert path.read_text() == before
    assert WorkerToken.objects.using("system").count() == 1


@pytest.mark.parametrize("content", ["", "rubbish", "hone_wk_0123456789abcdef_" + "0" * 64])
def test_a_token_that_does_not_work_is_replaced(database: None, tmp_path: Path, content: str) -> None:
    path = tmp_path / "worker.token"
    path.write_text(content)
    run(output=path)
    assert find_worker_token(path.read_text()) is not None


def test_a_token_needs_a_name(database: None) -> None:
    with pytest.raises(CommandError, match="--name"):
        call_command("create_worker_token")
