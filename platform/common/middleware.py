"""One middleware around every request: id, log context, headers, the last net for errors."""

import logging
import time
from collections.abc import Callable
from uuid import uuid4

import structlog
from django.http import HttpRequest, HttpResponse
from structlog.contextvars import bound_contextvars, clear_contextvars

from common.errors import HoneError
from common.http import error_response

logger = structlog.get_logger("hone.access")

OPENAI_VERSION = "2020-10-01"


class RequestMiddleware:
    """Gives the request an id (sent back as ``x-request-id``) and writes one log line about it, without content."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one request."""
        started = time.perf_counter()
        request_id = f"req_{uuid4().hex}"
        request.request_id = request_id  # type: ignore[attr-defined]
        clear_contextvars()  # what an earlier request has left on this thread
        with bound_contextvars(request_id=request_id):
            client_id = request.headers.get("X-Client-Request-Id", "")
            if len(client_id) > 512 or not client_id.isascii():
                response = error_response(
                    HoneError("invalid_value", "X-Client-Request-Id takes at most 512 ASCII characters")
                )
            else:
                response = self.get_response(request)
            milliseconds = round((time.perf_counter() - started) * 1000)
            response["x-request-id"] = request_id
            response["openai-version"] = OPENAI_VERSION
            response["openai-processing-ms"] = str(milliseconds)
            if not response.streaming and response.status_code != 204:
                response["content-length"] = str(len(response.content))
            organization = getattr(request, "organization_wire_id", None)
            if organization:
                response["openai-organization"] = organization
            # Nodes call several times a second: of what they were given the leases tell, here only trouble is news.
            is_routine = request.path.startswith("/internal/") and response.status_code < 400
            logger.log(
                logging.DEBUG if is_routine else logging.INFO,
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                ms=milliseconds,
                organization_id=organization,
                client_request_id=client_id or None,
                retry=request.headers.get("x-stainless-retry-count"),
                sdk=request.headers.get("x-stainless-lang"),
            )
        return response
