"""``/v1/fine_tuning/jobs`` and ``/v1/fine_tuning/quote``."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import FileResponse, QueryDict, StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from catalog.archives import ModelArchive
from catalog.selectors import get_own_model
from catalog.tuned_api import archive_response
from common import query as read
from common.errors import HoneError
from common.fields import CapSerializer
from common.http import NoParametersSerializer, parsed
from common.pagination import PageRequest, page_request, paginate
from finetuning import contracts
from finetuning.closing import cancel_job
from finetuning.models import Checkpoint, FineTuningJob, JobEvent
from finetuning.progress import progress_of
from finetuning.quotes import QuoteRequest, quote_job
from finetuning.results import pack_logs
from finetuning.selectors import (
    filter_jobs,
    get_job,
    list_checkpoints,
    list_events,
    metrics_of,
    number_after,
    project_jobs,
)
from finetuning.services import NewJob, create_job, pause_job, resume_job
from finetuning.wire import (
    CreateJobSerializer,
    JobQuoteSerializer,
    asked_method,
    render_checkpoint,
    render_event,
    render_job,
    render_quote,
)
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


class JobAPIView(TenantAPIView):
    """What the views of one job share."""

    def answer(self, job: FineTuningJob) -> Response:
        """The job object, as it is now."""
        with tenant_scope(self.principal.organization_id):
            return Response(show_job(get_job(project=self.project, wire_id=job.wire_id)))


class JobListView(JobAPIView):
    """Create a job; list the project's jobs."""

    operations: ClassVar = {"POST": "fine_tuning.create", "GET": "fine_tuning.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_JOB, "GET": contracts.LIST_JOBS}

    def post(self, request: Request) -> Response:
        """Accept and queue."""
        data = parsed(CreateJobSerializer, request)
        method, hyperparameters = asked_method(data)
        new = NewJob(
            model=data["model"],
            training_file=data["training_file"],
            validation_file=data.get("validation_file"),
            method=method,
            hyperparameters=hyperparameters,
            suffix=data.get("suffix") or "",
            seed=data.get("seed"),
            metadata=data.get("metadata") or {},
            recipe=data.get("recipe") or "",
            column_mapping=data.get("column_mapping"),
            validation_fraction=data.get("validation_fraction") or 0,
            promote_if=data.get("promote_if"),
            alias=data.get("alias") or "",
            max_cost_nanos=data.get("max_cost"),
        )
        asked = self.create_request(request.data)
        return self.answer(create_job(project=self.project, key=self.principal.key, new=new, request=asked))

    def get(self, request: Request) -> Response:
        """One page, newest first; filters: ``status``, ``model``, ``metadata[key]``, ``metadata=null``."""
        wanted = page_request(request.query_params.dict(), prefix=FineTuningJob.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(_filtered(project_jobs(project=self.project), request.query_params), wanted)
            return Response(page.render(show_job))


class JobView(JobAPIView):
    """One job."""

    operations: ClassVar = {"GET": "fine_tuning.retrieve"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_JOB}

    def get(self, request: Request, job_id: str) -> Response:
        """The job object."""
        with tenant_scope(self.principal.organization_id):
            return Response(show_job(get_job(project=self.project, wire_id=job_id)))


class JobCancelView(JobAPIView):
    """Cancel a job."""

    operations: ClassVar = {"POST": "fine_tuning.cancel"}
    contracts: ClassVar = {"POST": contracts.CANCEL_JOB}

    def post(self, request: Request, job_id: str) -> Response:
        """End it now."""
        return self.answer(cancel_job(project=self.project, wire_id=job_id, actor=self.principal.actor))


class JobPauseView(JobAPIView):
    """Pause a job."""

    operations: ClassVar = {"POST": "fine_tuning.pause"}
    contracts: ClassVar = {"POST": contracts.PAUSE_JOB}

    def post(self, request: Request, job_id: str) -> Response:
        """Train no more until it is resumed."""
        parsed(NoParametersSerializer, request)
        return self.answer(pause_job(project=self.project, wire_id=job_id, actor=self.principal.actor))


class JobResumeView(JobAPIView):
    """Resume a job."""

    operations: ClassVar = {"POST": "fine_tuning.resume"}
    contracts: ClassVar = {"POST": contracts.RESUME_JOB}

    def post(self, request: Request, job_id: str) -> Response:
        """Train on, perhaps with a higher ``max_cost``."""
        cap = parsed(CapSerializer, request).get("max_cost")
        job = resume_job(project=self.project, wire_id=job_id, actor=self.principal.actor, max_cost_nanos=cap)
        return self.answer(job)


class JobQuoteView(TenantAPIView):
    """What a job would cost."""

    operations: ClassVar = {"POST": "fine_tuning.quote"}
    contracts: ClassVar = {"POST": contracts.QUOTE_JOB}

    def post(self, request: Request) -> Response:
        """Count the data, promise nothing."""
        data = parsed(JobQuoteSerializer, request)
        method, hyperparameters = asked_method(data)
        wanted = QuoteRequest(
            model=data["model"],
            training_file=data["training_file"],
            validation_file=data.get("validation_file"),
            method=method,
            hyperparameters=hyperparameters,
            seed=data.get("seed") or 0,
            recipe=data.get("recipe") or "",
            column_mapping=data.get("column_mapping"),
            validation_fraction=data.get("validation_fraction") or 0,
        )
        return Response(render_quote(quote_job(project=self.project, key=self.principal.key, request=wanted)))


class JobEventListView(TenantAPIView):
    """What has happened to a job."""

    operations: ClassVar = {"GET": "fine_tuning.list_events"}
    contracts: ClassVar = {"GET": contracts.LIST_EVENTS}

    def get(self, request: Request, job_id: str) -> Response:
        """One page, newest first."""
        query, page = request.query_params, _page(request.query_params)
        with tenant_scope(self.principal.organization_id):
            job = get_job(project=self.project, wire_id=job_id)
            events = list_events(job=job, page=page, after=number_after(JobEvent.ID_PREFIX, job, query.get("after")))
            points = metrics_of(job_id=job.id, steps=[event.step for event in events.items if event.step is not None])
        return Response(events.render(lambda event: render_event(event, points)))


class JobCheckpointListView(TenantAPIView):
    """Checkpoints of a job that can be called."""

    operations: ClassVar = {"GET": "fine_tuning.list_checkpoints"}
    contracts: ClassVar = {"GET": contracts.LIST_CHECKPOINTS}

    def get(self, request: Request, job_id: str) -> Response:
        """One page, the latest first."""
        query, page = request.query_params, _page(request.query_params)
        with tenant_scope(self.principal.organization_id):
            job = get_job(project=self.project, wire_id=job_id)
            checkpoints = list_checkpoints(
                job=job, page=page, after=number_after(Checkpoint.ID_PREFIX, job, query.get("after"))
            )
        return Response(checkpoints.render(render_checkpoint))


class JobLogsView(TenantAPIView):
    """The TensorBoard logs of a job."""

    operations: ClassVar = {"GET": "fine_tuning.logs"}
    contracts: ClassVar = {"GET": contracts.DOWNLOAD_LOGS}

    def get(self, request: Request, job_id: str) -> FileResponse:
        """A zip file."""
        logs = pack_logs(project=self.project, wire_id=job_id)
        return FileResponse(
            logs, as_attachment=True, filename=f"{job_id}-logs.zip", content_type="application/zip",
            headers={"X-Content-Type-Options": "nosniff"},
        )  # fmt: skip


class JobDownloadView(TenantAPIView):
    """The weights that a job has made."""

    operations: ClassVar = {"GET": "fine_tuning.download"}
    contracts: ClassVar = {"GET": contracts.DOWNLOAD_JOB}

    def get(self, request: Request, job_id: str) -> StreamingHttpResponse:
        """A tar archive, as of the model itself."""
        with tenant_scope(self.principal.organization_id):
            job = get_job(project=self.project, wire_id=job_id)
            if job.status != FineTuningJob.Status.SUCCEEDED:
                raise HoneError("conflict", f"The job is {job.status}: it has no model to download", param="id")
            model = get_own_model(project=self.project, name=job.fine_tuned_model)
        return archive_response(ModelArchive(model))


def show_job(job: FineTuningJob) -> dict[str, Any]:
    """The wire object of a job. Call inside the scope."""
    return render_job(job, progress_of(job=job))


def _filtered(jobs: QuerySet[FineTuningJob], query: QueryDict) -> QuerySet[FineTuningJob]:
    status, model = read.choice(query, "status", FineTuningJob.Status.values), query.get("model", "")
    metadata = read.pairs(query, "metadata")
    if "\0" in model or metadata is None:
        return jobs.none()
    is_without = query.get("metadata") == "null"
    return filter_jobs(jobs, status=status, model=model, metadata=None if is_without else metadata)


def _page(query: QueryDict) -> PageRequest:
    return page_request({name: str(text) for name, text in query.items() if name != "after"}, prefix="")
