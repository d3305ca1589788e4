"""The end of an organisation: everything of it goes but what the law and the books need.

Every step may be killed and repeated: each asks what is still there, and the name, by which the operator confirms,
goes last.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from accounts.models import User
from accounts.services import delete_user
from batches.closing import cancel_batch
from batches.models import TERMINAL, Batch
from common.database import SYSTEM
from common.errors import HoneError
from common.storage import Removed, delete_folder
from finetuning.canaries import give_up_trials
from finetuning.closing import cancel_job
from finetuning.models import TERMINAL as JOB_TERMINAL
from finetuning.models import FineTuningJob
from operations.holdings import EMPTIED, KEPT, references, removed_models, tenant_models
from operations.selectors import find_organization, open_work
from tenants.models import ApiKey, Membership, Organization, Project, ServiceAccount, TenantModel
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record, revoke_key, set_organization_status

POLL_SECONDS = 0.5
ERASED = "(deleted)"


@dataclass
class Deletion:
    """What a run of :func:`delete_organization` has removed, and what it has left."""

    removed: dict[str, int] = field(default_factory=dict)
    """Rows by table."""
    kept: dict[str, int] = field(default_factory=dict)
    people: int = 0
    """Users who were a member of nothing else."""
    stored: Removed = field(default_factory=Removed)


def delete_organization(
    *, wire_id: str, confirm: str, by: str, should_cancel_work: bool = False, wait_seconds: float = 60
) -> Deletion:
    """Delete an organisation whose name is ``confirm``; ``by`` goes into the audit trail. Again is harmless.

    ``conflict`` while there is open work, and nothing has changed. With ``should_cancel_work`` its keys are revoked
    and its batches and jobs cancelled, which charges what has finished, and up to ``wait_seconds`` are spent until the
    workers have ended them; ``conflict`` after that time says what is still open: run it again.
    """
    organization = find_organization(wire_id=wire_id)
    deletion = Deletion()
    if organization.status == Organization.Status.DELETED:
        return deletion
    if confirm != organization.name:
        raise HoneError("invalid_value", "The name to confirm with is not that of the organisation", param="confirm")
    if should_cancel_work:
        _end_work(organization, wait_seconds)
    elif left := open_work(organization_id=organization.id):
        raise HoneError("conflict", f"There is open work, and nothing was changed: {left}")
    _close(organization, by)
    for model in removed_models():
        _remove_rows(model, organization.id, deletion)
    _empty_rows(organization.id)
    _remove_people(organization.id, deletion)
    deletion.stored = delete_folder(organization.id.hex)
    _bury(organization, by, deletion)
    return deletion


def _end_work(organization: Organization, wait_seconds: float) -> None:
    with tenant_scope(organization.id):
        keys = list(ApiKey.objects.filter(revoked_at=None))
        batches = list(Batch.objects.exclude(status__in=TERMINAL).select_related("project"))
        jobs = list(FineTuningJob.objects.exclude(status__in=JOB_TERMINAL).select_related("project"))
    for key in keys:
        revoke_key(key=key, actor=SYSTEM_ACTOR)
    if organization.status != Organization.Status.ACTIVE:
        # Nobody works for one that is suspended, not even to end its work. Its keys are gone.
        set_organization_status(organization=organization, status=Organization.Status.ACTIVE, actor=SYSTEM_ACTOR)
    for batch in batches:
        _unless_ending(cancel_batch, project=batch.project, wire_id=batch.wire_id)
    for job in jobs:
        _unless_ending(cancel_job, project=job.project, wire_id=job.wire_id)
    give_up_trials(organization_id=organization.id)
    give_up_at = time.monotonic() + wait_seconds
    while left := open_work(organization_id=organization.id):
        if time.monotonic() >= give_up_at:
            raise HoneError("conflict", f"The keys are revoked and the work cancelled, not all has ended: {left}")
        time.sleep(POLL_SECONDS)


def _unless_ending(cancel: Callable[..., object], *, project: Project, wire_id: str) -> None:
    """Cancel work, unless it ends by itself or waits for the operator: whoever waits for its end sees that."""
    try:
        cancel(project=project, wire_id=wire_id, actor=SYSTEM_ACTOR)
    except HoneError as error:
        if error.code != "conflict":
            raise


def _close(organization: Organization, by: str) -> None:
    """From here on no create commits: each holds the organisation's row and looks at its status."""
    with tenant_scope(organization.id):
        record(
            actor=SYSTEM_ACTOR,
            action="organization.deletion_started",
            subject=organization.wire_id,
            organization_id=organization.id,
            details={"by": by},
        )
    set_organization_status(organization=organization, status=Organization.Status.SUSPENDED, actor=SYSTEM_ACTOR)
    if left := open_work(organization_id=organization.id):
        set_organization_status(organization=organization, status=Organization.Status.ACTIVE, actor=SYSTEM_ACTOR)
        raise HoneError("conflict", f"Work has come in meanwhile, and nothing was removed: {left}")


def _remove_rows(model: type[TenantModel], organization_id: UUID, deletion: Deletion) -> None:
    table = model._meta.db_table
    staying = [
        f"NOT EXISTS (SELECT FROM {other._meta.db_table} r WHERE r.{column} = t.id)"  # names of our own models
        for other in tenant_models()
        if other._meta.db_table in KEPT or other in EMPTIED
        for column, target in references(other)
        if target is model
    ]
    conditions = " AND ".join(["t.organization_id = %s", *staying])
    with tenant_scope(organization_id), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} t WHERE {conditions}", [organization_id])  # noqa: S608
        deletion.removed[table] = cursor.rowcount


def _empty_rows(organization_id: UUID) -> None:
    """Keys and projects that the books refer to stay, and open, name and tell nothing any more."""
    with tenant_scope(organization_id):
        ApiKey.objects.filter(revoked_at=None).update(revoked_at=timezone.now())
        ApiKey.objects.update(
            name=ERASED, digest=b"", scopes=[], allowed_models=None, allowed_ips=None, created_by=None
        )
        ServiceAccount.objects.update(name=ERASED)
        Project.objects.update(name=ERASED, status=Project.Status.ARCHIVED)


def _remove_people(organization_id: UUID, deletion: Deletion) -> None:
    """A person may be a member elsewhere, which only the system role can see. Each with the membership, or neither."""
    table = Membership._meta.db_table
    memberships = Membership.all_tenants.filter(organization_id=organization_id)
    deletion.removed[table] = 0
    for membership_id, user_id in memberships.values_list("id", "user_id"):
        with transaction.atomic(using=SYSTEM):
            # Locked, so that nobody makes them a member of something now.
            user = User.objects.using(SYSTEM).select_for_update().get(id=user_id)
            deletion.removed[table] += Membership.all_tenants.filter(id=membership_id).delete()[0]
            is_needed = (
                user.is_operator
                or Membership.all_tenants.filter(user_id=user.id).exists()
                or ApiKey.all_tenants.filter(created_by_id=user.id).exists()
            )
            if not is_needed:
                delete_user(user=user)
                deletion.people += 1


def _bury(organization: Organization, by: str, deletion: Deletion) -> None:
    with tenant_scope(organization.id), connection.cursor() as cursor:
        Organization.objects.filter(id=organization.id).update(name=ERASED, status=Organization.Status.DELETED)
        record(
            actor=SYSTEM_ACTOR,
            action="organization.deleted",
            subject=organization.wire_id,
            organization_id=organization.id,
            details={"by": by, "removed": deletion.removed, "blobs": deletion.stored.blobs},
        )
        for model in tenant_models():
            table = model._meta.db_table
            if table in KEPT or model in EMPTIED:
                cursor.execute(f"SELECT count(*) FROM {table} WHERE organization_id = %s", [organization.id])  # noqa: S608
                deletion.kept[table] = cursor.fetchone()[0]
