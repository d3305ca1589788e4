"""The evaluation of a trained model: base and tuned model answer held-out rows on a node, and the control plane judges.

Queued when the model is ready, it decides whether an alias moves. That it fails fails no job: the model stays, and the
job says why nothing is known of it. Evaluating is not charged for; what it took is noted.
"""

import hmac
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from structlog.contextvars import bound_contextvars

from catalog.aliases import promote_alias
from catalog.models import FineTunedModel
from catalog.publishing import adapter_ref
from common.errors import HoneError
from common.storage import IncomingBlob, discard_blobs, open_blob
from finetuning.artifacts import INPUTS, artifacts_of, references, require_files
from finetuning.events import WARN, tell
from finetuning.figures import Summary, as_json
from finetuning.gates import judge, parse_gate
from finetuning.models import Artifact, EvaluationReport, FineTuningJob
from finetuning.predictions import PredictionsError
from finetuning.recipes import get_recipe
from finetuning.selectors import get_leased_job
from finetuning.stages import CONCLUSION_KIND, EVALUATION_KIND, REPORT_KIND, lock_leased_job, queue_stage
from fleet.heartbeat import Heartbeat
from fleet.models import Lease
from fleet.services import complete_lease
from inference_workers.protocol import EvaluationWork
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR

BLOB_KIND = "evaluations"
"""Kind of the blobs with the examples of a report."""
ROWS = "evaluation.ndjson"
"""Name of the input with the held-out rows, and of the artefact with the results."""
QUESTIONS = 4
"""Requests of the engine for each row: an answer and a likelihood, of both models."""
HEADLINES = {"precision": "precision_macro", "recall": "recall_macro", "f1": "f1_macro", "rouge": "rouge_l"}
"""Metrics by the names that recipes have for them, where those differ."""


def go_on_after_trial(*, lease: Lease) -> None:
    """A node has tried a model, and it is ready. If it is a job's result it is evaluated, where rows are held out.

    Call inside the scope, with the lease locked.
    """
    jobs = FineTuningJob.objects.select_related("base", "project").select_for_update(of=("self",))
    job = jobs.filter(lease_id=lease.id).first()
    if job is None:
        return
    part: dict[str, int] | None = (job.dataset or {}).get("evaluation")
    if part is None:
        _move_alias(job, None, "there are no held-out rows to judge by")
        queue_stage(job=job, kind=CONCLUSION_KIND)
        return
    EvaluationReport.objects.create(organization_id=job.organization_id, job=job, rows=part["rows"])
    tell(job, f"The model waits to be evaluated on {part['rows']} held-out rows")
    queue_stage(
        job=job, kind=EVALUATION_KIND, model=job.base.name, estimated_tokens=QUESTIONS * part["tokens"]
    )  # fmt: skip


def begin_evaluation(*, lease: Lease) -> None:
    """A node has claimed it."""
    with tenant_scope(lease.organization_id):
        job = lock_leased_job(lease=lease)
        _set_status(job, EvaluationReport.Status.RUNNING)
        tell(job, "The evaluation has started")


def describe_evaluation(*, lease: Lease) -> EvaluationWork:
    """What its holder needs to know. Inside the scope."""
    job = get_leased_job(lease=lease)
    (data,) = references(artifacts_of(job).filter(path=f"{INPUTS}{ROWS}"), below=INPUTS).values()
    # A prefix cache of the tenant's own: timing must not tell one customer what another has sent.
    salt = hmac.digest(settings.KEY_PEPPER, lease.organization_id.bytes, sha256).hex()
    return EvaluationWork(
        job_id=job.wire_id,
        adapter=adapter_ref(tuned_model_of(job)),
        rows=job.evaluation.rows,
        data=data,
        context_length=job.base.context_length,
        row_timeout_seconds=settings.BATCH_ROW_TIMEOUT_SECONDS,
        cache_salt=salt,
    )


def tuned_model_of(job: FineTuningJob) -> FineTunedModel:
    """What the job has made. Inside the scope."""
    return FineTunedModel.objects.get(job=job.wire_id, step=None)


def complete_evaluation(*, lease: Lease) -> None:
    """The node has put the results: judge them. Inside the scope, with the lease locked."""
    job = get_leased_job(lease=lease, lock=True)
    require_files(job=job, below="", names=[ROWS])
    queue_stage(job=job, kind=REPORT_KIND)


def let_go_of_evaluation(*, lease: Lease) -> None:
    """The holder has given it back or was lost. Inside the scope, with the lease locked."""
    _set_status(get_leased_job(lease=lease, lock=True), EvaluationReport.Status.QUEUED)


def fail_evaluation(*, lease: Lease, code: str, message: str) -> None:
    """Nothing more is tried: the job goes on without. Inside the scope, with the lease locked."""
    _fail(get_leased_job(lease=lease, lock=True), code, message)


def write_report(*, lease: Lease) -> None:
    """Compute the figures from what the node has brought, and move the alias if they allow it. May run twice."""
    # numpy and sacrebleu are for the process that scores alone: they would cost every other tens of megabytes.
    from finetuning.scoring import score_results  # noqa: PLC0415

    with tenant_scope(lease.organization_id):
        job = get_leased_job(lease=lease)
        paths = {found.path: found for found in artifacts_of(job).filter(path__in=[f"{INPUTS}{ROWS}", ROWS])}
    beat = Heartbeat(lease)
    with bound_contextvars(job=job.wire_id), IncomingBlob() as examples:
        try:
            with (
                open_blob(_key(paths, f"{INPUTS}{ROWS}")) as rows,
                open_blob(_key(paths, ROWS)) as results,
            ):
                scored = score_results(
                    rows=rows,
                    results=results,
                    examples=examples,
                    seed=job.seed,
                    headline=_headline(job),
                    keep_alive=beat,
                )
        except PredictionsError as error:
            with tenant_scope(lease.organization_id):
                job = lock_leased_job(lease=lease)
                complete_lease(lease=lease)
                _fail(job, "results_refused", str(error))
            return
        key = examples.keep_new(job.organization_id, BLOB_KIND)
        try:
            with tenant_scope(lease.organization_id):
                job = lock_leased_job(lease=lease)
                report = job.evaluation
                report.status = EvaluationReport.Status.SUCCEEDED
                report.summary = _storable(as_json(scored.summary))
                report.samples = _storable(scored.samples)
                report.examples_key, report.examples_bytes = key, examples.size
                report.input_tokens, report.output_tokens = scored.input_tokens, scored.output_tokens
                report.finished_at = timezone.now()
                report.save()
                tell(job, _headline_event(scored.summary))
                _move_alias(job, scored.summary, "")
                complete_lease(lease=lease)
                queue_stage(job=job, kind=CONCLUSION_KIND)
        except HoneError:
            discard_blobs(key)  # refused, so that certainly nothing refers to it
            raise


def _fail(job: FineTuningJob, code: str, message: str) -> None:
    report = job.evaluation
    report.status = EvaluationReport.Status.FAILED
    report.error = {"code": code, "message": message}
    report.finished_at = timezone.now()
    report.save(update_fields=["status", "error", "finished_at"])
    tell(job, f"The model could not be evaluated ({code}: {message}); it can be called all the same", level=WARN)
    _move_alias(job, None, "the evaluation has failed")
    queue_stage(job=job, kind=CONCLUSION_KIND)


def _move_alias(job: FineTuningJob, summary: Summary | None, obstacle: str) -> None:
    """Let the job's alias stand for its model, if there is one and the gate, where there is one, lets it pass."""
    if not job.alias:
        return
    verdict = None
    reasons: list[str] = []
    if job.promote_if is not None:
        conditions = parse_gate(job.promote_if)
        if summary is not None:
            verdict = judge(conditions=conditions, summary=summary)
        passed = verdict is not None and verdict.passed
        reasons = verdict.reasons if verdict else [obstacle]
    else:
        passed = True
    if passed:
        try:
            with transaction.atomic():
                promote_alias(project=job.project, name=job.alias, model=job.fine_tuned_model, actor=SYSTEM_ACTOR)
        except HoneError as error:
            passed, reasons = False, [*reasons, error.message]
    EvaluationReport.objects.filter(job_id=job.id).update(
        gate={
            "passed": verdict.passed if verdict else None,
            "reasons": reasons,
            "checks": [asdict(check) for check in verdict.checks] if verdict else [],
            "promoted": passed,
        }
    )
    why = f": {'; '.join(reasons)}" if reasons else ""
    if passed:
        tell(job, f"The alias '{job.alias}' stands for the model now{why}")
    else:
        tell(job, f"The alias '{job.alias}' was not moved{why}", level=WARN)


def _set_status(job: FineTuningJob, status: EvaluationReport.Status) -> None:
    EvaluationReport.objects.filter(job_id=job.id).update(status=status)


def _headline(job: FineTuningJob) -> str | None:
    """The metric that decides, by the recipe."""
    first = get_recipe(job.recipe).metrics[0] if job.recipe else None
    return HEADLINES.get(first, first) if first else None


def _headline_event(summary: Summary) -> str:
    found = summary.metrics.get(summary.headline or "")
    if found is None:
        return f"Evaluated on {summary.rows} held-out rows"
    return f"Evaluated on {summary.rows} held-out rows: {summary.headline} {found.base:g} -> {found.tuned:g}"


def _key(paths: Mapping[str, Artifact], path: str) -> str:
    return paths[path].storage_key


def _storable(value: Any) -> Any:
    """Without the one character that PostgreSQL's JSON cannot hold, and a model may well write."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, list):
        return [_storable(entry) for entry in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(entry) for name, entry in value.items()}
    return value
