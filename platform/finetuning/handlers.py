"""The kinds of leases that a job consists of."""

from dataclasses import asdict
from typing import Any

from catalog.models import FineTunedModel
from finetuning.closing import fail_job
from finetuning.evaluation import (
    begin_evaluation,
    complete_evaluation,
    describe_evaluation,
    fail_evaluation,
    let_go_of_evaluation,
    tuned_model_of,
    write_report,
)
from finetuning.preparation import prepare_job
from finetuning.publication import conclude_job, publish_checkpoint, publish_model, refuse_checkpoint
from finetuning.selectors import get_leased_job
from finetuning.stages import (
    CHECKPOINT_KIND,
    CONCLUSION_KIND,
    EVALUATION_KIND,
    PREPARATION_KIND,
    PUBLICATION_KIND,
    REPORT_KIND,
    TRAINING_KIND,
)
from finetuning.training import (
    begin_training,
    complete_training,
    describe_training,
    fail_training,
    let_go_of_training,
)
from fleet.handlers import ControlHandler, LeaseHandler
from fleet.models import Lease


class StageHandler(ControlHandler):
    """Work of the control plane without which the job cannot go on."""

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The job fails: better a clear end than waiting for ever."""
        job = get_leased_job(lease=lease, lock=True)
        fail_job(job=job, code="job_failed", message=f"{message} (given up after several tries; {code})")


class PreparationHandler(StageHandler):
    """Makes the data into what the trainer reads, and holds the money."""

    kind = PREPARATION_KIND

    def run(self, lease: Lease) -> None:
        """Prepare."""
        prepare_job(lease=lease)


class PublicationHandler(StageHandler):
    """Gives the model its name."""

    kind = PUBLICATION_KIND

    def run(self, lease: Lease) -> None:
        """Publish."""
        publish_model(lease=lease)


class EvaluationHandler(LeaseHandler):
    """Held-out rows that a node asks both models about."""

    kind = EVALUATION_KIND

    def claimed(self, lease: Lease) -> None:
        """It has begun."""
        begin_evaluation(lease=lease)

    def describe(self, lease: Lease) -> dict[str, Any]:
        """The fields of :class:`inference_workers.protocol.EvaluationWork`."""
        return asdict(describe_evaluation(lease=lease))

    def adapter(self, lease: Lease) -> FineTunedModel | None:
        """The model that is evaluated."""
        return tuned_model_of(get_leased_job(lease=lease))

    def completed(self, lease: Lease) -> None:
        """Only with the results."""
        complete_evaluation(lease=lease)

    def released(self, lease: Lease) -> None:
        """It waits again."""
        let_go_of_evaluation(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The job goes on without it."""
        fail_evaluation(lease=lease, code=code, message=message)


class ReportHandler(ControlHandler):
    """What the answers of both models amount to."""

    kind = REPORT_KIND

    def run(self, lease: Lease) -> None:
        """Judge them."""
        write_report(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The job goes on without it."""
        fail_evaluation(lease=lease, code=code, message=message)


class ConclusionHandler(StageHandler):
    """Ends the job."""

    kind = CONCLUSION_KIND

    def run(self, lease: Lease) -> None:
        """Conclude."""
        conclude_job(lease=lease)


class CheckpointHandler(ControlHandler):
    """Gives a checkpoint its name."""

    kind = CHECKPOINT_KIND

    def run(self, lease: Lease) -> None:
        """Publish."""
        publish_checkpoint(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The training goes on without it."""
        refuse_checkpoint(lease=lease, message=message)


class TrainingHandler(LeaseHandler):
    """What a node trains."""

    kind = TRAINING_KIND

    def claimed(self, lease: Lease) -> None:
        """The job runs."""
        begin_training(lease=lease)

    def describe(self, lease: Lease) -> dict[str, Any]:
        """The fields of :class:`inference_workers.protocol.TrainingWork`."""
        return asdict(describe_training(lease=lease))

    def completed(self, lease: Lease) -> None:
        """Only with the adapter."""
        complete_training(lease=lease)

    def released(self, lease: Lease) -> None:
        """The job waits again."""
        let_go_of_training(lease=lease)

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """The job fails; its checkpoints stay."""
        fail_training(lease=lease, code=code, message=message)
