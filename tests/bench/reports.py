"""How long the report on a large training file takes, and how much memory: ``python -m tests.bench.reports``.

A tenth of a million rows with all other benchmarks; a whole million by itself.

The process that writes it is one of its own, as a control worker is, so its peak memory is the report's.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import orjson

from tests.bench.control_plane import control_plane, run_apart
from tests.bench.validation import validate_in_a_process

ROWS = 1_000_000
SUBJECTS = ("parcel", "invoice", "lamp", "ticket", "account", "voucher", "jacket", "phone", "table", "booking")
VERBS = ("arrived", "vanished", "broke", "changed", "returned", "expired", "tore", "failed", "wobbled", "moved")
PLACES = ("London", "Oslo", "Rome", "Lyon", "Graz", "Porto", "Turku", "Bern", "Cork", "Gdansk")


def measure(rows: int = ROWS) -> dict[str, Any]:
    """A file of so many short conversations, on services of its own; prints a table row."""
    found: dict[str, Any] = run_apart("tests.bench.reports", "--rows", str(rows))
    print(
        f"| file report | {found['rows']:,} rows, {found['bytes'] / 1e6:.0f} MB, {found['bad']:,} bad | "
        f"{found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s CPU) | peak {found['peak_mib']:.0f} MiB |"
    )
    return found


def main(rows: int) -> None:
    """In a process of its own, as Django is set up once in a process."""
    with control_plane() as home:
        from tests.support.cast import make_member
        from tests.support.model import add_chat_model

        add_chat_model(home / "model")
        found = upload_and_report(make_member("Alice"), rows=rows)
    print(json.dumps(found))


def upload_and_report(member: Any, *, rows: int) -> dict[str, Any]:
    """Upload such a file and have its report written in a process of its own; what that took and found."""
    from common.storage import IncomingBlob
    from files.models import StoredFile
    from files.services import NewFile, create_file

    with IncomingBlob() as blob:
        for line in conversations(rows):
            blob.write(line)
        new = NewFile(filename="rows.jsonl", purpose=StoredFile.Purpose.FINE_TUNE)
        file = create_file(project=member.project, blob=blob, new=new, actor="bench", created_by=None)
        size = blob.size
    found = validate_in_a_process()
    report = member.client.get(f"/v1/files/{file.wire_id}/report").json()
    return found | {
        "rows": report["rows"]["total"],
        "bad": report["rows"]["invalid"],
        "bytes": size,
        "status": report["status"],
        "exact": report["duplicates"]["exact"]["rows"],
        "near": report["duplicates"]["near"]["rows"],
        "sensitive": [entry["rows"] for entry in report["sensitive"]],
    }


def conversations(rows: int) -> Iterator[bytes]:
    """Of each thousand one is bad, one stands twice, ten hold an address, and some are alike by chance."""
    for number in range(rows):
        if number % 1_000 == 999:
            yield b'{"messages": []}\n'
            continue
        at = number - 1 if number % 1_000 == 500 else number
        subject, verb, place = SUBJECTS[at % 10], VERBS[at // 10 % 10], PLACES[at // 100 % 10]
        mail = f" Write to customer{at}@example.com." if at % 100 == 7 else ""
        question = f"Hello, my {subject} {at} {verb} on the way to {place}, order {at * 7_919 % 1_000_003}.{mail}"
        answer = f"Sorry about the {subject}! We look into case {at * 104_729 % 999_983} and write to you."
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield orjson.dumps({"messages": turns}, option=orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    main(parser.parse_args().rows)
