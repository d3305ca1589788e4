"""The whole product on one machine, in the foreground: services, migrations, models, and the processes."""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from infra.dev import services
from infra.dev.processes import ServicesError, port_is_free, stop_signals, tethered
from infra.dev.programs import ROOT, Stack, worker_python
from infra.dev.supervisor import MARKER, Supervisor, end_leftovers

RECORD_FILE = "run.json"
_WATCH_SECONDS = 0.5


def run(*, home: Path, port: int, node_configs: Sequence[Path]) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP; raises ServicesError with a message for a person when it cannot start."""
    home = home.resolve()
    record = home / RECORD_FILE
    signals = stop_signals()
    for number in signals:  # until the supervisor handles them, each ends the preparations as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    worker_python()
    with services.claim(home) as lock:
        end_leftovers(record)  # of a killed run: they may still have the port
        if not port_is_free(port):
            raise ServicesError(f"Port {port} of 127.0.0.1 is in use. Choose another one: PORT.")
        _say(f"starting PostgreSQL and Valkey in {home}")
        running = services.start(home, lock=lock)
        try:
            stack = Stack(home=home, port=port, node_configs=node_configs, services=running.environment())
            for title, argv, environment in stack.preparations():
                _say(title)
                _run_step(title, argv, environment | {MARKER: str(record)})
            asyncio.run(_supervise(stack, record, running))
        finally:
            for number in signals:  # an impatient one shall leave no server behind
                signal.signal(number, signal.SIG_IGN)
            _say("stopping PostgreSQL and Valkey")
            end_leftovers(record)
            running.stop()


def stop(home: Path) -> None:
    """End the processes and the services that a killed run has left; raises HomeInUseError while one is running."""
    home = home.resolve()
    with services.claim(home):
        end_leftovers(home / RECORD_FILE)
        if (home / services.ENVIRONMENT_FILE).exists():
            services.attach(home).stop()


async def _supervise(stack: Stack, record: Path, running: services.Services) -> None:
    supervisor = Supervisor(stack.programs(), record=record)
    watch = asyncio.create_task(_keep_services(running, supervisor.say))
    try:
        await supervisor.run(on_ready=lambda: print(f"Hone is ready at {stack.base_url}", flush=True))
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _keep_services(running: services.Services, say: Callable[[str], None]) -> None:
    """Start PostgreSQL and Valkey again when they have died, until cancelled."""
    said = ""
    while True:
        try:
            for name in await asyncio.to_thread(running.revive):
                say(f"{name} had ended and was started again")
            said = ""
        except ServicesError as error:
            if str(error) != said:
                said = str(error)
                say(said)
        await asyncio.sleep(_WATCH_SECONDS)


def _run_step(title: str, argv: list[str], environment: dict[str, str]) -> None:
    status = subprocess.run(tethered(argv), env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise ServicesError(f"{title}: failed with status {status}; what it has said stands above.")


def _say(text: str) -> None:
    print(f"hone    | {text}", flush=True)
