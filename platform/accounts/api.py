"""The edge of django-allauth: each of its views is one transaction of the system role, and takes strict JSON."""

from collections.abc import Callable
from typing import Any

import orjson
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.headless.base.views import APIView
from allauth.headless.constants import Client
from django.contrib.sessions.models import Session
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from accounts.sessions import session_key_of
from common.database import SYSTEM
from common.errors import HoneError
from common.http import error_response

MAX_BODY_BYTES = 64 * 1024

View = Callable[..., HttpResponse]


def person_view(view_class: type[APIView]) -> View:
    """A view of django-allauth for clients that send a session token. Cookies mean nothing to it."""
    view: View = view_class.as_api_view(client=Client.APP)

    @csrf_exempt
    def answer(request: HttpRequest, **parameters: Any) -> HttpResponse:
        try:
            _check_body(request)
            return _in_our_words(request, _run(view, request, parameters))
        except HoneError as error:
            return error_response(error)

    return answer


def _run(view: View, request: HttpRequest, parameters: dict[str, Any]) -> HttpResponse:
    """All or nothing. Talks to nobody but the cache of the throttle, which gives up after a fraction of a second."""
    try:
        with transaction.atomic(using=SYSTEM):
            # One request of a session at a time: its counters of failed attempts would miss those at the same moment.
            key = session_key_of(request.headers.get("X-Session-Token", ""))
            if key is not None:
                Session.objects.select_for_update().filter(session_key=key).first()
            try:
                return view(request, **parameters)
            except ImmediateHttpResponse as answered:
                response: HttpResponse = answered.response
                return response
    except IntegrityError as error:
        raise HoneError("conflict", "Another request has done the same at the same moment; look again") from error
    except (OperationalError, InterfaceError) as error:
        raise HoneError(
            "service_unavailable", "The service is away for a moment; try again", retry_after=2
        ) from error  # fmt: skip


def _check_body(request: HttpRequest) -> None:
    """Forms turn whatever they get into text; here a member is a text, a number, a switch or a list of those."""
    try:
        body = request.body
    except UnreadablePostError as error:
        raise HoneError("invalid_request", "The body was cut off") from error
    if len(body) > MAX_BODY_BYTES:
        raise HoneError("request_too_large", f"The body may hold at most {MAX_BODY_BYTES} bytes")
    if not body:
        return
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HoneError("invalid_json", f"The body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise HoneError("invalid_json", "The body must be a JSON object")
    for name, value in fields.items():
        if not all(isinstance(item, str | int | float) for item in (value if isinstance(value, list) else [value])):
            raise HoneError("invalid_type", f"Invalid value for '{name}': a text was expected", param=name)


def _in_our_words(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """django-allauth's answers are JSON, but for a few without any content."""
    if response.headers.get("Content-Type", "").startswith("application/json"):
        return response
    if response.status_code == 405:
        raise HoneError("method_not_allowed", f"This route does not take {request.method}")
    raise HoneError("invalid_request", "The request is malformed")
