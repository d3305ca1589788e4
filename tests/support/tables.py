"""What stands in the tables, whoever it belongs to."""

from functools import cache
from typing import Any
from uuid import UUID

from django.db import connections

from common.database import SYSTEM

_TENANT_TABLES = """
SELECT class.relname, CASE WHEN class.relname = 'tenants_organization' THEN 'id' ELSE 'organization_id' END
FROM pg_class class
WHERE class.relnamespace = 'public'::regnamespace AND class.relkind IN ('r', 'p') AND NOT class.relispartition AND (
    class.relname = 'tenants_organization'
    OR EXISTS (
        SELECT FROM pg_attribute attribute
        WHERE attribute.attrelid = class.oid AND attribute.attname = 'organization_id' AND NOT attribute.attisdropped
    )
)
ORDER BY class.relname
"""


def query(sql: str, *params: Any, using: str = "default") -> list[tuple[Any, ...]]:
    """Raw SQL as a role, outside of every scope."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


@cache
def tenant_tables() -> dict[str, str]:
    """Every table with rows of tenants, with the column that says whose they are, by PostgreSQL's own catalogue."""
    return dict(query(_TENANT_TABLES))


def rows_of(organization_id: UUID) -> dict[str, list[str]]:
    """All that the database holds of an organisation, except when its keys were last used."""
    tables = tenant_tables()
    everything = " UNION ALL ".join(
        f"SELECT '{table}', (to_jsonb(t) - 'last_used_at')::text FROM {table} t WHERE {column} = %s"
        for table, column in tables.items()
    )
    rows: dict[str, list[str]] = {table: [] for table in tables}
    for table, row in query(f"{everything} ORDER BY 1, 2", *[organization_id] * len(tables), using=SYSTEM):
        rows[table].append(row)
    return rows
