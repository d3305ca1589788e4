"""The scope of one organisation: inside it tenant models work, outside they refuse.

First wall: the managers of :class:`tenants.models.TenantModel` filter by the scope and raise without one.
Second wall: PostgreSQL's row-level security compares every row with the transaction's ``hone.org``
(:mod:`tenants.rls`), so that even raw SQL without a scope sees nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from django.db import connection, transaction
from structlog.contextvars import bound_contextvars

_organization: ContextVar[UUID | None] = ContextVar("tenant_scope", default=None)


class TenantScopeError(RuntimeError):
    """Tenant data was touched outside of any scope, or one tenant's scope was opened inside another's: a bug."""


def current_organization() -> UUID:
    """The organisation of the scope we are in."""
    organization_id = _organization.get()
    if organization_id is None:
        raise TenantScopeError("no tenant scope is active: wrap the call in tenant_scope(organization_id)")
    return organization_id


@contextmanager
def tenant_scope(organization_id: UUID, *, is_snapshot: bool = False) -> Iterator[None]:
    """Open one short transaction in which ``organization_id`` is the tenant.

    A scope inside a scope of the same organisation joins its transaction. Do not hold it over network calls
    or over the streaming of a body: leave it and enter again. ``is_snapshot`` is for an export: all reads see the
    same moment, and nothing can be written; not for a scope inside another.
    """
    active = _organization.get()
    if active == organization_id and not is_snapshot:
        yield
        return
    if active is not None:
        raise TenantScopeError(f"scope of {organization_id} opened inside the scope of {active}")
    # Durable: inside a transaction that is open already the setting would outlive the scope.
    with transaction.atomic(durable=True), bound_contextvars(organization_id=str(organization_id)):
        with connection.cursor() as cursor:
            if is_snapshot:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # Local to the transaction: a pooled connection never carries a tenant over.
            cursor.execute("SELECT set_config('hone.org', %s, true)", [str(organization_id)])
        token = _organization.set(organization_id)
        try:
            yield
        finally:
            _organization.reset(token)
