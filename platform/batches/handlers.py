"""The kinds of leases that batches consist of."""

import hmac
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import orjson
import structlog
from django.conf import settings

from batches.assembly import assemble_batch, clear_segments
from batches.closing import (
    ASSEMBLY_KIND,
    CLEARING_KIND,
    VALIDATION_KIND,
    close_after_commit,
    fail_rows,
    fail_unrunnable,
)
from batches.models import Row, Shard
from batches.selectors import get_controlled_batch
from batches.validation import SHARD_KIND, TUNED_SHARD_KIND, validate_batch
from catalog.models import FineTunedModel
from catalog.publishing import adapter_ref
from common.errors import HoneError
from common.storage import open_blob
from files.lines import parse_line
from fleet.handlers import ControlHandler, LeaseHandler
from fleet.models import Lease
from inference_workers.protocol import ShardWork
from tenants.scope import tenant_scope

logger = structlog.get_logger(__name__)


class ValidationHandler(ControlHandler):
    """Reads and shards an input file."""

    kind = VALIDATION_KIND

    def run(self, lease: Lease) -> None:
        """Validate."""
        validate_batch(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The batch fails: better a clear end than validating for ever."""
        fail_unrunnable(lease=lease, code=code, message=message)

    def stopped(self, lease: Lease) -> None:
        """Nothing stands in the way of the batch's end."""
        close_after_commit(batch=get_controlled_batch(lease=lease))


class AssemblyHandler(ControlHandler):
    """Writes the output files."""

    kind = ASSEMBLY_KIND

    def run(self, lease: Lease) -> None:
        """Assemble."""
        assemble_batch(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The results stay in their segments; ``manage.py reassemble_batch`` writes the files later."""
        fail_unrunnable(lease=lease, code=code, message=message)


class ClearingHandler(ControlHandler):
    """Deletes what the output files were made of."""

    kind = CLEARING_KIND

    def run(self, lease: Lease) -> None:
        """Delete."""
        clear_segments(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The customer has the files; what is left of their parts is the operator's concern."""
        logger.error("segments not deleted", lease=lease.wire_id, code=code, error=message)


class ShardHandler(LeaseHandler):
    """Rows that a node answers."""

    kind = SHARD_KIND

    def describe(self, lease: Lease) -> dict[str, Any]:
        """The fields of :class:`ShardWork`."""
        shard = Shard.objects.select_related("batch", "adapter").get(lease_id=lease.id)
        return asdict(
            ShardWork(
                batch_id=shard.batch.wire_id,
                endpoint=shard.batch.endpoint,
                rows=Row.objects.filter(shard_id=shard.id, state=Row.State.PENDING).count(),
                next_segment=shard.next_segment,
                row_timeout_seconds=settings.BATCH_ROW_TIMEOUT_SECONDS,
                adapter=adapter_ref(shard.adapter) if shard.adapter else None,
            )
        )

    def adapter(self, lease: Lease) -> FineTunedModel | None:
        """What the rows ask for."""
        model: FineTunedModel | None = Shard.objects.select_related("adapter").get(lease_id=lease.id).adapter
        return model

    def completed(self, lease: Lease) -> None:
        """Only when every row has its result."""
        missing = Row.objects.filter(shard__lease_id=lease.id, state=Row.State.PENDING).count()
        if missing:
            raise HoneError("rows_missing", f"{missing} rows have no result yet")

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The rows that are left fail, their neighbours keep their results."""
        fail_rows(
            shard=Shard.objects.select_for_update().get(lease_id=lease.id),
            code="worker_failure",
            message=f"The request could not be run ({code}: {message})",
        )

    def stopped(self, lease: Lease) -> None:
        """If this was the last holder, the batch can end."""
        close_after_commit(batch=Shard.objects.select_related("batch").get(lease_id=lease.id).batch)


class TunedShardHandler(ShardHandler):
    """The same on a fine-tuned model."""

    kind = TUNED_SHARD_KIND


def shard_input(*, lease: Lease) -> Iterator[bytes]:
    """NDJSON of the rows of a lease that have no result yet (:class:`inference_workers.protocol.WorkRow`).

    What can go wrong goes wrong at once, not while the answer streams.
    """
    with tenant_scope(lease.organization_id):
        shard = Shard.objects.select_related("batch__input_file").get(lease_id=lease.id)
        rows = Row.objects.filter(shard_id=shard.id, state=Row.State.PENDING).order_by("position")
        places = list(rows.values_list("line", "offset", "length"))
    # Separate prefix caches per tenant: timing must not tell one customer what another has sent.
    salt = hmac.digest(settings.KEY_PEPPER, lease.organization_id.bytes, sha256).hex()
    key = shard.batch.input_file.storage_key
    # An alias is resolved here, so that the node and the engine know models by their own names alone.
    members = {"model": shard.model, "cache_salt": salt}
    with open_blob(key):
        return _read_rows(key, places, members)


def _read_rows(key: str, places: list[tuple[int, int, int]], members: dict[str, str]) -> Iterator[bytes]:
    with open_blob(key) as file:
        for line, offset, length in places:
            file.seek(offset)
            body = parse_line(file.read(length))["body"]
            yield orjson.dumps({"line": line, "body": body | members}, option=orjson.OPT_APPEND_NEWLINE)
