"""Every route is in the permission table, or stands here by name."""

import pytest

from fleet.api import WorkerAPIView
from tenants.access import PersonAPIView, TenantAPIView
from tenants.permissions import ALL_SCOPES, OPERATIONS, PERSON_OPERATIONS
from tests.support.routes import all_routes, person_operations, public_operations, public_routes

HEALTH_ROUTES = {"healthz", "readyz"}
INTERNAL_ROUTES = {
    "internal/v1/nodes",
    "internal/v1/nodes/<str:name>",
    "internal/v1/nodes/<str:node_id>/heartbeat",
    "internal/v1/nodes/<str:node_id>/leases",
    "internal/v1/nodes/<str:node_id>/adapters",
    "internal/v1/leases/<str:lease_id>/complete",
    "internal/v1/leases/<str:lease_id>/fail",
    "internal/v1/leases/<str:lease_id>/input",
    "internal/v1/leases/<str:lease_id>/adapter/<str:name>",
    "internal/v1/leases/<str:lease_id>/segments/<int:number>",
    "internal/v1/leases/<str:lease_id>/inputs/<path:name>",
    "internal/v1/leases/<str:lease_id>/artifacts/<path:path>",
    "internal/v1/leases/<str:lease_id>/events",
}
"""For worker nodes: a worker token opens them, and they belong to no tenant."""
PEOPLE_ROUTES = {
    f"_allauth/app/v1/{route}"
    for route in (
        "config",
        "auth/signup",
        "auth/email/verify",
        "auth/email/verify/resend",
        "auth/login",
        "auth/session",
        "auth/sessions",
        "auth/reauthenticate",
        "auth/password/request",
        "auth/password/reset",
        "auth/2fa/authenticate",
        "auth/2fa/reauthenticate",
        "account/password/change",
        "account/authenticators",
        "account/authenticators/totp",
        "account/authenticators/recovery-codes",
    )
}
"""For people who sign up and in: answered by django-allauth, about the caller alone."""

ANY_KEY = {"whoami.retrieve"}
"""Operations that need no scope, of keys of either kind."""

_METHODS = ("get", "post", "put", "patch", "delete")


def test_every_route_that_is_not_public_is_known_by_name() -> None:
    others = {route.path for route in all_routes()} - {route.path for route in public_routes()}
    assert others == HEALTH_ROUTES | INTERNAL_ROUTES | PEOPLE_ROUTES


def test_every_internal_route_takes_a_worker_token() -> None:
    internal = [route for route in all_routes() if route.path in INTERNAL_ROUTES]
    assert [route.path for route in internal if not issubclass(route.view_class, WorkerAPIView)] == []


@pytest.mark.parametrize("route", public_routes(), ids=lambda route: route.path)
def test_every_method_of_a_public_route_has_its_operation(route: object) -> None:
    view = route.view_class  # type: ignore[attr-defined]  # a Route; pytest's ids would hide it from the checker
    assert issubclass(view, (TenantAPIView, PersonAPIView))
    assert set(view.operations) == {method.upper() for method in _METHODS if hasattr(view, method)}


def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    assert sorted(operation for _, _, operation in public_operations()) == sorted(OPERATIONS)
    assert sorted(operation for _, _, operation in person_operations()) == sorted(PERSON_OPERATIONS)


def test_every_scope_reads_or_writes_something() -> None:
    assert {scope.rpartition(".")[2] for scope in ALL_SCOPES} == {"read", "write"}


def test_reading_never_needs_the_right_to_write() -> None:
    reading = {operation for method, _, operation in public_operations() if method == "GET"}
    assert {_kind_of_scope(operation) for operation in reading - ANY_KEY} == {"read"}
    writing = {operation for method, _, operation in public_operations() if method != "GET"}
    assert {_kind_of_scope(operation) for operation in writing} == {"write"}


def test_what_any_key_may_call_is_known_by_name() -> None:
    assert {name for name, permission in OPERATIONS.items() if permission.scope is None} == ANY_KEY
    assert {name for name, permission in OPERATIONS.items() if permission.key_kind is None} == ANY_KEY


def _kind_of_scope(operation: str) -> str:
    return (OPERATIONS[operation].scope or "").rpartition(".")[2]
