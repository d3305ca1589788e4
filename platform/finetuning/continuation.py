"""Training on from a model that is tuned already: its adapter is where the new one begins."""

from dataclasses import dataclass
from typing import Any

import orjson

from catalog.models import BaseModel, FineTunedModel, Price
from catalog.publishing import hold_ready
from catalog.selectors import current_prices, get_served_model, model_not_found
from common.errors import HoneError
from common.storage import CHUNK_BYTES, IncomingBlob, open_blob
from finetuning.artifacts import BLOBS
from finetuning.hyperparameters import ALL_LINEAR, Lora
from finetuning.models import Checkpoint, FineTuningJob
from finetuning.selectors import find_checkpoint
from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_FILES
from tenants.models import ApiKey
from tenants.scope import tenant_scope

FOLDER = "from/"
"""Where the trainer finds the adapter among its inputs."""
_PARAM = "method.{}.hyperparameters.{}"


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What a job begins with: a base model, and perhaps an adapter on it."""

    base: BaseModel
    adapter: FineTunedModel | None


@dataclass(frozen=True, kw_only=True)
class CopiedFile:
    """A file of the adapter in a blob of the job's own."""

    sha256: str
    bytes: int
    storage_key: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The adapter that is trained on."""

    files: dict[str, CopiedFile]
    lora: Lora


def starting_point(*, key: ApiKey, model: str, method: str, hyperparameters: dict[str, Any]) -> StartingPoint:
    """What ``model`` and ``from_checkpoint`` stand for. Call inside the scope; the adapter stays until it ends."""
    served = get_served_model(key=key, name=model)
    if served.base.id not in current_prices(kind=Price.Kind.TRAINING):
        raise HoneError("invalid_value", f"'{served.base.name}' is not offered for fine-tuning", param="model")
    adapter = served.adapter
    if origin := hyperparameters.get("from_checkpoint"):
        param = _PARAM.format(method, "from_checkpoint")
        adapter = _find_adapter(key, origin, param)
        if adapter.base_id != served.base.id:
            raise HoneError("invalid_value", f"'{origin}' is an adapter of '{adapter.base.name}'", param=param)
    if adapter is not None:
        if hyperparameters.get("lora"):
            message = f"'{adapter.name}' is trained on: the new adapter has its shape; leave 'lora' out"
            raise HoneError("invalid_value", message, param=_PARAM.format(method, "lora"))
        hold_ready(model_ids=[adapter.id])
    return StartingPoint(base=served.base, adapter=adapter)


def copy_origin(*, job: FineTuningJob) -> Origin | None:
    """A copy of the adapter that the job trains on, so that it does not matter what becomes of that. Outside of scopes.

    ``model_not_found`` when it has been deleted since the job was made.
    """
    if not job.continued_from:
        return None
    with tenant_scope(job.organization_id):
        model = FineTunedModel.objects.get(name=job.continued_from)
    if model.state != FineTunedModel.State.READY:
        raise model_not_found(model.name)
    files = {path: _copy(job, model.files[path]) for path in ADAPTER_FILES}
    with open_blob(files[ADAPTER_CONFIG].storage_key) as config:
        return Origin(files=files, lora=_read_lora(orjson.loads(config.read())))


def unfinished_successor(model: FineTunedModel) -> str | None:
    """What a job still has to do with a model that somebody wants to delete. Inside the scope."""
    jobs = FineTuningJob.objects.filter(continued_from=model.name, status=FineTuningJob.Status.VALIDATING_FILES)
    job = jobs.order_by("id").first()
    return f"{job.wire_id} is about to be trained on from it; cancel it or wait a moment" if job else None


def _find_adapter(key: ApiKey, name: str, param: str) -> FineTunedModel:
    """By the name of a model, or by the id of a checkpoint."""
    if name.startswith(Checkpoint.ID_PREFIX) and key.project_id is not None:
        checkpoint = find_checkpoint(project_id=key.project_id, wire_id=name)
        name = checkpoint.model if checkpoint else name
    try:
        adapter = get_served_model(key=key, name=name).adapter
    except HoneError as error:
        raise HoneError(error.code, error.message, param=param) from error
    if adapter is None:
        raise HoneError("invalid_value", f"'{name}' is a base model: there is no adapter to train on", param=param)
    return adapter


def _copy(job: FineTuningJob, file: dict[str, Any]) -> CopiedFile:
    with open_blob(file["storage_key"]) as stream, IncomingBlob() as blob:
        while chunk := stream.read(CHUNK_BYTES):
            blob.write(chunk)
        key = blob.keep_new(job.organization_id, BLOBS)
        return CopiedFile(sha256=blob.sha256, bytes=blob.size, storage_key=key)


def _read_lora(config: dict[str, Any]) -> Lora:
    """From ``adapter_config.json`` in PEFT's format."""
    modules = config.get("target_modules")
    return Lora(
        r=config["r"],
        alpha=float(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout") or 0.0),
        target_modules=sorted(modules) if isinstance(modules, list) else ALL_LINEAR,
    )
