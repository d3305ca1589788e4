"""The published schema: OpenAPI 3.1 of everything below ``/v1``, rendered from the contracts of the views.

What a :class:`~common.contract.Contract` leaves out because all routes of a kind have it in common is added here: who
may call (:mod:`tenants.permissions`), headers, parameters of paths, the errors of the edge and of reading a body.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, TypeAlias, cast

import orjson
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from common.contract import Content, Contract, Form, Query
from common.errors import CODES, DATA_CODES, JOB_CODES, REQUEST_CODES, ROW_CODES, is_repeated, markdown_table
from common.http import StrictSerializer
from common.shapes import Schema, Shape, nullable, one_of, resolve, text
from tenants.access import SESSION_HEADER, HoneAPIView, TenantAPIView
from tenants.models import ApiKey
from tenants.permissions import OPERATIONS, ROLE_SCOPES

Json: TypeAlias = dict[str, Any]

ERROR = Shape(
    name="Error",
    about="Why a request was refused.",
    fields={
        "error": Shape(
            name="ErrorDetails",
            about="All four members are always there.",
            fields={
                "message": text("For people: what is wrong, and what to do next."),
                "type": one_of(sorted({kind.type for kind in CODES.values()})),
                "param": nullable(text("The parameter that it is about.")),
                "code": text("For programs: see the table of codes."),
            },
        )
    },
)

_KEY_SCHEMES = {ApiKey.Kind.PROJECT: "projectKey", ApiKey.Kind.ADMIN: "adminKey"}
_SECURITY_SCHEMES = {
    "projectKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "hone_sk_...",
        "description": "A key of a project, for its files, batches and so on.",
    },
    "adminKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "hone_ak_...",
        "description": "A key of an organisation, for its administration.",
    },
    "session": {
        "type": "apiKey",
        "in": "header",
        "name": SESSION_HEADER,
        "description": "Of a person who is signed in; with `OpenAI-Organization` where it is about an organisation, "
        "and with `OpenAI-Project` where it is about a project.",
    },
}
_PARAMETERS = {
    "Organization": {
        "name": "OpenAI-Organization",
        "in": "header",
        "description": "Which organisation it is about: required of a signed-in member; a key's own, where it is sent.",
        "schema": {"type": "string"},
    },
    "Project": {
        "name": "OpenAI-Project",
        "in": "header",
        "description": "Which project it is about: required of a signed-in member; a key's own, where it is sent.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "For 24 hours a repetition with the same key gets what the first try has made.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    },
    "ClientRequestId": {
        "name": "X-Client-Request-Id",
        "in": "header",
        "description": "The caller's own name of the request, for the log; ASCII.",
        "schema": {"type": "string", "maxLength": 512},
    },
    "Range": {
        "name": "Range",
        "in": "header",
        "description": "One range of bytes: `bytes=0-99`.",
        "schema": {"type": "string"},
    },
}
_HEADERS = {
    "RequestId": {"description": "Quote it when you ask for help.", "required": True, "schema": {"type": "string"}},
    "ShouldRetry": {
        "description": "Whether waiting may help; the SDK obeys it.",
        "required": True,
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}
_HEADER_NAMES = {"RequestId": "x-request-id", "ShouldRetry": "x-should-retry"}
_DESCRIPTION = """The OpenAI-compatible API of Hone: the unmodified `openai` SDK works with it.

A key is sent as `Authorization: Bearer`: a project's for what belongs to the project, an organisation's for its
administration below `/v1/organization`. Each operation names the scope that it takes.

People sign up and in below `/_allauth/app/v1`, by the routes of django-allauth. Those are no part of this schema; Hone
describes them in `infra/docs/accounts.md`. With the session token from there, a member may call what the role allows.
The routes of worker nodes, below `/internal`, are no part of it either.

A list has at most `limit` items; `after=<last_id>` asks for the next page. Moments are seconds since 1970 (UTC). What a
request may not hold is refused (`unknown_parameter`).

# Errors

An error is `{"error": {"message", "type", "param", "code"}}`, always with all four members. With a status of 408, 409,
429 or 5xx the header `x-should-retry` says whether waiting may help.

"""

# What routes have in common, by kind.
_OF_ALL = ("invalid_request", "invalid_value", "internal_error", "service_unavailable")
_OF_PEOPLE = ("invalid_session",)
_OF_TENANTS = (
    "missing_required_parameter", "invalid_api_key", "invalid_session", "organization_mismatch",
    "organization_inactive", "ip_not_allowed", "not_found",
)  # fmt: skip
_OF_BODIES = ("missing_required_parameter", "unknown_parameter", "request_too_large", "unsupported_media_type")
_OF_JSON = (*_OF_BODIES, "invalid_json", "invalid_type")
_OF_FORMS = (*_OF_BODIES, "invalid_multipart")
_OF_CREATES = ("idempotency_key_reused", "invalid_json")
_PATHS = {"name": "Name of the model."}
"""What parameters of paths are that are no ids."""


@dataclass(frozen=True)
class Access:
    """Who may call an operation: as security requirements, in words, and how everybody else is refused."""

    security: list[dict[str, list[str]]]
    about: str
    codes: tuple[str, ...]


class ContractSchema(AutoSchema):
    """Renders one method of a view. drf-spectacular finds the routes and describes serializers."""

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> Json:
        """The operation object; the components that it refers to go into ``registry``."""
        self.registry, self.path, self.path_regex, self.path_prefix = registry, path, path_regex, path_prefix
        self.method = method.upper()
        view = cast("HoneAPIView", self.view)
        contract, name = view.contracts[self.method], view.operations[self.method]
        access = access_of(view, name)
        operation: Json = {
            "operationId": name,
            "tags": [name.partition(".")[0].replace("_", " ").capitalize()],
            "summary": contract.summary,
            "description": f"{contract.description}\n\n{access.about}".strip(),
            "security": access.security,
            "parameters": [
                *map(_path_parameter, re.findall(r"{(\w+)}", path)),
                *map(self._query_parameter, contract.query),
                *({"$ref": f"#/components/parameters/{header}"} for header in _headers(view, contract, access)),
            ],
            "responses": self._answers(contract) | self._errors({*access.codes, *_codes(contract)}),
        }
        if contract.body is not None:
            operation["requestBody"] = self._body(contract.body)
        return operation

    def _query_parameter(self, query: Query) -> Json:
        parameter = {
            "name": query.name,
            "in": "query",
            "description": query.about,
            "required": query.is_required,
            "schema": self._resolved(query.schema),
        }
        is_object = not isinstance(query.schema, Shape) and query.schema["type"] == "object"
        return {**parameter, "style": "deepObject", "explode": True} if is_object else parameter

    def _body(self, body: type[StrictSerializer] | Form) -> Json:
        if isinstance(body, Form):
            return {"required": True, "content": {"multipart/form-data": {"schema": self._resolved(body.shape())}}}
        component = self.resolve_serializer(body, "request")
        is_required = bool(component.schema and component.schema.get("required"))
        return {"required": is_required, "content": {"application/json": {"schema": component.ref}}}

    def _answers(self, contract: Contract) -> Json:
        answers = {str(content.status): _binary(content) for content in contract.contents}
        if contract.answer is not None:
            about = contract.answer.about if isinstance(contract.answer, Shape) else "The answer."
            answer = _response(about, self._resolved(contract.answer), ["RequestId"])
            if "200" in answers:  # the same in another format
                answer["content"] |= answers["200"]["content"]
            answers["200"] = answer
        return answers

    def _errors(self, codes: set[str]) -> Json:
        """One answer for each status, of whose codes the error has one."""
        answers = {}
        for status in sorted({CODES[code].status for code in codes}):
            ours = sorted(code for code in codes if CODES[code].status == status)
            component = ResolvedComponent(".".join([str(status), *ours]), ResolvedComponent.RESPONSE, object=ERROR)
            if component not in self.registry:
                narrowed = {"properties": {"error": {"properties": {"code": {"enum": ours}}}}}
                about = "\n".join(f"- `{code}`: {CODES[code].meaning}" for code in ours)
                headers = ["RequestId", "ShouldRetry"] if is_repeated(status) else ["RequestId"]
                component.schema = _response(about, {"allOf": [self._resolved(ERROR), narrowed]}, headers)
                self.registry.register(component)
            answers[str(status)] = component.ref
        return answers

    def _resolved(self, schema: Schema) -> Json:
        """The schema, whose shapes have become components."""
        shapes: dict[str, Shape] = {}
        resolved = resolve(schema, shapes)
        for name, shape in shapes.items():
            component = ResolvedComponent(name, ResolvedComponent.SCHEMA, object=shape)
            if component not in self.registry:
                self.registry.register(component)
                component.schema = self._resolved(shape.schema())
            elif self.registry[component].object != shape:
                raise ValueError(f"two shapes are called {name}")
        return resolved

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> Json:
        schema: Json = super()._map_basic_serializer(serializer, direction)  # type: ignore[no-untyped-call]  # theirs
        if isinstance(serializer, StrictSerializer):
            schema["additionalProperties"] = False
        if serializer.partial:
            schema.pop("required", None)
        schema["description"] = schema["description"].replace("``", "`")
        return schema

    def _map_serializer_field(self, field: Any, *arguments: Any) -> Any:
        schema = super()._map_serializer_field(field, *arguments)  # type: ignore[no-untyped-call]  # theirs
        schema.pop("x-spec-enum-id", None)  # a note of drf-spectacular to itself
        if isinstance(field, serializers.ListField) and not field.allow_empty:
            schema["minItems"] = 1
        return schema


class SchemaView(APIView):
    """``GET /v1/openapi.json``, for everybody."""

    schema = None  # it is not about itself
    http_method_names = ["get", "head"]  # noqa: RUF012  # as DRF declares it

    def get(self, request: Request) -> HttpResponseBase:
        """The schema, or 304 for who has it."""
        body, etag = published()
        headers = {"ETag": etag, "Cache-Control": "public, max-age=300"}
        answer = HttpResponse(body, content_type="application/json", headers=headers)
        return get_conditional_response(request._request, etag=etag, response=answer) or answer


@cache
def published() -> tuple[bytes, str]:
    """The schema as JSON and its ETag. The code alone decides it, so once for each process."""
    body = orjson.dumps(SchemaGenerator().get_schema(request=None, public=True))
    return body, f'"{sha256(body).hexdigest()}"'


def public_endpoints(endpoints: Iterable[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """drf-spectacular's hook before it begins: of all routes those for customers."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith("/v1/")]


def complete(result: Json, **_: Any) -> Json:
    """drf-spectacular's hook at the end: what no single operation has."""
    tables = {
        "Requests": REQUEST_CODES,
        "Rows of a batch": ROW_CODES,
        "Rows of training data": DATA_CODES,
        "Fine-tuning jobs": JOB_CODES,
    }
    result["info"]["description"] = _DESCRIPTION + "\n".join(
        f"## {title}\n\n{markdown_table(codes)}" for title, codes in tables.items()
    )
    result["components"] |= {
        "securitySchemes": _SECURITY_SCHEMES,
        "parameters": _PARAMETERS,
        "headers": _HEADERS,
    }
    result["servers"] = [{"url": "/"}]
    return result


def access_of(view: HoneAPIView, operation: str) -> Access:
    """Who may call an operation of a view."""
    if not isinstance(view, TenantAPIView):
        about = "For whoever is signed in, a member of something or not."
        return Access([{"session": []}], about, (*_OF_ALL, *_OF_PEOPLE))
    permission = OPERATIONS[operation]
    kinds = _KEY_SCHEMES if permission.key_kind is None else [permission.key_kind]
    scopes = [permission.scope] if permission.scope else []
    security = [*({_KEY_SCHEMES[kind]: scopes} for kind in kinds), {"session": scopes}]
    codes = [*_OF_ALL, *_OF_TENANTS]
    if permission.key_kind is not None:
        codes.append("wrong_key_type")
    if permission.scope is None:
        return Access(security, "For every key and every member.", tuple(codes))
    roles = ", ".join(role for role, granted in ROLE_SCOPES.items() if permission.scope in granted)
    about = f"Scope: `{permission.scope}`. Roles that have it: {roles}."
    return Access(security, about, (*codes, "insufficient_scope"))


def _codes(contract: Contract) -> Iterator[str]:
    yield from contract.errors
    if isinstance(contract.body, Form):
        yield from _OF_FORMS
    elif contract.body is not None:
        yield from _OF_JSON
    if contract.creates:
        yield from _OF_CREATES
    if any(query.is_required for query in contract.query):
        yield "missing_required_parameter"


def _headers(view: HoneAPIView, contract: Contract, access: Access) -> Iterator[str]:
    if isinstance(view, TenantAPIView):
        yield "Organization"
        if any("projectKey" in requirement for requirement in access.security):
            yield "Project"
    if contract.creates:
        yield "IdempotencyKey"
    if any(content.status == 206 for content in contract.contents):
        yield "Range"
    yield "ClientRequestId"


def _path_parameter(name: str) -> Json:
    about = _PATHS.get(name, f"Id of the {name.removesuffix('_id').replace('_', ' ')}.")
    schema = {"type": "string", "pattern": "^[^/]+$"}
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


def _response(about: str, schema: Json, headers: list[str]) -> Json:
    return {
        "description": about,
        "headers": {_HEADER_NAMES[name]: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {"application/json": {"schema": schema}},
    }


def _binary(content: Content) -> Json:
    response = _response(content.about, {}, ["RequestId"])
    response["headers"] |= {
        name: {"description": about, "required": True, "schema": {"type": "string"}}
        for name, about in content.headers.items()
    }
    return {**response, "content": {content.media_type: {}}}
