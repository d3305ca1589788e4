"""Organisations and what hangs on them; the base of every tenant model."""

from typing import Any, ClassVar, Self, TypeVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from common.database import SYSTEM
from common.ids import to_wire, uuid7
from tenants.scope import current_organization

M = TypeVar("M", bound=models.Model)


class TenantManager(models.Manager[M]):
    """Rows of the scope's organisation; raises where no scope is active."""

    def get_queryset(self) -> models.QuerySet[M]:
        """Filtered twice: here, and by the database's policy."""
        return super().get_queryset().filter(organization_id=current_organization())


class AllTenantsManager(models.Manager[M]):
    """The visible escape: rows of every tenant, through the role ``hone_system``. Say why where you use it."""

    def get_queryset(self) -> models.QuerySet[M]:
        """Unfiltered, on the system role's connection."""
        return super().get_queryset().using(SYSTEM)


class WireModel(models.Model):
    """A model with a time-ordered, unguessable id and a prefix that shows its kind on the wire."""

    ID_PREFIX: ClassVar[str]

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)

    class Meta:
        abstract = True

    @property
    def wire_id(self) -> str:
        """The id as customers see it."""
        return to_wire(self.ID_PREFIX, self.id)


class Organization(WireModel):
    """A customer: owns everything else."""

    ID_PREFIX = "org_"

    class Status(models.TextChoices):
        """A suspended organisation keeps its data and can do nothing with it; of a deleted one the books are left."""

        ACTIVE = "active"
        SUSPENDED = "suspended"
        DELETED = "deleted"

    name = models.CharField(max_length=200)
    status = models.CharField(max_length=16, choices=Status, default=Status.ACTIVE)
    weight = models.PositiveIntegerField(default=1)
    """Share of the fleet, relative to other organisations that have work waiting."""
    created_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[models.Manager[Self]] = models.Manager()
    all_tenants: ClassVar[AllTenantsManager[Self]] = AllTenantsManager()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(weight__gte=1), name="organization_weight_positive"),
        ]

    def __str__(self) -> str:
        return self.name


class TenantModel(models.Model):
    """Base of everything that belongs to an organisation."""

    # No index of its own: every tenant table has a unique key that begins with the organisation.
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+", db_index=False)

    objects: ClassVar[TenantManager[Self]] = TenantManager()
    all_tenants: ClassVar[AllTenantsManager[Self]] = AllTenantsManager()

    class Meta:
        abstract = True


def tenant_key(to: Any, **options: Any) -> Any:
    """A foreign key to another tenant model; :mod:`tenants.rls` makes it one on (organisation, id) in the database."""
    return models.ForeignKey(
        to, **{"on_delete": models.PROTECT, "related_name": "+", "db_constraint": False, **options}
    )


class Project(WireModel, TenantModel):
    """Groups keys, files, jobs and limits inside an organisation."""

    ID_PREFIX = "proj_"

    class Status(models.TextChoices):
        """An archived project is read by nobody and cannot be revived."""

        ACTIVE = "active"
        ARCHIVED = "archived"

    name = models.CharField(max_length=200)
    status = models.CharField(max_length=16, choices=Status, default=Status.ACTIVE)
    created_at = models.DateTimeField(default=timezone.now)
    archived_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    """What a member may do; :mod:`tenants.permissions` says which operations that is."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


class Membership(WireModel, TenantModel):
    """A user's role in an organisation."""

    ID_PREFIX = "member_"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    role = models.CharField(max_length=16, choices=Role)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "user"], name="membership_once_per_user"),
        ]


class ProjectRole(models.TextChoices):
    """What a member may do in one project, whatever the role in the organisation grants."""

    OWNER = "owner"
    MEMBER = "member"


class ProjectMembership(WireModel, TenantModel):
    """A member of the organisation who takes part in a project."""

    ID_PREFIX = "projmember_"

    project = tenant_key(Project)
    # The membership, not the user: nobody is left in a project who has left the organisation.
    membership = tenant_key(Membership)
    role = models.CharField(max_length=16, choices=ProjectRole)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "membership"], name="project_membership_once"),
        ]


class Invite(WireModel, TenantModel):
    """An invitation of an e-mail address; its token is derived (:mod:`tenants.invites`) and stored nowhere."""

    ID_PREFIX = "invite-"

    email = models.EmailField()
    """In lower case, as users have it."""
    role = models.CharField(max_length=16, choices=Role)
    projects = models.JSONField(default=list)
    """``{"id": wire id, "role": ProjectRole}`` of the projects that come with it."""
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "email"], condition=models.Q(accepted_at=None), name="invite_pending_once"
            ),
        ]


class ServiceAccount(WireModel, TenantModel):
    """An owner of keys that is nobody in particular: its keys stay when people leave."""

    ID_PREFIX = "svc_acct_"

    class Role(models.TextChoices):
        """OpenAI's words. Keys carry their own scopes; an account without a role was made without a key."""

        OWNER = "owner"
        MEMBER = "member"
        NONE = "none"

    project = tenant_key(Project)
    name = models.CharField(max_length=200)
    role = models.CharField(max_length=16, choices=Role)
    created_at = models.DateTimeField(db_default=Now())
    deleted_at = models.DateTimeField(null=True)
    """The row stays: usage refers to its keys."""


class ApiKey(WireModel, TenantModel):
    """A key of a project (``hone_sk_``) or of the organisation's administration (``hone_ak_``).

    Of the secret only a digest is stored, keyed with the installation's pepper; it is shown once. A *session* key has
    none and opens nothing: what a signed-in member does is booked under it (:func:`tenants.services.session_key`).
    """

    ID_PREFIX = "key_"

    class Kind(models.TextChoices):
        """Which half of the API a key opens; neither does the other's work. A session key is no credential at all."""

        PROJECT = "project"
        ADMIN = "admin"
        SESSION = "session"

        @property
        def token_prefix(self) -> str:
            """How tokens of this kind begin; only credentials have tokens."""
            return {"project": "hone_sk_", "admin": "hone_ak_"}[self.value]

    kind = models.CharField(max_length=16, choices=Kind)
    project = tenant_key(Project, null=True)
    name = models.CharField(max_length=200)
    public_id = models.CharField(max_length=32, unique=True)
    digest = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=64))
    allowed_models = ArrayField(models.CharField(max_length=200), null=True)
    """Models the key may use; null is all that the organisation may."""
    allowed_ips = ArrayField(models.CharField(max_length=43), null=True)
    """Networks the key may be used from, in CIDR notation; null is anywhere."""
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    """The person who owns it; a key without one and without a service account is the operator's work."""
    service_account = tenant_key(ServiceAccount, null=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    rotated_at = models.DateTimeField(null=True)
    """Since when another key with the same rights stands ready to replace it."""
    last_used_at = models.DateTimeField(null=True)
    """To the minute, written behind the requests."""

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(kind="project", project__isnull=False)
                | models.Q(kind="admin", project__isnull=True)
                | models.Q(kind="session", digest=b""),
                name="key_kind_matches_project",
            ),
        ]

    @property
    def actor(self) -> str:
        """How audit rows name whoever acts under the key: by its own id, or the person's whose session it is."""
        if self.kind == self.Kind.SESSION and self.created_by_id is not None:
            return to_wire(User.ID_PREFIX, self.created_by_id)
        return self.wire_id


class AuditEvent(WireModel, TenantModel):
    """Who changed what, written in the transaction of the change. Append-only, by the database's rights."""

    ID_PREFIX = "audit_log-"

    actor = models.CharField(max_length=80)
    """Wire id of a key or user, or ``system``."""
    action = models.CharField(max_length=80)
    subject = models.CharField(max_length=80)
    """Wire id of what was changed."""
    project = models.CharField(max_length=80, blank=True)
    """Wire id of the project in which it was; empty for what concerns the organisation."""
    details = models.JSONField(default=dict)
    request_id = models.CharField(max_length=80, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["organization", "id"], name="audit_by_organization")]


class IdempotencyRecord(TenantModel):
    """Which object a create has made, so that its repetition gets the same one (:mod:`tenants.idempotency`)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    api_key = tenant_key(ApiKey, db_index=False)
    key_digest = models.BinaryField(max_length=32, null=True)
    fingerprint = models.BinaryField(max_length=32)
    is_retry = models.BooleanField()
    """Whether the try that made the object called itself a retry."""
    object_id = models.CharField(max_length=80)
    """Wire id of the object."""
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["api_key", "key_digest"], name="idempotency_key_once"),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["api_key", "fingerprint", "created_at"],
                condition=models.Q(key_digest=None),
                name="idempotency_by_fingerprint",
            ),
            models.Index(fields=["created_at"], name="idempotency_by_age"),
        ]
