"""How long a large input file takes to become shards, and how much memory: ``python -m tests.bench.validation``.

The validating process is one of its own, as a control worker is, so its peak memory is the validation's.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tests.bench.control_plane import ROOT, control_plane

ROWS = 50_000
BYTES = 150_000_000
BAD_ROWS = 1_000


def measure() -> dict[str, Any]:
    """50,000 lines, 150 MB, 1,000 mixed bad lines, on services of its own; prints a table row."""
    with control_plane() as home:
        from tests.support.cast import make_member
        from tests.support.model import add_model

        add_model(home / "model", context_length=8_192)
        found = submit_and_validate(make_member("Alice"), rows=ROWS, size=BYTES, bad=BAD_ROWS)
    print(
        f"| validation | {found['rows']:,} rows, {found['bytes'] / 1e6:.0f} MB, {found['named']:,} bad lines named | "
        f"{found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s CPU) | peak {found['peak_mib']:.0f} MiB |"
    )
    del found["lines_named"]
    return found


def submit_and_validate(member: Any, *, rows: int, size: int, bad: int) -> dict[str, Any]:
    """Submit such a file with ``on_invalid=skip`` and validate it in a process of its own; what that took and found."""
    from common.storage import IncomingBlob
    from files.models import StoredFile
    from files.services import NewFile, create_file
    from tests.support.rows import create, retrieve

    with IncomingBlob() as blob:
        for text in input_lines(rows=rows, size=size, bad=bad):
            blob.write(text)
        new = NewFile(filename="rows.jsonl", purpose=StoredFile.Purpose.BATCH)
        file = create_file(project=member.project, blob=blob, new=new, actor="bench", created_by=None)
        written = blob.size
    batch = create(member, file.wire_id, on_invalid="skip").json()
    found: dict[str, Any] = validate_in_a_process()
    validated = retrieve(member, batch)
    return found | {
        "rows": validated["request_counts"]["total"],
        "bytes": written,
        "status": validated["status"],
        "named": len(validated["errors"]["data"]),
        "lines_named": [error["line"] for error in validated["errors"]["data"]],
    }


def input_lines(*, rows: int, size: int, bad: int) -> Iterator[bytes]:
    """Lines of ``size / rows`` bytes of which ``bad`` are bad in turn in every way, spread over the file."""
    from tests.support.rows import line

    filler = "The customer writes that the parcel has not arrived. " * (size // rows // 50 + 1)
    for number in range(1, rows + 1):
        value = line(number)
        value["body"]["messages"][0]["content"] = ""
        room = size // rows - len(orjson.dumps(value)) - 1
        value["body"]["messages"][0]["content"] = filler[:room]
        if number % (rows // bad) == 0:
            yield spoil(value, number // (rows // bad)) + b"\n"
        else:
            yield orjson.dumps(value) + b"\n"


def spoil(value: dict[str, Any], kind: int) -> bytes:
    """The line with a mistake."""
    match kind % 6:
        case 0:
            return orjson.dumps(value)[:-2]
        case 1:
            value["custom_id"] = "row-1"
        case 2:
            value["method"] = "GET"
        case 3:
            value["body"]["model"] = "unknown"
        case 4:
            value["body"]["stream"] = True
        case _:
            value["body"]["max_tokens"] = 1_000_000
    return orjson.dumps(value)


def validate_in_a_process() -> dict[str, Any]:
    """Do the waiting validation in a new process; its seconds, CPU seconds and peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.validation", "--validate"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _validate() -> None:
    import django

    django.setup()
    from fleet.tasks import run_control_work

    started, cpu = time.monotonic(), time.process_time()
    run_control_work()
    found = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu, "peak_mib": _peak_mib()}
    print(json.dumps(found))


def _peak_mib() -> float:
    """Peak resident memory of this program; getrusage's also counts the parent's before the exec."""
    (line,) = [text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validate", action="store_true", help="do the waiting validation; for the child process")
    if parser.parse_args().validate:
        _validate()
    else:
        measure()
