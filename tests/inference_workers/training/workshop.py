"""Runs trainers in the worker's environment; loads its libraries once and forks for each run.

A line of JSON in, a line of JSON out: ``{"run": FOLDER, "environment": {}}`` starts a trainer and answers its pid,
``{"wait": PID}`` its exit status (negative: the signal), ``{"check": NAME, "arguments": {}}`` what a function of
:mod:`.checks` returns.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from inference_workers.training import __main__ as trainer
from inference_workers.training import run
from tests.inference_workers.training import checks


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            answer: dict[str, Any] = {"pid": _start(Path(request["run"]), request["environment"])}
        elif "wait" in request:
            answer = {"status": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        else:
            answer = _check(request["check"], request["arguments"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _start(folder: Path, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ |= environment
            log = os.open(folder / "trainer.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            torch.set_num_threads(1)
            assert run  # loaded before forking
            status = trainer.main(folder)
        finally:
            os._exit(status)
    return pid


def _check(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(2, 1)
            torch.set_num_threads(1)
            os.write(writing, json.dumps(getattr(checks, name)(**arguments)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return {"result": json.loads(text)} if text else {"error": "the check has failed; see above"}


if __name__ == "__main__":
    main()
