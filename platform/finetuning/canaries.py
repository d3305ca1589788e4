"""The canary: a node loads a model that nobody may call yet, and looks whether the adapter does anything.

The node knows how to look (:mod:`inference_workers.canary`); here is what follows from what it has seen.
"""

from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from catalog.models import FineTunedModel
from catalog.publishing import adapter_ref, mark_ready, mark_refused
from finetuning.closing import fail_after_trial
from finetuning.evaluation import go_on_after_trial
from finetuning.models import Canary
from fleet.handlers import LeaseHandler
from fleet.models import OPEN_STATES, Lease
from fleet.services import create_lease, revoke_leases
from inference_workers.protocol import CanaryWork, LeaseKind
from tenants.scope import tenant_scope

ESTIMATED_TOKENS = 1_000
PATIENCE = timedelta(hours=1)
"""Its deadline, for its place in the queue."""


def start_canary(*, model: FineTunedModel) -> Canary:
    """Queue the trial of a registered model. Call inside the scope; safe to repeat while it is under way."""
    begun = Canary.objects.filter(model_id=model.id).first()
    if begun is not None:
        return begun
    lease = create_lease(
        organization_id=model.organization_id,
        kind=LeaseKind.CANARY.value,
        model=model.base.name,
        estimated_tokens=ESTIMATED_TOKENS,
        deadline_at=timezone.now() + PATIENCE,
    )
    return Canary.objects.create(organization_id=model.organization_id, model=model, lease=lease)


def give_up_trials(*, organization_id: UUID) -> None:
    """Try nothing of the organisation any more, which is being deleted: what still waits will never be ready."""
    with tenant_scope(organization_id):
        waiting = list(Canary.objects.filter(lease__state__in=OPEN_STATES).select_related("model"))
        revoke_leases(lease_ids=[canary.lease_id for canary in waiting])
        for canary in waiting:
            mark_refused(model=canary.model, reason="its organisation is being deleted")


class CanaryHandler(LeaseHandler):
    """A trial that a node does."""

    kind = LeaseKind.CANARY.value

    def describe(self, lease: Lease) -> dict[str, Any]:
        """The fields of :class:`CanaryWork`."""
        return asdict(CanaryWork(adapter=adapter_ref(_model_of(lease))))

    def adapter(self, lease: Lease) -> FineTunedModel | None:
        """The model that is tried."""
        return _model_of(lease)

    def completed(self, lease: Lease) -> None:
        """It answers differently from the base, and the base as ever."""
        mark_ready(model=_model_of(lease), evidence={"canary": "passed"})
        go_on_after_trial(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """It does not, or no node could find out."""
        reason = message if code == "canary_refused" else f"{code}: {message}"
        mark_refused(model=_model_of(lease), reason=reason)
        fail_after_trial(lease=lease, message=reason)


def _model_of(lease: Lease) -> FineTunedModel:
    model: FineTunedModel = Canary.objects.select_related("model__base").get(lease_id=lease.id).model
    return model
