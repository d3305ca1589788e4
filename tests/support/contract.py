"""Every answer is held to the published schema."""

import re
from functools import cache
from typing import Any

import orjson
from django.http import QueryDict
from django.urls import Resolver404, resolve
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from common.errors import REQUEST_CODES
from tenants.openapi import published
from tests.support.routes import OPEN

_URN = "urn:hone"
_ANY_ERROR = f"{_URN}#/components/schemas/Error"


def hold_to_schema(response: Any, sent: Any = None) -> None:
    """Fail unless the schema promises such an answer, a response of Django's test client, to such a request.

    ``sent`` is the JSON of its body, where that is known.
    """
    request = response.request
    path, method = request["PATH_INFO"], request["REQUEST_METHOD"]
    if not path.startswith("/v1/"):
        return
    try:
        route = resolve(path).route
    except Resolver404:
        _hold_error(response, {"unknown_url"})
        return
    if route in OPEN:
        return
    template = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)
    verb = "get" if method == "HEAD" else method.lower()
    operation = schema()["paths"][template].get(verb)
    if operation is None:
        _hold_error(response, set(REQUEST_CODES))
        return
    name, status = f"{method} {template}", str(response.status_code)
    assert status in operation["responses"], (
        f"{name} answers {status}, which the schema does not know: {_body(response)}"
    )
    pointer = "/".join(["paths", template.replace("/", "~1"), verb, "responses", status])
    promised = operation["responses"][status]
    if "$ref" in promised:
        pointer = promised["$ref"].removeprefix("#/")
        promised = schema()["components"]["responses"][pointer.rpartition("/")[2]]
    missing = {header for header in promised["headers"] if header not in response.headers}
    assert not missing, f"{name} answers {status} without the headers {missing}"
    media_type = response.headers.get("content-type", "").partition(";")[0]
    assert media_type in promised["content"], f"{name} answers {status} as {media_type!r}"
    if media_type == "application/json" and method != "HEAD":
        validate(f"{_URN}#/{pointer}/content/application~1json/schema", orjson.loads(response.content), name)
    if response.status_code < 300:
        _hold_query(operation, QueryDict(request.get("QUERY_STRING", "")), name)
        if sent is not None:
            _hold_body(template, verb, sent, name)


@cache
def schema() -> dict[str, Any]:
    """The document."""
    document: dict[str, Any] = orjson.loads(published()[0])
    return document


def validate(reference: str, value: Any, name: str) -> None:
    """Fail unless the value is what the part of the schema at ``reference`` says."""
    error = next(iter(_validator(reference).iter_errors(value)), None)
    assert error is None, f"{name}: {error.json_path}: {error.message}" if error else ""


@cache
def _validator(reference: str) -> Draft202012Validator:
    registry: Any = Registry().with_resource(_URN, DRAFT202012.create_resource(schema()))
    return Draft202012Validator({"$ref": reference}, registry=registry)


def _hold_error(response: Any, codes: set[str]) -> None:
    body = orjson.loads(response.content)
    validate(_ANY_ERROR, body, "an error")
    assert body["error"]["code"] in codes
    assert response.status_code == REQUEST_CODES[body["error"]["code"]].status


def _hold_query(operation: dict[str, Any], sent: QueryDict, name: str) -> None:
    """Whoever is answered has sent what is documented."""
    known = {parameter.get("name") for parameter in operation["parameters"] if parameter.get("in") == "query"}
    unknown = {text for text in sent if text not in known and text.partition("[")[0] not in known}
    assert not unknown, f"{name} takes {unknown}, which the schema does not know"


def _hold_body(template: str, verb: str, sent: Any, name: str) -> None:
    """Whoever is answered has sent what is documented."""
    pointer = "/".join(["paths", template.replace("/", "~1"), verb, "requestBody", "content", "application~1json"])
    validate(f"{_URN}#/{pointer}/schema", sent, f"{name} takes what the schema forbids")


def _body(response: Any) -> str:
    return "" if response.streaming else response.content.decode(errors="replace")[:500]
