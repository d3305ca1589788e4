"""Writes about projects."""

from uuid import UUID

from django.db.models.functions import Now

from common.errors import HoneError
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.selectors import get_project
from tenants.services import record


def create_project(*, organization_id: UUID, name: str, actor: str, request: CreateRequest) -> Project:
    """A new project; a repetition of ``request`` gets the one made then."""
    with tenant_scope(organization_id):
        made = earlier(request, Project)
        if made is not None:
            return made
        project = Project.objects.create(organization_id=organization_id, name=name)
        _record(project, "created", actor, {"name": name})
        remember(request, project)
    return project


def rename_project(*, organization_id: UUID, wire_id: str, name: str, actor: str) -> Project:
    """Another name. ``conflict`` when it is archived."""
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=wire_id)
        if name != project.name:
            project.name = name
            project.save(update_fields=["name"])
            _record(project, "updated", actor, {"name": name})
    return project


def archive_project(*, organization_id: UUID, wire_id: str, actor: str) -> Project:
    """End a project for ever: its keys open nothing any more. What it owns stays, archiving again is harmless."""
    with tenant_scope(organization_id):
        project = get_project(wire_id=wire_id, lock=True)
        if project.status != Project.Status.ARCHIVED:
            project.status = Project.Status.ARCHIVED
            project.archived_at = Now()
            project.save(update_fields=["status", "archived_at"])
            project.refresh_from_db(fields=["archived_at"])
            _record(project, "archived", actor)
    return project


def lock_active_project(*, wire_id: str, param: str = "project_id") -> Project:
    """The project, locked until the scope ends; ``not_found``, or ``conflict`` when it is archived."""
    project = get_project(wire_id=wire_id, lock=True, param=param)
    if project.status != Project.Status.ACTIVE:
        raise HoneError("conflict", "The project is archived", param=param)
    return project


def _record(project: Project, what: str, actor: str, details: dict[str, str] | None = None) -> None:
    record(
        actor=actor,
        action=f"project.{what}",
        subject=project.wire_id,
        organization_id=project.organization_id,
        project_id=project.id,
        details=details,
    )
