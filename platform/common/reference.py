"""``/docs``: the published schema for people to read, without anything from another server.

The page is Swagger UI as the package ``drf-spectacular-sidecar`` ships it. It runs no script but its own and ours.
"""

from functools import cache
from importlib.metadata import version
from pathlib import Path

import drf_spectacular_sidecar
from django.http import HttpRequest, HttpResponse

from common.errors import HoneError
from common.http import error_response

_FOLDER = Path(drf_spectacular_sidecar.__file__).parent / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"
_PACKAGED = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_VERSION = version("drf-spectacular-sidecar")
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hone: API reference</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css?{_VERSION}">
</head>
<body>
<main id="reference"><noscript>The schema: <a href="/v1/openapi.json">/v1/openapi.json</a></noscript></main>
<script src="/docs/swagger-ui-bundle.js?{_VERSION}"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/v1/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  persistAuthorization: false,
  tryItOutEnabled: false,
  validatorUrl: null,
});
"""
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Swagger UI sets widths by attributes
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


def page(request: HttpRequest) -> HttpResponse:
    """The reference."""
    if request.method not in ("GET", "HEAD"):
        return error_response(HoneError("method_not_allowed", f"This route does not take {request.method}"))
    return HttpResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "public, max-age=300"})


def asset(request: HttpRequest, name: str) -> HttpResponse:
    """What the page loads."""
    if request.method not in ("GET", "HEAD"):
        return error_response(HoneError("method_not_allowed", f"This route does not take {request.method}"))
    if name == "start.js":
        return HttpResponse(_START, content_type="text/javascript", headers={"Cache-Control": "public, max-age=300"})
    if name not in _PACKAGED:
        return error_response(HoneError("unknown_url", f"Unknown request URL: {request.method} {request.path}"))
    kept = {"Cache-Control": "public, max-age=31536000, immutable"}
    return HttpResponse(_packaged(name), content_type=_PACKAGED[name], headers=kept)


@cache
def _packaged(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
