"""Fine-tuning in the published schema: the objects that answer, and what each route takes."""

from dataclasses import replace

from catalog.tuned_contracts import DOWNLOAD_MODEL
from common.contract import Content, Contract, Query, cursor_query, limit_query, listing, page_query
from common.errors import CODES
from common.fields import CapSerializer
from common.http import NoParametersSerializer
from common.shapes import (
    Shape,
    anything,
    array,
    boolean,
    constant,
    count,
    dollars,
    integer,
    mapping,
    moment,
    nullable,
    number,
    one_of,
    text,
    wire_id,
)
from files.models import StoredFile
from finetuning.data_contracts import PROBLEM
from finetuning.models import Checkpoint, FineTuningJob, JobEvent
from finetuning.wire import CreateJobSerializer, JobQuoteSerializer

_FILE_ID = wire_id(StoredFile.ID_PREFIX)
_METHODS = FineTuningJob.Method.values
_AUTO_NUMBER = {"anyOf": [constant("auto"), number()]}
_SHORT_HYPERPARAMETERS = Shape(
    name="FineTuningHyperparameters",
    about="Those of OpenAI's; a job's `method` has all of them.",
    fields=dict.fromkeys(("batch_size", "learning_rate_multiplier", "n_epochs"), _AUTO_NUMBER),
)
JOB = Shape(
    name="FineTuningJob",
    about="Data and a model in, a model out. What follows `method` is Hone's.",
    fields={
        "id": wire_id(FineTuningJob.ID_PREFIX),
        "object": constant("fine_tuning.job"),
        "created_at": moment(),
        "model": text("The base model, or a fine-tuned one that is trained on."),
        "organization_id": text(),
        "status": one_of(FineTuningJob.Status.values),
        "fine_tuned_model": nullable(text("What to call, once it has succeeded.")),
        "finished_at": nullable(moment()),
        "trained_tokens": nullable(count("Once it has ended.")),
        "training_file": _FILE_ID,
        "validation_file": nullable(_FILE_ID),
        "result_files": array(_FILE_ID),
        "estimated_finish": nullable(moment()),
        "seed": count(),
        "error": nullable(
            Shape(
                name="FineTuningError",
                about="Why it has failed.",
                fields={"code": one_of(CODES), "message": text(), "param": nullable(text())},
            )
        ),
        "hyperparameters": _SHORT_HYPERPARAMETERS,
        "integrations": {"type": "null"},
        "metadata": nullable(mapping(text(most=512))),
        "method": Shape(
            name="FineTuningMethod",
            about="How it is trained, and with what: as asked for until the data is known, then what is used.",
            fields={"type": one_of(_METHODS)},
            optional={
                name: Shape(
                    name=f"FineTuning{name.title()}",
                    about="The method's part.",
                    fields={"hyperparameters": anything("By name.")},
                )
                for name in _METHODS
            },
        ),
        "suffix": nullable(text(most=64)),
        "recipe": nullable(text()),
        "column_mapping": nullable(anything("Of a table's columns.")),
        "validation_fraction": number("Part of the training file that is held out."),
        "promote_if": {"description": "What must hold for the alias to move."},
        "alias": nullable(text("What is to stand for the model.")),
        "paused": boolean("A paused job's status is `queued`."),
        "waiting_reason": nullable(text("Why it does not run.")),
        "queue_position": nullable(integer("Its turn; null unless it is queued.", least=1)),
        "dataset": nullable(anything("What the data was made into: digests, rows, tokens.")),
        "progress": nullable(
            Shape(
                name="FineTuningProgress",
                about="How far the training is.",
                fields={
                    "step": count(),
                    "total_steps": count(),
                    "trained_tokens": count(),
                    "total_tokens": count(),
                },
            )
        ),
        "cost_nanos": count("So far, in nano-dollars."),
        "max_cost_nanos": nullable(count("The most that it can cost, in nano-dollars; once the data is known.")),
        "max_cost": nullable(dollars("Its cap.")),
    },
)
EVENT = Shape(
    name="FineTuningEvent",
    about="Something that has happened to a job.",
    fields={
        "id": text(pattern=f"^{JobEvent.ID_PREFIX}"),
        "object": constant("fine_tuning.job.event"),
        "created_at": moment(),
        "level": one_of(JobEvent.Level.values),
        "message": text(),
        "type": one_of(["message", "metrics"]),
        "data": nullable(anything("Of an event of the type `metrics`: what was measured at the step.")),
    },
)
CHECKPOINT = Shape(
    name="FineTuningCheckpoint",
    about="The model as it was at a step.",
    fields={
        "id": text(pattern=f"^{Checkpoint.ID_PREFIX}"),
        "object": constant("fine_tuning.job.checkpoint"),
        "created_at": moment(),
        "fine_tuning_job_id": wire_id(FineTuningJob.ID_PREFIX),
        "fine_tuned_model_checkpoint": text("What to call."),
        "step_number": count(),
        "metrics": Shape(
            name="FineTuningCheckpointMetrics",
            about="Validation is always on all rows.",
            fields={
                "step": count(),
                **{
                    name: nullable(number())
                    for name in (
                        "train_loss",
                        "train_mean_token_accuracy",
                        "valid_loss",
                        "valid_mean_token_accuracy",
                        "full_valid_loss",
                        "full_valid_mean_token_accuracy",
                    )
                },
            },
        ),
    },
)


def _numbered_query(prefix: str) -> tuple[Query, ...]:
    return (
        limit_query(max_limit=100, default_limit=20),
        cursor_query("after", text(pattern=f"^{prefix}")),
        Query(name="order", schema=one_of(["asc", "desc"]), about="By their order; `desc` unless it is given."),
    )


CREATE_JOB = Contract(
    summary="Create a fine-tuning job",
    description="The data is read and priced, the money held, and the training queued.",
    body=CreateJobSerializer,
    creates=True,
    answer=JOB,
    errors=("model_not_found", "not_found", "invalid_purpose", "insufficient_quota"),
)
LIST_JOBS = Contract(
    summary="List fine-tuning jobs",
    query=(
        *page_query(FineTuningJob.ID_PREFIX),
        Query(name="status", schema=one_of(FineTuningJob.Status.values), about="In this state alone."),
        Query(name="model", schema=text(), about="Of this model alone."),
        Query(name="metadata", schema=mapping(text()), about="With these values alone: `metadata[key]=value`."),
    ),
    answer=listing(JOB),
)
RETRIEVE_JOB = Contract(summary="Show a fine-tuning job", answer=JOB)
CANCEL_JOB = Contract(
    summary="Cancel a fine-tuning job", description="What was trained is charged.", answer=JOB, errors=("conflict",)
)
PAUSE_JOB = Contract(
    summary="Pause a fine-tuning job",
    description="It writes a checkpoint and lets go of its node.",
    body=NoParametersSerializer,
    answer=JOB,
    errors=("conflict",),
)
RESUME_JOB = Contract(
    summary="Resume a fine-tuning job",
    description="It goes on from its last checkpoint, perhaps with a higher cap.",
    body=CapSerializer,
    answer=JOB,
    errors=("conflict", "insufficient_quota"),
)
LIST_EVENTS = Contract(
    summary="List what has happened to a job", query=_numbered_query(JobEvent.ID_PREFIX), answer=listing(EVENT)
)
LIST_CHECKPOINTS = Contract(
    summary="List the checkpoints of a job that can be called",
    query=_numbered_query(Checkpoint.ID_PREFIX),
    answer=listing(CHECKPOINT),
)
QUOTE = Shape(
    name="FineTuningQuote",
    about="What a job would process and cost at most. Nothing is promised, and nothing is held.",
    fields={
        "object": constant("fine_tuning.quote"),
        "model": text(),
        "is_trainable": boolean("With `problems` the job would fail."),
        "problems": array(PROBLEM),
        "examples": count(),
        "skipped_rows": count(),
        "truncated_rows": count(),
        "is_estimate": boolean("Whether the tokens are those of the file's report instead of what would be learnt."),
        "tokens_per_epoch": count(),
        "hyperparameters": nullable(_SHORT_HYPERPARAMETERS),
        "total_steps": count(),
        "total_tokens": count(),
        "price_nanos_per_token": count(),
        "max_cost_nanos": count("In nano-dollars."),
        "available_nanos": integer("Of the organisation's balance, in nano-dollars."),
        "is_affordable": boolean(),
        "estimated_seconds": nullable(count("null while no node has told how fast it trains.")),
    },
)
QUOTE_JOB = Contract(
    summary="Show what a fine-tuning job would cost",
    body=JobQuoteSerializer,
    answer=QUOTE,
    errors=("model_not_found", "not_found", "invalid_purpose", "conflict"),
)
DOWNLOAD_JOB = replace(
    DOWNLOAD_MODEL, summary="Download the model that a job has made", errors=("conflict", "model_not_found")
)
DOWNLOAD_LOGS = Contract(
    summary="Download the TensorBoard logs of a job",
    contents=(Content(media_type="application/zip", about="A zip archive."),),
)
