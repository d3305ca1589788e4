"""Codes are published, and what is published is used."""

import ast
from functools import cache
from io import StringIO
from pathlib import Path

from django.core.management import call_command

from common.errors import CODES, DATA_CODES, JOB_CODES, REQUEST_CODES, ROW_CODES, WORKER_CODES

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "platform" / "common" / "errors.py"
RAISED_WITH_A_CODE = {"HoneError", "LineError", "FileError", "RowError"}


@cache
def modules() -> list[tuple[Path, ast.Module]]:
    """The code of the control plane and of the workers, parsed."""
    return [
        (path, ast.parse(path.read_text()))
        for folder in ("platform", "tenants", "inference_workers")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def raised() -> set[str]:
    """Codes that stand in the code as first argument of an error."""
    return {
        node.args[0].value
        for _, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in RAISED_WITH_A_CODE
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def mentioned() -> set[str]:
    """Every text in the code outside of the registry: a code may travel through a table or a keyword."""
    return {
        node.value
        for path, module in modules()
        if path != REGISTRY
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_code_that_is_raised_is_published() -> None:
    assert len(raised()) > 20
    assert raised() - CODES.keys() == set()


def test_every_published_code_is_used() -> None:
    assert CODES.keys() - raised() - mentioned() == set()


def test_a_code_is_published_once() -> None:
    assert len(CODES) == sum(map(len, (REQUEST_CODES, ROW_CODES, DATA_CODES, JOB_CODES, WORKER_CODES)))


def test_the_published_table_is_current() -> None:
    table = StringIO()
    call_command("error_codes", stdout=table)
    assert (ROOT / "infra" / "docs" / "errors.md").read_text() == table.getvalue(), "run: manage.py error_codes"
