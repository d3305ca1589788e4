"""On a developer's machine: what ``make run`` has started is found through ``.hone/services.env``."""

import os
from pathlib import Path

import environ

HOME = Path(os.environ.get("HONE_HOME") or Path(__file__).resolve().parents[3] / ".hone").resolve()
# Variables that are set already win, so DATABASE_URL and REDIS_URL replace the embedded services.
environ.Env.read_env(HOME / "services.env")
os.environ.setdefault("STORAGE_ROOT", str(HOME / "storage"))
os.environ.setdefault("LOG_JSON", "false")
os.environ.setdefault("HONE_LORA_MAX_RANK", "16")  # what the development node's engine makes room for
os.environ.setdefault("EMAIL_URL", "consolemail://")  # into the log of the process that sends

from config.settings.base import *  # noqa: E402, F403  # needs the environment completed above
