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
from tests.support.server import Server, start_server

if TYPE_CHECKING:
    from pytest_django.plugin import DjangoDbBlocker


# The triggers of the ledger, which come before a change (2 in tgtype), refuse deletions from the owner, too; the
# foreign keys' are internal and stay on.
_EMPTYING = """
WITH guarded AS (
    SELECT DISTINCT tgrelid::regclass::text AS name FROM pg_trigger WHERE NOT tgisinternal AND tgtype & 2 = 2
)
SELECT concat_ws('; ',
    (SELECT string_agg(format('ALTER TABLE %s DISABLE TRIGGER USER', name), '; ') FROM guarded),
    (SELECT string_agg(format('DELETE FROM %I', tablename), '; ') FROM pg_tables
        WHERE schemaname = 'public' AND tablename <> 'django_migrations'),
    (SELECT string_agg(format('ALTER TABLE %s ENABLE TRIGGER USER', name), '; ') FROM guarded)
)
"""


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: "DjangoDbBlocker") -> None:
    """The session's database is fresh (tests.services); bring it to today's schema."""
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


@pytest.fixture
def database(django_db_setup: None, django_db_blocker: "DjangoDbBlocker") -> Iterator[None]:
    """The migrated database, emptied afterwards."""
    yield from _lend_database(django_db_blocker)


@pytest.fixture(scope="module")
def lasting_database(django_db_setup: None, django_db_blocker: "DjangoDbBlocker") -> Iterator[None]:
    """The same for all tests of a file: for those that change nothing."""
    yield from _lend_database(django_db_blocker)


@pytest.fixture(scope="session")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The control plane behind a real socket, on the tests' database and storage, kept for the session."""
    with start_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def cast(database: None) -> Cast:
    """Alice owns, Charlie is a stranger in another organisation."""
    return make_cast()


def _lend_database(blocker: "DjangoDbBlocker") -> Iterator[None]:
    with blocker.unblock():
        yield
        for alias in ("default", "system"):
            connections[alias].close_if_unusable_or_obsolete()  # also one with a transaction left open
        with connections[OWNER].cursor() as cursor:
            cursor.execute(_EMPTYING)
            (statements,) = cursor.fetchone()
            # One transaction, at whose end the foreign keys are checked; on few rows far faster than TRUNCATE.
            cursor.execute(f"BEGIN; {statements}; COMMIT")
