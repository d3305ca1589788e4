"""Hone on this machine.

``run`` starts everything and ``services`` only PostgreSQL and Valkey, both until Ctrl-C; ``stop`` ends what a killed
one has left behind.
"""

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from infra.dev import services
from infra.dev.instance import DEFAULT_NODE_CONFIG
from infra.dev.processes import ServicesError, stop_signals
from infra.dev.run import run, stop


def main() -> int:
    """Run one command in the foreground; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.dev", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "services", "stop"])
    parser.add_argument("--home", type=Path, default=services.default_home(), help="data, logs, secrets (HONE_HOME)")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")), help="of web (PORT)")
    parser.add_argument(
        "--node-config", type=Path, action="append", help="of a node agent; repeat it for several (HONE_NODE_CONFIG)"
    )
    options = parser.parse_args()
    node_configs = options.node_config or [Path(os.environ.get("HONE_NODE_CONFIG") or DEFAULT_NODE_CONFIG)]
    try:
        if options.command == "run":
            run(home=options.home, port=options.port, node_configs=[path.resolve() for path in node_configs])
        elif options.command == "services":
            _serve(options.home)
        else:
            stop(options.home)
    except ServicesError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(home: Path) -> None:
    signals = stop_signals()
    for number in signals:
        signal.signal(number, signal.default_int_handler)
    with services.start(home) as running:
        print(f"PostgreSQL and Valkey run; {running.home / services.ENVIRONMENT_FILE} says how to connect.", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                signal.pause()
        for number in signals:  # an impatient one shall leave no server behind
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
