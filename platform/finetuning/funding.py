"""The money of a job: each token that the training processes is paid for once.

What the whole training can cost is held before it begins, or as much as its owner's cap allows. Tokens are settled from
that as the trainer reports them, by the range that they are in, so a step that is trained again after a kill is not
paid again, and a job never costs more than is held for it. The rest goes back when the training has ended.

Call inside the scope with lease and job locked; money moves last.
"""

from billing.services import place_hold, release_hold, settle_hold
from common.errors import HoneError
from common.money import format_usd
from finetuning.models import FineTuningJob
from metering.models import UsageEvent
from metering.services import Quantities, record_usage

SETTLEMENTS = 100
"""About as many are made of a training: tokens are settled a hundredth of it at a time, and in the end."""
REACTION_SECONDS = 4
"""How long a trainer goes on until it has heard that the cap is near."""


def hold_for(*, job: FineTuningJob) -> None:
    """Hold what is missing of the job's bound, or of its cap; ``insufficient_quota`` where there is less."""
    wanted = job.bound_nanos if job.max_cost_nanos is None else min(job.bound_nanos, job.max_cost_nanos)
    missing = wanted - job.held_nanos
    if missing <= 0:
        return
    job.holds += 1
    try:
        place_hold(
            organization_id=job.organization_id,
            job=job.wire_id,
            amount_nanos=missing,
            key=f"hold:{job.wire_id}:{job.holds}",
        )
    except HoneError as error:
        if error.code != "insufficient_quota":
            raise
        raise HoneError(
            "insufficient_quota",
            f"The training can cost up to ${format_usd(job.bound_nanos)}, and ${format_usd(missing)} more must be "
            f"available for it: add credit, set max_cost, or train fewer epochs ({error.message})",
        ) from error
    job.held_nanos += missing
    job.save(update_fields=["holds", "held_nanos"])


def settle(*, job: FineTuningJob, is_final: bool = False) -> None:
    """Charge for what has been trained and is not charged yet, as far as it is paid for."""
    tokens = min(job.trained_tokens, _affordable_tokens(job)) - job.settled_tokens
    if tokens <= 0 or (not is_final and tokens < job.total_tokens // SETTLEMENTS) or job.price is None:
        return
    job.settled_tokens += tokens
    source = f"training:{job.wire_id}:{job.settled_tokens}"
    event = record_usage(
        organization_id=job.organization_id,
        project_id=job.project_id,
        api_key_id=job.api_key_id,
        source=source,
        job=job.wire_id,
        operation=UsageEvent.Operation.TRAINING,
        model=job.base.name,
        price=job.price,
        quantities=Quantities(input_tokens=tokens),
    )
    job.cost_nanos += event.cost_nanos
    job.save(update_fields=["settled_tokens", "cost_nanos"])
    settle_hold(
        organization_id=job.organization_id, job=job.wire_id, amount_nanos=event.cost_nanos, key=source
    )  # fmt: skip


def release(*, job: FineTuningJob) -> None:
    """Nothing more will be trained: settle the last of it and give back what is left."""
    settle(job=job, is_final=True)
    release_hold(organization_id=job.organization_id, job=job.wire_id, key=f"end:{job.wire_id}")


def is_cap_near(*, job: FineTuningJob, tokens_per_second: float, step_tokens: int) -> bool:
    """Whether the next steps could cost more than the owner's cap; ``step_tokens`` are those of one step."""
    if job.held_nanos >= job.bound_nanos:
        return False
    ahead = max(2 * step_tokens, int(REACTION_SECONDS * tokens_per_second))
    return job.trained_tokens + ahead > _affordable_tokens(job)


def _affordable_tokens(job: FineTuningJob) -> int:
    """How many tokens the money that is held pays for."""
    price = job.price.input_nanos if job.price else 0
    return job.held_nanos // price if price else max(job.trained_tokens, job.total_tokens)
