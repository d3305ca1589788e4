"""HTTP as this API speaks it, below every view: JSON in and out, errors in OpenAI's shape."""

import sys
from typing import Any, ClassVar

import orjson
import structlog
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from common.errors import HoneError

logger = structlog.get_logger(__name__)

MAX_JSON_BYTES = 8 * 1024 * 1024


class JSONParser(BaseParser):
    """Strict JSON: UTF-8, no NaN, bounded size; always an object. An empty body is an empty object."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        """Read the whole body."""
        try:
            body = stream.read(MAX_JSON_BYTES + 1)
        except OSError as error:
            raise HoneError("invalid_request", "The body was cut off") from error
        if len(body) > MAX_JSON_BYTES:
            raise HoneError("request_too_large", f"The body may hold at most {MAX_JSON_BYTES} bytes")
        try:
            value = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise HoneError("invalid_json", f"The body is not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise HoneError("invalid_json", "The body must be a JSON object")
        return value


class JSONRenderer(BaseRenderer):
    """orjson, without the browsable API."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        """Bytes of the body; an empty one for None (204)."""
        return b"" if data is None else orjson.dumps(data)


class AnyAccept(BaseContentNegotiation):
    """The SDK sends ``Accept: application/binary`` to routes that may answer with a JSON error: answer anyway."""

    def select_parser(self, request: Request, parsers: list[BaseParser]) -> BaseParser | None:  # type: ignore[override]
        """The parser whose media type the request names; JSON when it names none."""
        content_type = (request.content_type or "application/json").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == content_type), None)

    def select_renderer(  # type: ignore[override]
        self, request: Request, renderers: list[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """The first renderer, whatever the client accepts."""
        return renderers[0], renderers[0].media_type or ""


class AnyLengthRequest(Request):
    """DRF takes a request without Content-Length for one without a body; a chunked one has a body nevertheless."""

    def _load_stream(self) -> None:
        if self.META.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" not in self.META:
            super()._load_stream()  # type: ignore[misc]  # missing in the stubs
        else:
            self._stream = self.META["wsgi.input"]


class StrictSerializer(Serializer[Any]):
    """A serializer that refuses what it does not know, as OpenAI does: a typing error never passes silently."""

    UNKNOWN: ClassVar[str] = "Unknown parameter: '{name}'."

    def to_internal_value(self, data: Any) -> Any:
        """Validate, unknown members included."""
        if isinstance(data, dict):
            for name in data:
                if name not in self.fields:
                    raise exceptions.ValidationError(
                        {name: [exceptions.ErrorDetail(self.UNKNOWN.format(name=name), code="unknown_parameter")]}
                    )
        return super().to_internal_value(data)


class NoParametersSerializer(StrictSerializer):
    """A body that may hold nothing."""


def parsed(serializer: type[StrictSerializer], request: Request) -> dict[str, Any]:
    """The validated body of a request."""
    instance = serializer(data=request.data)
    instance.is_valid(raise_exception=True)
    return dict(instance.validated_data)


def error_response(error: HoneError) -> HttpResponse:
    """An error outside of any DRF view."""
    return HttpResponse(
        orjson.dumps(error.body()),
        status=error.kind.status,
        headers=error.headers(),
        content_type="application/json",
    )


def render_exception(exception: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: every exception of a view becomes an error of ours; None lets a bug reach :func:`internal_error`."""
    error = _translate(exception, context)
    if error is None:
        return None
    return Response(error.body(), status=error.kind.status, headers=error.headers())


def unknown_url(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """handler404."""
    return error_response(HoneError("unknown_url", f"Unknown request URL: {request.method} {request.path}"))


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """handler400."""
    return error_response(HoneError("invalid_request", "The request is malformed"))


def internal_error(request: HttpRequest) -> HttpResponse:
    """handler500, called while the exception is being handled."""
    logger.error("a bug: the request failed", method=request.method, path=request.path, exc_info=sys.exc_info())
    return error_response(HoneError("internal_error", "The server had an error; quote the x-request-id header"))


def _translate(exception: Exception, context: dict[str, Any]) -> HoneError | None:
    match exception:
        case HoneError():
            return exception
        case exceptions.ValidationError():
            return _validation_error(exception)
        case exceptions.MethodNotAllowed():
            method = context["request"].method
            return HoneError("method_not_allowed", f"This route does not take {method}")
        case exceptions.UnsupportedMediaType():
            return HoneError("unsupported_media_type", str(exception.detail))
        case exceptions.ParseError():
            return HoneError("invalid_request", str(exception.detail))
        case Http404() | exceptions.NotFound():
            return HoneError("not_found", "No such object")
        case OperationalError() | InterfaceError():
            logger.warning("database unavailable", error=type(exception).__name__)
            return HoneError("service_unavailable", "The service is away for a moment; try again", retry_after=2)
    return None


_VALIDATION_CODES = {
    "required": "missing_required_parameter",
    "null": "invalid_type",
    "not_a_list": "invalid_type",
    "not_a_dict": "invalid_type",
    "unknown_parameter": "unknown_parameter",
}


def _validation_error(exception: exceptions.ValidationError) -> HoneError:
    """The first complaint, with the path of the parameter it is about."""
    path: list[str] = []
    detail: Any = exception.detail
    while isinstance(detail, (dict, list)) and detail:
        if isinstance(detail, dict):
            name = next(iter(detail))
            if name != "non_field_errors":
                path.append(str(name))
            detail = detail[name]
        else:
            detail = detail[0]
    code = _VALIDATION_CODES.get(getattr(detail, "code", ""), "invalid_value")
    param = ".".join(path) or None
    if code == "missing_required_parameter":
        message = f"Missing required parameter: '{param}'."
    elif code == "unknown_parameter":
        message = str(detail)
    else:
        message = f"Invalid value for '{param}': {detail}" if param else str(detail)
    return HoneError(code, message, param=param)
