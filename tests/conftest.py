"""Fixtures for everything that needs the control plane.

Tests connect as the application role and commit for real: a superuser, or a transaction that is rolled back,
would prove nothing about isolation. After each test the owner empties the tables.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from django.core.management import call_command
from django.db import connections

from common.database import OWNER
from tests.support.cast import Cast, make_cast

if TYPE_CHECKING:
    from pytest_django.plugin import DjangoDbBlocker


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: "DjangoDbBlocker") -> None:
    """The session's database is fresh (tests.services); bring it to today's schema."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


@pytest.fixture
def database(django_db_setup: None, django_db_blocker: "DjangoDbBlocker") -> Iterator[None]:
    """The migrated database, emptied afterwards."""
    with django_db_blocker.unblock():
        yield
        for alias in ("default", "system"):
            connections[alias].close()
        with connections[OWNER].cursor() as cursor:
            cursor.execute(
                "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
                "WHERE schemaname = 'public' AND tablename <> 'django_migrations'"
            )
            (tables,) = cursor.fetchone()
            cursor.execute(f"TRUNCATE {tables} CASCADE")


@pytest.fixture
def cast(database: None) -> Cast:
    """Alice owns, Charlie is a stranger in another organisation."""
    return make_cast()
