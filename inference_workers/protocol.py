"""What the control plane and a worker node say to each other: ``/internal/v1``.

The one module both sides import, so it uses the standard library alone. Every message is a frozen
dataclass that turns into a JSON object (:func:`encode`) and is rebuilt, checked, from one
(:func:`decode`). Fields that a receiver does not know are ignored and fields with a default may be
missing, so that within one protocol version either side may learn to say more.

Routes (all below ``/internal/v1``, ``Authorization: Bearer hone_wk_...``; calls on a lease also carry its
token in the header ``Hone-Lease``):

====================================  =====================  ==========================================
call                                  body                   answer
====================================  =====================  ==========================================
POST nodes                            NodeHello              200 NodeWelcome; 426 protocol_unsupported
POST nodes/{id}/heartbeat             NodeReport             200 NodeOrders; 409 node_replaced
POST nodes/{id}/leases                LeaseRequest           200 LeaseGrant; 204 no work; 409 node_replaced
POST nodes/{id}/adapters              AdapterInventory       200 AdapterOrders
GET  leases/{id}/input                                       200 NDJSON of WorkRow; 409 lease_lost
GET  leases/{id}/adapter/{path}                              200 bytes of AdapterRef.files; 404; 409 lease_lost
PUT  leases/{id}/segments/{n}         NDJSON of RowResult    201; 200 the same again;
                                                             409 segment_conflict | lease_lost
GET  leases/{id}/inputs/{name}                               200 bytes; 409 lease_lost
GET  leases/{id}/artifacts/{path}                            200 bytes; 409 lease_lost
PUT  leases/{id}/artifacts/{path}     bytes, Hone-SHA256     201; 200 the same again; 409 lease_lost
POST leases/{id}/events               TrainingEvents         200; 409 events_out_of_order |
                                                             artifacts_missing | lease_lost
POST leases/{id}/complete                                    200; 409 lease_lost | rows_missing |
                                                             artifacts_missing
POST leases/{id}/fail                 LeaseFailure           200; 409 lease_lost
====================================  =====================  ==========================================

One heartbeat per node, not per lease, renews every lease that the report names: on a machine whose CPU is its
accelerator each call is paid for in tokens. A holder that is not heard for ``lease_seconds`` loses its leases.

Errors have the shape of the public API: ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
import typing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

PROTOCOL_VERSION = 2
"""Raised whenever an older node would misunderstand a newer control plane, or the other way round."""

LEASE_HEADER = "Hone-Lease"
"""Header with the token of a :class:`LeaseGrant`; it names the lease and the epoch of the claim."""

DIGEST_HEADER = "Hone-SHA256"
"""Header with the hexadecimal SHA-256 of an artefact's bytes."""

DOORBELL_EXCHANGE = "hone.doorbell"
"""Celery fanout exchange: every agent hears every bell; a lost one costs a poll interval, never work."""

DOORBELL_TASK = "inference_workers.wake"
"""Celery task that says 'there is work for model M': ``kwargs={"model": M}``."""

MAX_SEGMENT_ROWS = 256
"""Most rows one segment may hold."""

MAX_SEGMENT_BYTES = 64 * 1024 * 1024
"""Most bytes one segment's NDJSON may hold."""

MAX_EVENTS = 500
"""Most events of a training that may come at once."""

STATE_FILES = ("state.json", "state.safetensors")
"""What a checkpoint holds beside its adapter: optimiser, schedule, random states and place in the data, with which the
training goes on as if it had never stopped."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""All that an adapter consists of, in PEFT's format; nothing else is accepted, stored or brought to a node."""


class MessageError(ValueError):
    """A JSON value is not the message it was taken for; the text names the field."""


class LeaseKind(StrEnum):
    """The kinds of work that a node may lease."""

    BATCH_SHARD = "batch_shard"
    TUNED_SHARD = "tuned_shard"
    """The same on a fine-tuned model: for nodes whose engine takes adapters."""
    CANARY = "canary"
    """Try an adapter that nobody may call yet."""
    TRAINING = "training"
    """Of a model that the node says it trains, whether or not its engine is ready."""
    EVALUATION = "evaluation"
    """Have base and tuned model answer held-out rows."""


class ModelState(StrEnum):
    """What a node says of one model it is configured to serve."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class TrainingEventKind(StrEnum):
    """What a trainer writes into its event file."""

    METRICS = "metrics"
    MESSAGE = "message"
    CHECKPOINT = "checkpoint"
    """Sent on once every file of the checkpoint has been put."""
    DONE = "done"
    """Sent on once every file of the adapter has been put."""
    FAILED = "failed"


class LeaseAction(StrEnum):
    """What the holder of a lease is told at a heartbeat."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    """Abort what runs, commit what has finished, then fail the lease with code ``cancelled``, for good."""
    PAUSE = "pause"
    """The same with code ``paused``: the rows that are left will be wanted later."""
    LOST = "lost"
    """This claim has ended: drop the work, nothing more may be sent for it."""


@dataclass(frozen=True, kw_only=True)
class NodeHello:
    """A node introduces itself, at start and whenever it is told that it is not known."""

    protocol: int
    name: str
    incarnation: str
    """Random per agent process: a second agent of the same name replaces the first."""
    software: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class NodeWelcome:
    """The control plane's answer: who the node is, and the rhythm it keeps (seconds)."""

    node_id: str
    heartbeat_seconds: float
    lease_seconds: float
    poll_seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model as its node sees it now."""

    name: str
    state: ModelState
    in_flight: int = 0
    """Rows that the engine is working on."""
    in_flight_limit: int = 0
    """How many rows the node keeps in flight at present: the best it has found, less what online traffic needs."""
    tokens_per_second: float = 0.0
    """Prompt and completion tokens of answered rows per second in which there were rows; 0 while not known."""
    message: str = ""
    """Why a model has failed."""
    trains: bool = False
    """Whether the node takes trainings of this model."""
    training_tokens_per_second: float = 0.0
    """Of the training that runs on the model now, or of the last one; 0 while not known."""


@dataclass(frozen=True, kw_only=True)
class HeldLease:
    """A lease that the node holds, or believes that it does."""

    id: str
    epoch: int
    rows_in_flight: int = 0


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """Sent every ``heartbeat_seconds``."""

    incarnation: str
    models: list[ModelReport] = field(default_factory=list)
    leases: list[HeldLease] = field(default_factory=list)
    """Every lease that is to be renewed."""


@dataclass(frozen=True, kw_only=True)
class NodeOrders:
    """Answer to a report."""

    drain: bool = False
    """Finish what is held and lease nothing new."""
    leases: dict[str, LeaseAction] = field(default_factory=dict)
    """For each lease of the report, by its id."""


@dataclass(frozen=True, kw_only=True)
class LeaseRequest:
    """A node asks for work of these kinds on these models; there is none for a model not reported ready.

    Trainings are asked for by themselves, and there is none for a model that is not reported as one the node trains.
    """

    incarnation: str
    kinds: list[LeaseKind]
    models: list[str]
    except_organizations: list[str] = field(default_factory=list)
    """Not their work: a node that has enough rows of some asks for others', so that those need not queue behind."""


@dataclass(frozen=True, kw_only=True)
class LeaseGrant:
    """One piece of work, held until ``lease_seconds`` after the last heartbeat."""

    id: str
    token: str
    epoch: int
    kind: LeaseKind
    model: str
    organization_id: str
    weight: int
    """Of the organisation: among those whose rows a node holds, each gets its share of the rows in flight."""
    lease_seconds: float
    estimated_tokens: int
    deadline_at: float
    """Unix seconds by the control plane's clock; informative."""
    work: dict[str, Any]
    """What the kind needs: the fields of :class:`ShardWork`, :class:`CanaryWork` or :class:`TrainingWork`."""


@dataclass(frozen=True, kw_only=True)
class BlobRef:
    """Bytes that can be fetched, and how to know them."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class AdapterRef:
    """An adapter that the work needs; ``GET leases/{id}/adapter/{path}`` brings its files."""

    name: str
    """Of the fine-tuned model: what requests name, and what the engine calls the adapter."""
    files: dict[str, BlobRef]
    rank: int

    @property
    def address(self) -> str:
        """SHA-256 over the names and digests of the files, as ``sha256sum`` prints them: where a node keeps them."""
        lines = (f"{file.sha256}  {path}\n" for path, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class AdapterInventory:
    """What a node keeps of adapters (:attr:`AdapterRef.address`), asked about from time to time."""

    incarnation: str
    addresses: list[str]


@dataclass(frozen=True, kw_only=True)
class AdapterOrders:
    """Of an inventory, what has been deleted meanwhile: drop it."""

    drop: list[str]


@dataclass(frozen=True, kw_only=True)
class CanaryWork:
    """``LeaseGrant.work`` of kind ``canary``.

    Fail it with code ``canary_refused``, for good, when the adapter may not be served.
    """

    adapter: AdapterRef


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """``LeaseGrant.work`` of kinds ``batch_shard`` and ``tuned_shard``."""

    batch_id: str
    endpoint: str
    """Path below the engine's root, for example ``/v1/chat/completions``."""
    rows: int
    """Rows without a result; ``GET leases/{id}/input`` streams exactly these."""
    next_segment: int
    """Number of the next segment of this lease; segments are numbered without gaps."""
    row_timeout_seconds: float
    adapter: AdapterRef | None = None
    """What every row needs loaded; without one they are for the base model."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """A checkpoint that the control plane keeps: ``GET leases/{id}/artifacts/checkpoints/step-N/{file}``."""

    step: int
    files: dict[str, BlobRef]
    """By name within the checkpoint's folder."""


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """``LeaseGrant.work`` of kind ``training``."""

    job_id: str
    base_revision: str
    """Of the prepared model; the node refuses the work when its own is another."""
    spec: dict[str, Any]
    """Of :mod:`inference_workers.training`, without what only the node knows: where the model is, and the device."""
    inputs: dict[str, BlobRef]
    """By name in the run's folder: ``GET leases/{id}/inputs/{name}``."""
    resume: ResumePoint | None = None
    events_seen: int = 0
    """How many events the control plane has: the next one has the number after it."""


@dataclass(frozen=True, kw_only=True)
class TrainingEvent:
    """One line of a trainer's event file; members that its kind does not have are left out."""

    seq: int
    """From 1 without gaps over the whole training, whoever runs it."""
    kind: TrainingEventKind
    step: int = 0
    epoch: float = 0.0
    train_loss: float | None = None
    train_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_token_accuracy: float | None = None
    train_example_accuracy: float | None = None
    valid_example_accuracy: float | None = None
    train_reward_margin: float | None = None
    valid_reward_margin: float | None = None
    """Of preferences: by how much the preferred answer has become likelier than the other."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float = 0.0
    trained_tokens: int = 0
    """Of all steps so far, those of earlier runs included."""
    level: str = "info"
    message: str = ""
    code: str = ""
    interim: bool = False
    """Of a checkpoint that is there to go on from, not to be called."""
    metrics: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingEvents:
    """``POST leases/{id}/events``; those that the control plane has already are ignored."""

    events: list[TrainingEvent]


@dataclass(frozen=True, kw_only=True)
class EvaluationWork:
    """``LeaseGrant.work`` of kind ``evaluation``.

    ``GET leases/{id}/inputs/evaluation.ndjson`` has the held-out rows as NDJSON: ``line``, ``messages`` or ``prompt``,
    ``max_tokens``, perhaps ``choices`` or ``json_schema`` that the answer is held to, and ``ids`` with the spans of
    ``trained`` positions whose loss is wanted. Put ``evaluation.ndjson``, an :class:`EvaluationResult` for each row
    in the same order, before the lease is completed.
    """

    job_id: str
    adapter: AdapterRef
    rows: int
    data: BlobRef
    """The rows."""
    context_length: int
    """Tokens of prompt and answer that the model takes."""
    row_timeout_seconds: float
    """For one request; a row is up to four."""
    cache_salt: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """What one model made of a held-out row."""

    text: str | None
    """None: it could not be asked (:attr:`error` says why)."""
    loss: float | None = None
    """Mean negative log-likelihood of the reference's trained tokens, in nats."""
    tokens: int = 0
    """How many tokens the loss is the mean of."""
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    """Of all requests about the row, as the engine counted them."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Both models' answers to a held-out row; ``line`` is its 1-based number in the customer's file."""

    line: int
    base: ModelAnswer
    tuned: ModelAnswer


@dataclass(frozen=True, kw_only=True)
class WorkRow:
    """One request to answer; ``line`` is its 1-based number in the customer's file."""

    line: int
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowError:
    """Why a row has no response at all."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One finished row: an engine's response of any 2xx or 4xx status, or an error without one."""

    line: int
    request_id: str = ""
    status: int | None = None
    body: dict[str, Any] | None = None
    error: RowError | None = None


@dataclass(frozen=True, kw_only=True)
class LeaseFailure:
    """The holder gives the lease back unfinished; retryable work goes to the next claim."""

    code: str
    message: str
    retryable: bool = True


CANCELLED = LeaseFailure(code="cancelled", message="cancelled on request", retryable=False)
"""What a holder answers :attr:`LeaseAction.CANCEL` with ..."""
PAUSED = LeaseFailure(code="paused", message="paused on request")
"""... and :attr:`LeaseAction.PAUSE`."""


Message = TypeVar("Message")


def encode(message: Any) -> dict[str, Any]:
    """The JSON object of a message."""
    return dataclasses.asdict(message)


def decode(kind: type[Message], value: object) -> Message:
    """Rebuild a message of ``kind`` from a JSON value; :class:`MessageError` names what is wrong."""
    if not isinstance(value, dict):
        raise MessageError(f"{kind.__name__} must be a JSON object, not {type(value).__name__}")
    hints = _hints(kind)  # type: ignore[arg-type]  # mypy does not see that a class can be hashed
    arguments: dict[str, Any] = {}
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]  # every message is a dataclass
        if entry.name in value:
            arguments[entry.name] = _convert(value[entry.name], hints[entry.name], f"{kind.__name__}.{entry.name}")
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise MessageError(f"{kind.__name__}.{entry.name} is missing")
    return kind(**arguments)


_hints = functools.cache(typing.get_type_hints)  # reading them again for every row was most of a decode's cost


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(value, next(option for option in options if option is not type(None)), where)
    if origin is list:
        (item,) = typing.get_args(hint)
        if not isinstance(value, list):
            raise MessageError(f"{where} must be an array")
        return [_convert(entry, item, f"{where}[{index}]") for index, entry in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise MessageError(f"{where} must be an object")
        _, item = typing.get_args(hint)
        return {str(key): _convert(entry, item, f"{where}.{key}") for key, entry in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast("Any", hint), value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise MessageError(f"{where} must be one of {', '.join(hint)}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise MessageError(f"{where} must be a {hint.__name__}, not {type(value).__name__}")
    return value
