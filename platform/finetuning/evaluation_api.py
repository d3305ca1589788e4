"""``/v1/fine_tuning/jobs/{id}/evaluation``: what tuning has brought."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from common.pagination import page_limit
from finetuning import evaluation_contracts as contracts
from finetuning.evaluation_contracts import EXAMPLE_PREFIX, MAX_EXAMPLES
from finetuning.figures import CONFIDENCE
from finetuning.models import EvaluationReport
from finetuning.reports import Example, get_evaluation, list_examples
from finetuning.selectors import get_job, number_after, numbered_id
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope

_FIGURES = ("skipped_rows", "headline", "metrics", "classes", "confusion", "fields", "slices")


class EvaluationView(TenantAPIView):
    """The evaluation of a job's model."""

    operations: ClassVar = {"GET": "fine_tuning.evaluation"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_EVALUATION}

    def get(self, request: Request, job_id: str) -> Response:
        """Base beside tuned."""
        with tenant_scope(self.principal.organization_id):
            job = get_job(project=self.project, wire_id=job_id)
            return Response(render_evaluation(get_evaluation(job=job)))


class ExampleListView(TenantAPIView):
    """Each held-out row with both answers."""

    operations: ClassVar = {"GET": "fine_tuning.evaluation_examples"}
    contracts: ClassVar = {"GET": contracts.LIST_EXAMPLES}

    def get(self, request: Request, job_id: str) -> Response:
        """One page, in the order of the file."""
        query = request.query_params.dict()
        limit = page_limit(query, max_limit=MAX_EXAMPLES, default_limit=100)
        with tenant_scope(self.principal.organization_id):
            job = get_job(project=self.project, wire_id=job_id)
            report = get_evaluation(job=job)
        after = number_after(EXAMPLE_PREFIX, job, query.get("after"))
        page = list_examples(report=report, after=after, limit=limit)
        return Response(page.render(lambda example: _render_example(report, example)))


def render_evaluation(report: EvaluationReport) -> dict[str, Any]:
    """The wire object; figures are null until there are any."""
    job = report.job
    summary = report.summary or {}
    return {
        "object": "fine_tuning.evaluation",
        "fine_tuning_job_id": job.wire_id,
        "status": report.shown_status,
        "error": report.error,
        "created_at": int(report.created_at.timestamp()),
        "finished_at": int(report.finished_at.timestamp()) if report.finished_at else None,
        "base_model": job.base.name,
        "fine_tuned_model": job.fine_tuned_model or None,
        "rows": report.rows,
        "confidence": CONFIDENCE,
        **{name: summary.get(name) for name in _FIGURES},
        "samples": report.samples,
        "gate": _gate(report),
        "usage": {"input_tokens": report.input_tokens, "output_tokens": report.output_tokens, "cost_nanos": 0},
    }


def _gate(report: EvaluationReport) -> dict[str, Any] | None:
    """None where no alias is to move."""
    if not report.job.alias:
        return None
    found = report.gate or {"passed": None, "promoted": None, "reasons": [], "checks": []}
    return {"alias": report.job.alias, "promote_if": report.job.promote_if, **found}


def _render_example(report: EvaluationReport, example: Example) -> dict[str, Any]:
    return {
        "id": numbered_id(EXAMPLE_PREFIX, report.job_id, example.offset),
        "object": "fine_tuning.evaluation.example",
        **example.content,
    }
