"""A node whose engine is the stand-in, for instances that need no real one."""

import json
import sys
from pathlib import Path

from tests.support.cast import MODEL
from tests.support.model import make_source

STAND_IN = Path(__file__).with_name("stand_in_engine.py")
WORKER_ENVIRONMENT = {"HONE_WORKER_PYTHON": sys.executable}
"""The agents need nothing that this environment lacks, and start faster in it than beside vLLM and torch."""


def write_nodes(folder: Path, *names: str, row_milliseconds: int = 0, in_flight: int = 64) -> list[Path]:
    """Configurations of nodes that all serve the same model."""
    source = make_source(folder / "source")
    command = json.dumps([sys.executable, str(STAND_IN), "--latency-ms", str(row_milliseconds)])
    configs = [folder / f"{name}.toml" for name in names]
    for name, config in zip(names, configs, strict=True):
        config.write_text(
            f'[node]\nname = "{name}"\n[[models]]\nname = "{MODEL}"\nsource = "folder:{source}"\ndevice = "cpu"\n'
            f"max_in_flight = {in_flight}\ncommand = {command}\n"
        )
    return configs
