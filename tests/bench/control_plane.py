"""A control plane of a benchmark's own, in this process: fresh services, an empty database, a folder for the rest."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from infra.dev import services

ROOT = Path(__file__).resolve().parents[2]


def run_apart(module: str, *arguments: str) -> Any:
    """Run a benchmark's ``main`` in a process of its own; the JSON of the last line that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def control_plane() -> Iterator[Path]:
    """Its folder. Once in a process, since Django is set up once; only then may models be imported."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.dict(os.environ))
        for name in ("REDIS_URL", *services.DATABASE_ROLES):
            os.environ.pop(name, None)  # whoever runs this may work with services that are not for this
        running = stack.enter_context(services.start(home))
        os.environ |= running.environment() | running.create_database("bench")
        os.environ |= {"DJANGO_SETTINGS_MODULE": "config.settings.test", "LOG_LEVEL": "WARNING"}
        os.environ["STORAGE_ROOT"] = str(home / "storage")
        sys.path[:0] = [str(ROOT / "platform")]
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        yield home
