"""``/v1/batches``."""

from typing import Any, ClassVar

import orjson
from django.db.models import QuerySet
from django.http import QueryDict
from rest_framework.request import Request
from rest_framework.response import Response

from batches import contracts
from batches.closing import cancel_batch
from batches.contracts import MAX_RESULTS
from batches.live_results import list_results
from batches.models import Batch, Row
from batches.progress import progress_of
from batches.quotes import quote_batch
from batches.results import line_of
from batches.selectors import filter_batches, get_batch, project_batches
from batches.services import NewBatch, create_batch, pause_batch, resume_batch, retry_batch
from batches.wire import CreateBatchSerializer, QuoteSerializer, render_batch, render_quote, render_result
from common import query as read
from common.errors import HoneError
from common.fields import CapSerializer
from common.http import NoParametersSerializer, parsed
from common.pagination import page_limit, page_request, paginate
from common.storage import IncomingBlob
from files.models import StoredFile
from files.services import NewFile, create_file
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


class BatchAPIView(TenantAPIView):
    """What the views of one batch share."""

    def answer(self, batch: Batch) -> Response:
        """The batch object."""
        with tenant_scope(batch.organization_id):
            return Response(render_batch(batch, progress_of(batch=batch)))


class BatchListView(BatchAPIView):
    """Create a batch; list the project's batches."""

    operations: ClassVar = {"POST": "batches.create", "GET": "batches.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_BATCH, "GET": contracts.LIST_BATCHES}

    def post(self, request: Request) -> Response:
        """Accept and queue."""
        data = parsed(CreateBatchSerializer, request)
        expiry = data.get("output_expires_after")
        new = NewBatch(
            input_file_id=data.get("input_file_id") or self._store_requests(data["requests"], data["endpoint"]),
            endpoint=data["endpoint"],
            completion_window=data["completion_window"],
            on_invalid=Batch.OnInvalid(data["on_invalid"]),
            metadata=data.get("metadata") or {},
            output_lifetime_seconds=expiry["seconds"] if expiry else None,
            max_cost_nanos=data.get("max_cost"),
        )
        asked = self.create_request(request.data)
        return self.answer(create_batch(project=self.project, key=self.principal.key, new=new, request=asked))

    def get(self, request: Request) -> Response:
        """One page, newest first; filters: ``status``, ``model``, ``metadata[key]``."""
        query = request.query_params.dict()
        wanted = page_request(query, prefix=Batch.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(_filtered(project_batches(project=self.project), request.query_params), wanted)
            return Response(page.render(lambda batch: render_batch(batch, progress_of(batch=batch))))

    def _store_requests(self, requests: list[dict[str, Any]], endpoint: str) -> str:
        """Requests that came with the call, as the file that they would otherwise be; its id."""
        with IncomingBlob() as blob:
            for number, entry in enumerate(requests, start=1):
                defaults = {"custom_id": f"request-{number}", "method": "POST", "url": endpoint}
                blob.write(orjson.dumps(defaults | entry, option=orjson.OPT_APPEND_NEWLINE))
            file = create_file(
                project=self.project,
                blob=blob,
                new=NewFile(filename="requests.jsonl", purpose=StoredFile.Purpose.BATCH),
                actor=self.principal.actor,
                created_by=self.principal.key.id,
                request=self.create_request({}, digest=blob.sha256, part="requests"),
            )
        return file.wire_id


class BatchView(BatchAPIView):
    """One batch."""

    operations: ClassVar = {"GET": "batches.retrieve"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_BATCH}

    def get(self, request: Request, batch_id: str) -> Response:
        """The batch object."""
        with tenant_scope(self.principal.organization_id):
            return self.answer(get_batch(project=self.project, wire_id=batch_id))


class BatchCancelView(BatchAPIView):
    """Cancel a batch."""

    operations: ClassVar = {"POST": "batches.cancel"}
    contracts: ClassVar = {"POST": contracts.CANCEL_BATCH}

    def post(self, request: Request, batch_id: str) -> Response:
        """Cancel; what has finished is kept."""
        return self.answer(cancel_batch(project=self.project, wire_id=batch_id, actor=self.principal.actor))


class BatchPauseView(BatchAPIView):
    """Pause a batch."""

    operations: ClassVar = {"POST": "batches.pause"}
    contracts: ClassVar = {"POST": contracts.PAUSE_BATCH}

    def post(self, request: Request, batch_id: str) -> Response:
        """Let nothing of it run until it is resumed."""
        parsed(NoParametersSerializer, request)
        return self.answer(pause_batch(project=self.project, wire_id=batch_id, actor=self.principal.actor))


class BatchResumeView(BatchAPIView):
    """Resume a batch."""

    operations: ClassVar = {"POST": "batches.resume"}
    contracts: ClassVar = {"POST": contracts.RESUME_BATCH}

    def post(self, request: Request, batch_id: str) -> Response:
        """Let it run on, perhaps with a higher ``max_cost``."""
        cap = parsed(CapSerializer, request).get("max_cost")
        batch = resume_batch(
            project=self.project, wire_id=batch_id, actor=self.principal.actor, max_cost_nanos=cap
        )  # fmt: skip
        with tenant_scope(batch.organization_id):
            return self.answer(get_batch(project=self.project, wire_id=batch_id))  # it may have paused again


class BatchRetryView(BatchAPIView):
    """Retry a batch."""

    operations: ClassVar = {"POST": "batches.retry"}
    contracts: ClassVar = {"POST": contracts.RETRY_BATCH}

    def post(self, request: Request, batch_id: str) -> Response:
        """Run what did not succeed again, as a batch of its own."""
        cap = parsed(CapSerializer, request).get("max_cost")
        return self.answer(
            retry_batch(
                project=self.project,
                key=self.principal.key,
                wire_id=batch_id,
                request=self.create_request(request.data),
                max_cost_nanos=cap,
            )
        )


class BatchQuoteView(TenantAPIView):
    """What a batch would cost."""

    operations: ClassVar = {"POST": "batches.quote"}
    contracts: ClassVar = {"POST": contracts.QUOTE_BATCH}

    def post(self, request: Request) -> Response:
        """Read the input, promise nothing."""
        data = parsed(QuoteSerializer, request)
        return Response(render_quote(quote_batch(project=self.project, key=self.principal.key, **data)))


class BatchResultListView(TenantAPIView):
    """Rows of a batch, while it runs and afterwards."""

    operations: ClassVar = {"GET": "batches.results"}
    contracts: ClassVar = {"GET": contracts.LIST_RESULTS}

    def get(self, request: Request, batch_id: str) -> Response:
        """One page in the input's order; filter: ``status``."""
        query = request.query_params.dict()
        limit = page_limit(query, max_limit=MAX_RESULTS, default_limit=100)
        state = read.choice(request.query_params, "status", Row.State.values)
        with tenant_scope(self.principal.organization_id):
            batch = get_batch(project=self.project, wire_id=batch_id)
        after = line_of(batch.id, query["after"]) if query.get("after") else 0
        if after is None:
            raise HoneError("invalid_value", f"'after' is not an id of this list: {query['after']}", param="after")
        return Response(list_results(batch=batch, after=after, limit=limit, state=state).render(render_result))


def _filtered(batches: QuerySet[Batch], query: QueryDict) -> QuerySet[Batch]:
    status, model = read.choice(query, "status", Batch.Status.values), query.get("model", "")
    metadata = read.pairs(query, "metadata")
    if "\0" in model or metadata is None:
        return batches.none()
    return filter_batches(batches, status=status, model=model, metadata=metadata)
