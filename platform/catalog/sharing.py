"""Writes about permissions: which other projects of the organisation may call a fine-tuned model."""

from collections.abc import Sequence
from uuid import UUID

from django.db.models import QuerySet

from catalog.models import CheckpointPermission, FineTunedModel
from common.errors import HoneError, not_found
from common.ids import from_wire
from tenants.models import Project
from tenants.projects import lock_active_project
from tenants.scope import tenant_scope
from tenants.services import record


def get_shareable(*, name: str, projects: QuerySet[Project]) -> FineTunedModel:
    """A fine-tuned model of one of these projects that has not been deleted, or ``not_found``. Inside the scope."""
    model = _shareable(name, lock=False)
    if not projects.filter(id=model.project_id).exists():
        raise _not_found(name)
    return model


def permit_projects(
    *, organization_id: UUID, name: str, project_wire_ids: Sequence[str], actor: str
) -> list[CheckpointPermission]:
    """Let these projects call the model; all of them or none. Repeating it is harmless."""
    with tenant_scope(organization_id):
        projects = [
            lock_active_project(wire_id=wire_id, param="project_ids") for wire_id in sorted(set(project_wire_ids))
        ]
        model = _shareable(name, lock=True)
        return [_permit(model, project, actor) for project in projects]


def withdraw_permission(*, organization_id: UUID, name: str, wire_id: str, actor: str) -> CheckpointPermission:
    """Let the project call the model no more; its batches that run already go on."""
    with tenant_scope(organization_id):
        model = _shareable(name, lock=True)
        permission_id = from_wire(CheckpointPermission.ID_PREFIX, wire_id)
        found = CheckpointPermission.objects.filter(model_id=model.id, id=permission_id) if permission_id else None
        permission = found.first() if found is not None else None
        if permission is None:
            raise not_found("permission", wire_id, param="permission_id")
        CheckpointPermission.objects.filter(id=permission.id).delete()
        _record(model, permission, "withdrawn", actor)
    return permission


def _permit(model: FineTunedModel, project: Project, actor: str) -> CheckpointPermission:
    permission, is_new = CheckpointPermission.objects.get_or_create(
        organization_id=model.organization_id, model_id=model.id, project_id=project.id
    )
    if is_new:
        _record(model, permission, "granted", actor)
    return permission


def _shareable(name: str, *, lock: bool) -> FineTunedModel:
    models = FineTunedModel.objects.filter(name=name.replace("\0", "")).exclude(state=FineTunedModel.State.DELETED)
    model = (models.select_for_update(no_key=True) if lock else models).first()
    if model is None:
        raise _not_found(name)
    return model


def _not_found(name: str) -> HoneError:
    return not_found("fine-tuned model", name, param="fine_tuned_model_checkpoint")


def _record(model: FineTunedModel, permission: CheckpointPermission, what: str, actor: str) -> None:
    record(
        actor=actor,
        action=f"checkpoint_permission.{what}",
        subject=permission.wire_id,
        organization_id=model.organization_id,
        project_id=permission.project_id,
        details={"model": model.name},
    )
