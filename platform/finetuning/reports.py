"""Reads about evaluations."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from common.errors import HoneError
from common.pagination import Page
from common.storage import open_blob
from finetuning.models import EvaluationReport, FineTuningJob
from tenants.scope import tenant_scope


@dataclass(frozen=True, kw_only=True)
class Example:
    """A held-out row with both answers (:func:`finetuning.samples.example_as_json`)."""

    offset: int
    """Where it begins among the report's examples: its identity, and where the next page goes on from."""
    content: dict[str, Any]


def get_evaluation(*, job: FineTuningJob) -> EvaluationReport:
    """The job's evaluation, ``not_found`` before it is queued and where no rows are held out. Inside the scope."""
    report = EvaluationReport.objects.select_related("job__base").filter(job_id=job.id).first()
    if report is None:
        raise HoneError(
            "not_found",
            "The job has no evaluation (yet): it begins after the training, where a validation_file or a "
            "validation_fraction holds rows out for it",
            param="id",
        )
    return report


def list_examples(*, report: EvaluationReport, after: int | None, limit: int) -> Page[Example]:
    """A page in the order of the file; nothing before the evaluation has succeeded. Outside of any scope."""
    if not report.examples_key:
        return Page(items=[], has_more=False)
    items: list[Example] = []
    with open_blob(report.examples_key) as file:
        if after is not None:
            file.seek(min(after, report.examples_bytes))
            file.readline()
        while len(items) < limit:
            offset = file.tell()
            line = file.readline()
            if not line:
                break
            items.append(Example(offset=offset, content=orjson.loads(line)))
        has_more = bool(file.read(1))
    return Page(items=items, has_more=has_more)


def referenced_examples(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a report of the organisation names."""
    with tenant_scope(organization_id):
        reports = EvaluationReport.objects.filter(examples_key__in=keys)
        return set(reports.values_list("examples_key", flat=True))
