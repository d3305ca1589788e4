"""The life of a fine-tuned model: registered, tried on a node, called, deleted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import IntegrityError
from django.db.models.functions import Now

from catalog.adapters import AdapterFacts, AdapterFile, check_adapter
from catalog.dependents import what_needs
from catalog.manifests import signed
from catalog.models import BaseModel, CheckpointPermission, FineTunedModel, ModelAlias
from catalog.selectors import model_not_found
from common.errors import HoneError
from common.storage import CHUNK_BYTES, IncomingBlob, delete_blob, discard_blobs, open_blob
from inference_workers import protocol
from tenants.models import Organization, Project
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

MAX_SUFFIX = 64
MAX_BASE = 78
"""Characters that a base's name may take of a fine-tuned model's, which has at most 200."""
MAX_ORGANIZATION = 20
BLOB_KIND = "adapters"
"""Kind of the blobs that fine-tuned models consist of (:mod:`common.orphans`)."""


def adapter_ref(model: FineTunedModel) -> protocol.AdapterRef:
    """The model as nodes know it."""
    files = {path: protocol.BlobRef(sha256=file["sha256"], bytes=file["bytes"]) for path, file in model.files.items()}
    return protocol.AdapterRef(name=model.name, files=files, rank=model.rank)


def tuned_name(*, base: BaseModel, organization: Organization, suffix: str, job_id: str, step: int | None) -> str:
    """The name that a job's result, or its checkpoint at a step, will have for ever."""
    owner = re.sub(r"[^a-z0-9]+", "-", organization.name.lower())[:MAX_ORGANIZATION].strip("-") or "org"
    name = f"ft:{base.name[:MAX_BASE]}:{owner}:{suffix}:{job_id[-12:]}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def check_suffix(suffix: str) -> str:
    """The part of a name that customers choose; ``invalid_value`` for what could not stand in one."""
    if not re.fullmatch(rf"[A-Za-z0-9._-]{{0,{MAX_SUFFIX}}}", suffix, re.ASCII):
        raise HoneError(
            "invalid_value", f"'suffix' takes up to {MAX_SUFFIX} letters, digits, '.', '_' and '-'", param="suffix"
        )
    return suffix


def register_adapter(
    *,
    project: Project,
    base: BaseModel,
    job_id: str,
    step: int | None,
    suffix: str,
    files: Mapping[str, AdapterFile],
    manifest: dict[str, Any],
) -> FineTunedModel:
    """Put a trained adapter into the catalogue, to be tried before anybody may call it. Safe to repeat.

    The model gets a copy of the files, whatever becomes of the job's own. ``manifest`` says where it comes from; names,
    digests and sizes are added. ``adapter_refused`` when the files are not what they must be. They are read in full:
    call it outside of any scope.
    """
    with tenant_scope(project.organization_id):
        made = FineTunedModel.objects.filter(job=job_id, step=step).first()
    if made is not None:
        return made
    own = {path: _copy(project, file) for path, file in files.items()}
    try:
        facts = check_adapter(files=own, base=base)
        with tenant_scope(project.organization_id):
            organization = Organization.objects.get(id=project.organization_id)
            model = FineTunedModel(
                organization_id=project.organization_id,
                name=tuned_name(base=base, organization=organization, suffix=suffix, job_id=job_id, step=step),
                project_id=project.id,
                base=base,
                base_revision=base.revision,
                job=job_id,
                step=step,
                files={path: asdict(file) for path, file in own.items()},
                rank=facts.rank,
            )
            _describe(model, facts, manifest)
            model.save(force_insert=True)
            _record(model, "registered", SYSTEM_ACTOR, {"name": model.name, "job": job_id})
    except (HoneError, IntegrityError):  # refused, or somebody else was faster: nothing refers to the copies
        discard_blobs(*(file.storage_key for file in own.values()))
        raise
    return model


def mark_ready(*, model: FineTunedModel, evidence: dict[str, Any] | None = None) -> FineTunedModel:
    """A node has tried the model and it does what it should: it can be called from now on. Safe to repeat.

    ``evidence`` (what the trial and the evaluation have found) goes into the manifest, which is signed now.
    """
    with tenant_scope(model.organization_id):
        locked = FineTunedModel.objects.select_for_update(no_key=True).get(id=model.id)
        if locked.state == FineTunedModel.State.PUBLISHING:
            locked.state = FineTunedModel.State.READY
            locked.manifest = signed(locked.manifest | {"evidence": evidence or {}})
            locked.save(update_fields=["state", "manifest"])
            _record(locked, "ready", SYSTEM_ACTOR)
    return locked


def mark_refused(*, model: FineTunedModel, reason: str) -> FineTunedModel:
    """The model must not be called, ever. Safe to repeat."""
    with tenant_scope(model.organization_id):
        locked = FineTunedModel.objects.select_for_update(no_key=True).get(id=model.id)
        if locked.state == FineTunedModel.State.PUBLISHING:
            locked.state, locked.refusal = FineTunedModel.State.REFUSED, reason
            locked.save(update_fields=["state", "refusal"])
            _record(locked, "refused", SYSTEM_ACTOR, {"reason": reason})
    return locked


def hold_ready(*, model_ids: Sequence[UUID]) -> None:
    """Keep these models from being deleted until the scope ends; ``model_not_found`` when one is not ready any more."""
    models = FineTunedModel.objects.select_for_update(no_key=True).filter(id__in=model_ids).order_by("id")
    gone = next((model for model in models if model.state != FineTunedModel.State.READY), None)
    if gone is not None:
        raise model_not_found(gone.name)


def delete_model(*, project: Project, name: str, actor: str) -> FineTunedModel:
    """Delete a fine-tuned model of the project: nobody can call it from now on, its bytes go right after.

    ``model_in_use`` names what still needs it. Nodes drop what they keep of it within a minute.
    """
    with tenant_scope(project.organization_id):
        own = FineTunedModel.objects.filter(project_id=project.id, name=name).exclude(
            state=FineTunedModel.State.DELETED
        )
        model = own.select_for_update(no_key=True).first() if "\0" not in name else None
        if model is None:
            if ModelAlias.objects.filter(project_id=project.id, name=name.replace("\0", "")).exists():
                raise HoneError("conflict", f"'{name}' is an alias; delete it as such", param="model")
            raise model_not_found(name)
        reason = what_needs(model)
        if reason is not None:
            raise HoneError("model_in_use", f"The model cannot be deleted: {reason}", param="model")
        CheckpointPermission.objects.filter(model_id=model.id).delete()
        model.state, model.deleted_at = FineTunedModel.State.DELETED, Now()
        model.save(update_fields=["state", "deleted_at"])
        _record(model, "deleted", actor, {"name": name})
    _delete_bytes(model)
    return model


def delete_leftover_bytes(*, limit: int = 500) -> None:
    """Delete what interrupted deletions have left."""
    # Found across tenants; each is then worked on in its own tenant's scope.
    deleted = FineTunedModel.all_tenants.filter(state=FineTunedModel.State.DELETED).exclude(files={})
    for model in deleted.order_by("deleted_at")[:limit]:
        _delete_bytes(model)


def _copy(project: Project, file: AdapterFile) -> AdapterFile:
    with open_blob(file.storage_key) as stream, IncomingBlob(max_bytes=settings.ADAPTER_MAX_BYTES) as blob:
        while chunk := stream.read(CHUNK_BYTES):
            blob.write(chunk)
        return replace(file, storage_key=blob.keep_new(project.organization_id, BLOB_KIND))


def _describe(model: FineTunedModel, facts: AdapterFacts, manifest: dict[str, Any]) -> None:
    reference = adapter_ref(model)
    model.address = reference.address
    model.manifest = manifest | {
        "name": model.name,
        "base": model.base.name,
        "base_revision": model.base_revision,
        "job": model.job,
        "step": model.step,
        "files": {path: asdict(file) for path, file in reference.files.items()},
        "adapter": asdict(facts),
    }


def _delete_bytes(model: FineTunedModel) -> None:
    """After the commit: when this fails the row still names the bytes, and the next round tries again."""
    try:
        for file in model.files.values():
            delete_blob(file["storage_key"])
    except HoneError as error:
        logger.warning("blobs not deleted", model=model.wire_id, error=error.message)
        return
    with tenant_scope(model.organization_id):
        FineTunedModel.objects.filter(id=model.id).update(files={})


def _record(model: FineTunedModel, what: str, actor: str, details: dict[str, Any] | None = None) -> None:
    record(
        actor=actor,
        action=f"model.{what}",
        subject=model.wire_id,
        organization_id=model.organization_id,
        project_id=model.project_id,
        details=details,
    )
