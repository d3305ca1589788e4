"""Migration operations that put a table behind the second wall: PostgreSQL's row-level security."""

from django.db.migrations.operations.base import Operation
from django.db.migrations.operations.special import RunSQL

_TENANT = "NULLIF(current_setting('hone.org', true), '')::uuid"
"""The scope's organisation; a pooled connection resets the setting to an empty string, hence NULLIF."""


def protect(
    table: str, *, references: dict[str, str] | None = None, column: str = "organization_id", has_id: bool = True
) -> list[Operation]:
    """Force row-level security on a tenant table and bind its foreign keys to the organisation.

    ``references`` maps columns to the tenant tables they point at. Foreign-key checks bypass policies, so a key
    on the id alone would let one tenant refer to another's row: each becomes a key on (organisation, id), and
    the model declares the field with ``db_constraint=False``. ``has_id=False`` is for a table that nothing refers to.
    """
    operations: list[Operation] = [
        RunSQL(
            f"""
            ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
            ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON {table} TO hone_app
                USING ({column} = {_TENANT}) WITH CHECK ({column} = {_TENANT});
            CREATE POLICY system ON {table} TO hone_system USING (true) WITH CHECK (true);
            """,  # names from our own migrations
            f"""
            DROP POLICY system ON {table};
            DROP POLICY tenant ON {table};
            ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
            ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;
            """,
        )
    ]
    if has_id and column == "organization_id":
        operations.append(
            RunSQL(
                f"ALTER TABLE {table} ADD CONSTRAINT {table}_tenant_key UNIQUE (organization_id, id)",
                f"ALTER TABLE {table} DROP CONSTRAINT {table}_tenant_key",
            )
        )
    return [*operations, *bind(table, references or {})]


def bind(table: str, references: dict[str, str]) -> list[Operation]:
    """Make foreign keys of a protected table (column -> tenant table) keys on (organisation, id)."""
    return [
        RunSQL(
            f"""
            ALTER TABLE {table} ADD CONSTRAINT {table}_{field}_tenant_fk FOREIGN KEY (organization_id, {field})
                REFERENCES {target} (organization_id, id) DEFERRABLE INITIALLY DEFERRED
            """,
            f"ALTER TABLE {table} DROP CONSTRAINT {table}_{field}_tenant_fk",
        )
        for field, target in references.items()
    ]


def read_only_for_tenants(table: str) -> RunSQL:
    """Leave the writing of a table that belongs to no tenant to the system role."""
    return RunSQL(
        f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM hone_app",
        f"GRANT INSERT, UPDATE, DELETE ON {table} TO hone_app",
    )


def append_only(table: str) -> RunSQL:
    """Take the right to change or delete rows from every role but the owner."""
    return RunSQL(
        f"REVOKE UPDATE, DELETE ON {table} FROM hone_app, hone_system",
        f"GRANT UPDATE, DELETE ON {table} TO hone_app, hone_system",
    )
