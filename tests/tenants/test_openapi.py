"""The published schema: what stands in it, and that answers are held to it."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from django.core.management import call_command
from django.test import Client
from drf_spectacular.plumbing import ComponentRegistry

from common.errors import CODES, DATA_CODES, JOB_CODES, REQUEST_CODES, ROW_CODES
from common.shapes import Shape, array, boolean, text
from tenants.openapi import ContractSchema
from tenants.permissions import ADMIN, OPERATIONS
from tests.support.cast import Cast
from tests.support.contract import hold_to_schema, schema
from tests.support.everything import Everything
from tests.support.routes import person_operations, public_operations
from tests.tenants.test_isolation import ids_of

SCHEMA = "/v1/openapi.json"
OPEN_ENDED = {"AuditLog", "FileReport"}
"""Objects whose members are not all known by name."""


def documented() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """By operation: method, path and the operation object."""
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in schema()["paths"].items()
        for method, operation in methods.items()
    }


def parameters_of(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {parameter["name"]: parameter for parameter in operation["parameters"] if "name" in parameter}


def references(value: Any) -> Iterator[str]:
    """All that a part of the schema refers to."""
    if isinstance(value, dict):
        yield from (entry for name, entry in value.items() if name == "$ref")
        for entry in value.values():
            yield from references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from references(entry)


LIMITED = [name for name in OPERATIONS if "limit" in parameters_of(documented()[name][2])]


def test_it_is_valid_and_raises_no_warning() -> None:
    call_command("spectacular", validate=True, fail_on_warn=True, file="/dev/null")


def test_it_is_for_everybody_and_for_who_has_it_already_not_sent_again() -> None:
    answer = Client().get(SCHEMA)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert orjson.loads(answer.content) == schema()
    again = Client().get(SCHEMA, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    assert Client().get(SCHEMA, headers={"If-None-Match": '"another"'}).status_code == 200
    refused = Client().post(SCHEMA)
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")


def test_it_has_every_route_for_customers_and_no_other() -> None:
    routes = {
        name: (method, re.sub(r"<\w+:(\w+)>", r"{\1}", path))
        for method, path, name in [*public_operations(), *person_operations()]
    }
    assert {name: (method, path) for name, (method, path, _) in documented().items()} == routes


def test_every_operation_names_the_keys_and_the_scope_of_the_permission_table() -> None:
    for name, permission in OPERATIONS.items():
        operation = documented()[name][2]
        scopes = [permission.scope] if permission.scope else []
        kinds = {"project": ["projectKey"], "admin": ["adminKey"], None: ["projectKey", "adminKey"]}[
            permission.key_kind
        ]
        assert operation["security"] == [{kind: scopes} for kind in [*kinds, "session"]]
        assert all(f"`{scope}`" in operation["description"] for scope in scopes)
    for _, _, name in person_operations():
        assert documented()[name][2]["security"] == [{"session": []}]


def test_roles_are_named_that_hold_the_scope() -> None:
    assert "Roles that have it: owner, admin, billing, viewer." in documented()["balance.retrieve"][2]["description"]
    assert "For every key and every member." in documented()["whoami.retrieve"][2]["description"]


def test_every_component_is_used_and_every_reference_leads_somewhere() -> None:
    used = {reference.removeprefix("#/components/") for reference in references(schema())}
    kinds = set(schema()["components"]) - {"securitySchemes"}
    assert used == {f"{kind}/{name}" for kind in kinds for name in schema()["components"][kind]}
    schemes = {name for _, _, operation in documented().values() for entry in operation["security"] for name in entry}
    assert schemes == set(schema()["components"]["securitySchemes"])


def test_objects_hold_what_is_said_and_nothing_else() -> None:
    components = schema()["components"]["schemas"]
    objects = {name for name, component in components.items() if component["type"] == "object"}
    assert len(objects) > 100
    assert {name for name in objects if components[name]["additionalProperties"] is not False} == OPEN_ENDED


def test_every_published_code_stands_in_the_table_and_is_one_of_ours() -> None:
    description = schema()["info"]["description"]
    table = set(re.findall(r"^\| `(\w+)` \|", description, re.MULTILINE))
    assert table == REQUEST_CODES.keys() | ROW_CODES.keys() | DATA_CODES.keys() | JOB_CODES.keys()
    responses = schema()["components"]["responses"]
    for name, response in responses.items():
        status, *codes = name.split(".")
        assert {CODES[code].status for code in codes} == {int(status)}
        assert ("x-should-retry" in response["headers"]) == (int(status) in (409, 429) or int(status) >= 500)


@pytest.mark.parametrize("name", LIMITED)
def test_pages_are_as_large_as_the_schema_says(cast: Cast, everything: Everything, name: str) -> None:
    _, path, operation = documented()[name]
    route = next(path for _, path, operation in public_operations() if operation == name)
    parameters = parameters_of(operation)
    most = parameters["limit"]["schema"]["maximum"]
    clients = {True: cast.alice.admin, False: cast.alice.client}
    client = clients[OPERATIONS[name].key_kind == ADMIN]
    target = path.format(**ids_of(everything, route))
    query = {"bucket_width": parameters["bucket_width"]["schema"]["enum"][0]} if "bucket_width" in parameters else {}
    needed = {"start_time": "1795592785"} if "start_time" in parameters else {}
    answers = [client.get(target, data={**query, **needed, "limit": limit}) for limit in (most, most + 1)]
    assert [answer.status_code for answer in answers] == [200, 400]


def test_two_shapes_of_one_name_are_a_mistake() -> None:
    view = ContractSchema()
    view.registry = ComponentRegistry()
    one, other = (Shape(name="Thing", about="A thing.", fields={"member": member}) for member in (text(), boolean()))
    for mistake in ({"anyOf": [one, other]}, array(other)):
        view._resolved(one)
        with pytest.raises(ValueError, match="called Thing"):
            view._resolved(mistake)


def test_an_answer_that_breaks_the_schema_is_noticed(cast: Cast) -> None:
    def broken(path: str, *, status: int = 200, content: bytes | None = None, header: str = "") -> str:
        answer = cast.alice.client.get(path)
        answer.status_code = status
        answer.content = answer.content if content is None else content
        if header:
            del answer.headers[header]
        with pytest.raises(AssertionError) as caught:
            hold_to_schema(answer)
        return str(caught.value)

    models = b'{"object":"list","data":[],"more":1}'
    assert "answers 418, which the schema does not know" in broken("/v1/models", status=418)
    assert "'more' was unexpected" in broken("/v1/models", content=models)
    assert "'data' is a required property" in broken("/v1/models", content=b'{"object":"list"}')
    assert "without the headers" in broken("/v1/models", header="x-request-id")
    assert "'' is not one of" in broken(
        "/v1/files/x", status=404, content=b'{"error":{"message":"","type":"server_error","param":null,"code":""}}'
    )
    answer = Client(headers={"Authorization": f"Bearer {cast.alice.token}"}).get("/v1/models?colour=blue")
    with pytest.raises(AssertionError, match="colour"):
        hold_to_schema(answer)
