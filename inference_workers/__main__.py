"""Command line of a node: ``python -m inference_workers prepare | agent --config FILE``.

And of whoever owns a fine-tuned model: ``... merge --adapter FOLDER --base FOLDER --out FOLDER``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from .agent import run_agent
from .config import ConfigError, load_config
from .logs import configure_logs
from .prepare import prepare
from .sources import SourceError

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: starting again without a change would not help."""


def main() -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m inference_workers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    preparation = commands.add_parser("prepare", help="bring the configured models onto this machine")
    preparation.add_argument("--config", type=Path, required=True)
    preparation.add_argument("--model", help="only the model of that name")
    agent = commands.add_parser("agent", help="serve the configured models and work for the control plane")
    agent.add_argument("--config", type=Path, required=True)
    merging = commands.add_parser("merge", help="add a fine-tuned model that was downloaded to the weights of its base")
    merging.add_argument("--adapter", type=Path, required=True, help="the unpacked archive")
    merging.add_argument("--base", type=Path, required=True, help="the base model as prepare has made it")
    merging.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    merging.add_argument("--public-key", type=Path, help="PEM file: verify the manifest's signature, too")
    arguments = parser.parse_args()
    configure_logs()
    try:
        if arguments.command == "merge":
            from .merge import merge  # noqa: PLC0415  # torch, which nothing else here needs

            merge(arguments.adapter, arguments.base, arguments.out, public_key=arguments.public_key)
            return 0
        config = load_config(arguments.config)
        if arguments.command == "agent":
            return asyncio.run(run_agent(config))
        if arguments.model not in (None, *(model.name for model in config.models)):
            raise ConfigError(f"{arguments.config} has no model named {arguments.model!r}")
        prepare(config, arguments.model)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except SourceError as error:
        sys.stderr.write(f"{arguments.command} failed: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
