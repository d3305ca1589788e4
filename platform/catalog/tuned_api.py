"""What belongs to fine-tuned models beside calling them: archives, manifests, aliases, permissions."""

from typing import Any, ClassVar

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from catalog import tuned_contracts as contracts
from catalog.aliases import create_alias, delete_alias, promote_alias, roll_back_alias
from catalog.archives import ModelArchive
from catalog.manifests import ALGORITHM, signing_key
from catalog.models import AliasMove, CheckpointPermission, ModelAlias
from catalog.selectors import get_alias, get_own_model, project_aliases
from catalog.sharing import get_shareable, permit_projects, withdraw_permission
from catalog.tuned_contracts import CreateAliasSerializer, PermissionSerializer, PromoteSerializer
from common.errors import HoneError
from common.http import NoParametersSerializer, parsed
from common.ids import from_wire, to_wire
from common.pagination import Page, page_request, paginate
from tenants.access import TenantAPIView
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.selectors import projects_seen

_ORDERS = {"ascending": "asc", "descending": "desc"}


def render_alias(alias: ModelAlias) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": alias.wire_id,
        "object": "model_alias",
        "alias": alias.name,
        "model": alias.target.name,
        "previous_model": alias.previous.name if alias.previous else None,
        "created_at": int(alias.created_at.timestamp()),
        "updated_at": int(alias.updated_at.timestamp()),
    }


def render_move(move: AliasMove) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": move.wire_id,
        "object": "model_alias.move",
        "model": move.target.name,
        "reason": move.reason,
        "actor": move.actor,
        "created_at": int(move.created_at.timestamp()),
    }


def render_permission(permission: CheckpointPermission) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": permission.wire_id,
        "object": "checkpoint.permission",
        "created_at": int(permission.created_at.timestamp()),
        "project_id": to_wire(Project.ID_PREFIX, permission.project_id),
    }


class ModelDownloadView(TenantAPIView):
    """The weights of a fine-tuned model."""

    operations: ClassVar = {"GET": "models.download"}
    contracts: ClassVar = {"GET": contracts.DOWNLOAD_MODEL}

    def get(self, request: Request, name: str) -> HttpResponseBase:
        """A tar archive: the adapter in PEFT's format, and the signed manifest."""
        with tenant_scope(self.principal.organization_id):
            model = get_own_model(project=self.project, name=name)
        return archive_response(ModelArchive(model))


class ModelManifestView(TenantAPIView):
    """Where a fine-tuned model comes from."""

    operations: ClassVar = {"GET": "models.manifest"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_MANIFEST}

    def get(self, request: Request, name: str) -> Response:
        """The manifest; ``text`` is what is signed, to the byte."""
        with tenant_scope(self.principal.organization_id):
            model = get_own_model(project=self.project, name=name)
        signature = {"algorithm": ALGORITHM, "key_id": signing_key().id, "value": model.signature}
        return Response(
            {
                "object": "model.manifest",
                "model": model.name,
                "manifest": model.manifest,
                "text": model.signed_text,
                "signature": signature,
            }
        )


class SigningKeyView(TenantAPIView):
    """With what manifests are verified."""

    operations: ClassVar = {"GET": "signing_key.retrieve"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_SIGNING_KEY}

    def get(self, request: Request) -> Response:
        """The public key."""
        key = signing_key()
        return Response({"id": key.id, "object": "signing_key", "algorithm": ALGORITHM, "public_key": key.pem})


def archive_response(archive: ModelArchive) -> StreamingHttpResponse:
    """The archive as a download; closed with the response."""
    headers = {
        "Content-Length": str(archive.size),
        "Content-Disposition": f'attachment; filename="{archive.folder}.tar"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingHttpResponse(archive, content_type="application/x-tar", headers=headers)


class AliasListView(TenantAPIView):
    """Create an alias; list the project's aliases."""

    operations: ClassVar = {"POST": "model_aliases.create", "GET": "model_aliases.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_ALIAS, "GET": contracts.LIST_ALIASES}

    def post(self, request: Request) -> Response:
        """A new alias."""
        data = parsed(CreateAliasSerializer, request)
        alias = create_alias(
            project=self.project,
            name=data["alias"],
            model=data["model"],
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        with tenant_scope(self.principal.organization_id):
            return Response(render_alias(alias))

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        wanted = page_request(request.query_params.dict(), prefix=ModelAlias.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            return Response(paginate(project_aliases(project=self.project), wanted).render(render_alias))


class AliasView(TenantAPIView):
    """One alias, by its name."""

    operations: ClassVar = {
        "GET": "model_aliases.retrieve",
        "POST": "model_aliases.promote",
        "DELETE": "model_aliases.delete",
    }
    contracts: ClassVar = {
        "GET": contracts.RETRIEVE_ALIAS,
        "POST": contracts.PROMOTE_ALIAS,
        "DELETE": contracts.DELETE_ALIAS,
    }

    def get(self, request: Request, alias: str) -> Response:
        """The alias object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_alias(get_alias(project=self.project, name=alias)))

    def post(self, request: Request, alias: str) -> Response:
        """Let it stand for another model."""
        data = parsed(PromoteSerializer, request)
        promote_alias(project=self.project, name=alias, model=data["model"], actor=self.principal.actor)
        return self.get(request, alias)

    def delete(self, request: Request, alias: str) -> Response:
        """Delete it; the model stays."""
        delete_alias(project=self.project, name=alias, actor=self.principal.actor)
        return Response({"id": alias, "object": "model_alias", "deleted": True})


class AliasRollbackView(TenantAPIView):
    """One step back."""

    operations: ClassVar = {"POST": "model_aliases.rollback"}
    contracts: ClassVar = {"POST": contracts.ROLL_BACK_ALIAS}

    def post(self, request: Request, alias: str) -> Response:
        """Let it stand for what it stood for before."""
        parsed(NoParametersSerializer, request)
        roll_back_alias(project=self.project, name=alias, actor=self.principal.actor)
        with tenant_scope(self.principal.organization_id):
            return Response(render_alias(get_alias(project=self.project, name=alias)))


class AliasHistoryView(TenantAPIView):
    """What an alias has stood for."""

    operations: ClassVar = {"GET": "model_aliases.history"}
    contracts: ClassVar = {"GET": contracts.LIST_MOVES}

    def get(self, request: Request, alias: str) -> Response:
        """One page, newest first."""
        wanted = page_request(request.query_params.dict(), prefix=AliasMove.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            found = get_alias(project=self.project, name=alias)
            moves = AliasMove.objects.select_related("target").filter(alias_id=found.id)
            return Response(paginate(moves, wanted).render(render_move))


class PermissionListView(TenantAPIView):
    """Which projects may call a fine-tuned model that another one has made."""

    operations: ClassVar = {"POST": "checkpoint_permissions.create", "GET": "checkpoint_permissions.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_PERMISSIONS, "GET": contracts.LIST_PERMISSIONS}

    def post(self, request: Request, checkpoint: str) -> Response:
        """Let projects call it; a list of the permissions."""
        permissions = permit_projects(
            organization_id=self.principal.organization_id,
            name=checkpoint,
            project_wire_ids=parsed(PermissionSerializer, request)["project_ids"],
            actor=self.principal.actor,
        )
        return Response(Page(items=permissions, has_more=False).render(render_permission))

    def get(self, request: Request, checkpoint: str) -> Response:
        """One page, newest first; of one project with ``project_id``."""
        query = request.query_params.dict()
        order = query.pop("order", "descending")
        if order not in _ORDERS:
            raise HoneError("invalid_value", "'order' must be 'ascending' or 'descending'", param="order")
        wanted = page_request({**query, "order": _ORDERS[order]}, prefix=CheckpointPermission.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            model = get_shareable(name=checkpoint, projects=projects_seen(caller=self.principal.caller))
            permissions = CheckpointPermission.objects.filter(model_id=model.id)
            if wire_id := query.get("project_id"):
                project_id = from_wire(Project.ID_PREFIX, wire_id)
                permissions = permissions.filter(project_id=project_id) if project_id else permissions.none()
            return Response(paginate(permissions, wanted).render(render_permission))


class PermissionView(TenantAPIView):
    """One permission."""

    operations: ClassVar = {"DELETE": "checkpoint_permissions.delete"}
    contracts: ClassVar = {"DELETE": contracts.DELETE_PERMISSION}

    def delete(self, request: Request, checkpoint: str, permission_id: str) -> Response:
        """Withdraw it."""
        withdraw_permission(
            organization_id=self.principal.organization_id,
            name=checkpoint,
            wire_id=permission_id,
            actor=self.principal.actor,
        )
        return Response({"id": permission_id, "object": "checkpoint.permission", "deleted": True})
