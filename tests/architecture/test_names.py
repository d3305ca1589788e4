"""Names: ``platform/`` is a source root and never a package, and no folder hides somebody else's package."""

import platform
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from django.apps import apps

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "platform", ROOT / "tenants", ROOT / "inference_workers", ROOT / "infra", ROOT / "tests"]
APPS = {folder.name for folder in (ROOT / "platform").iterdir() if folder.is_dir() and folder.name != "__pycache__"}
PACKAGES = APPS | {"tenants", "inference_workers", "infra"}

STANDARD_MODULES = {"__init__", "apps", "models", "services", "selectors", "tasks", "api", "urls", "contracts"}
EXTRA_MODULES = {
    # Parts of `services`, `selectors` or `api` that passed the size at which a file is split by noun.
    "batches": {
        "assembly",
        "closing",
        "funding",
        "handlers",
        "inspection",
        "live_results",
        "prefixes",
        "progress",
        "quotes",
        "requests",
        "results",
        "retention",
        "rows",
        "scan",
        "validation",
        "wire",
        "worker_api",
    },
    "billing": {"costs", "watchers"},
    "catalog": {
        "adapters",
        "aliases",
        "archives",
        "dependents",
        "manifests",
        "publishing",
        "restrictions",
        "sharing",
        "tokens",
        "tuned_api",
        "tuned_contracts",
    },
    "files": {
        "duplicates",
        "inspection",
        "lines",
        "multipart",
        "quota",
        "reports",
        "reports_api",
        "sensitive",
        "similarity",
        "statistics",
        "uploads",
        "uploads_api",
    },
    "finetuning": {
        "artifacts",
        "canaries",
        "closing",
        "continuation",
        "data_api",
        "data_contracts",
        "datasets",
        "evaluation",
        "evaluation_api",
        "evaluation_contracts",
        "events",
        "examples",
        "figures",
        "formats",
        "funding",
        "gates",
        "handlers",
        "hyperparameters",
        "inspection",
        "measures",
        "metrics",
        "predictions",
        "preparation",
        "preview",
        "problems",
        "progress",
        "publication",
        "quotes",
        "recipes",
        "rendering",
        "reports",
        "results",
        "samples",
        "scoring",
        "shaping",
        "stages",
        "structure",
        "survey",
        "templates",
        "text_scores",
        "training",
        "wire",
        "worker_api",
    },
    "fleet": {
        "beat",
        "claims",
        "doorbell",
        "file_reports",
        "handlers",
        "heartbeat",
        "reports",
    },
    # The edge and the two walls, which every other app imports by these names; what a process knows of keys.
    "tenants": {
        "access",
        "audit",
        "idempotency",
        "invites",
        "issuing",
        "key_cache",
        "key_link",
        "keys",
        "known_keys",
        "members",
        "networks",
        "openapi",
        "permissions",
        "person_api",
        "project_contracts",
        "projects",
        "projects_api",
        "rls",
        "scope",
        "service_accounts",
        "wire",
    },
    "accounts": {"adapters", "emails", "sessions"},
    "metering": {"answers", "buckets", "writer"},
    "notifications": {"delivery", "signing", "transport"},
    "operations": {"export", "holdings"},
}
"""Modules that an app has beyond the names all apps share."""
DATA_FOLDERS = {"finetuning": {"recipes"}}
"""Folders without any module."""


def test_platform_is_the_standard_librarys() -> None:
    assert platform.__file__ == f"{sysconfig.get_path('stdlib')}/platform.py"


def test_platform_is_the_standard_librarys_in_the_checkout_without_an_installation() -> None:
    script = "import platform, uuid; print(platform.__file__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == f"{sysconfig.get_path('stdlib')}/platform.py"


def test_no_folder_called_platform_is_a_package() -> None:
    folders = [folder for source in (ROOT, ROOT / "tests") for folder in source.glob("platform")]
    assert len(folders) == 2
    assert [path for folder in folders for path in folder.glob("*.py")] == []


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_package_is_not_called_like_an_installed_one(name: str) -> None:
    assert name not in sys.stdlib_module_names
    assert set(packages_distributions().get(name, [])) <= {"hone"}


@pytest.mark.parametrize("lock", ["control", "dev", "worker-cpu", "worker-gpu"])
def test_a_package_is_not_called_like_a_locked_requirement(lock: str) -> None:
    text = (ROOT / "infra" / "requirements" / f"{lock}.txt").read_text()
    locked = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])? *==", text, re.MULTILINE)
    assert len(locked) > 10
    assert {re.sub(r"[-.]+", "_", name.lower()) for name in locked} & PACKAGES == set()


def test_every_app_is_installed_and_no_room_is_empty() -> None:
    ours = {config.name for config in apps.get_app_configs() if "." not in config.name} - {
        "rest_framework",
        "drf_spectacular",
    }
    assert ours == (APPS - {"config"}) | {"tenants"}


@pytest.mark.parametrize("app", sorted(EXTRA_MODULES))
def test_every_app_uses_the_same_file_names(app: str) -> None:
    folder = Path(apps.get_app_config(app).path)
    assert {path.stem for path in folder.glob("*.py")} - STANDARD_MODULES == EXTRA_MODULES[app]
    assert {path.name for path in folder.iterdir() if path.is_dir()} - DATA_FOLDERS.get(app, set()) <= {
        "migrations",
        "management",
        "__pycache__",
    }


def test_no_app_is_missing_from_the_table_of_file_names() -> None:
    assert EXTRA_MODULES.keys() == (APPS - {"config", "common"}) | {"tenants"}


def test_nothing_is_called_after_what_it_is_instead_of_what_it_does() -> None:
    vague = {"utils", "helpers", "manager", "misc", "signals"}
    assert [path for source in SOURCES for path in source.rglob("*.py") if path.stem in vague] == []
