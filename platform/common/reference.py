"""``/docs``: the published schema for people to read, without anything from another server.

The page is Redoc as the package ``drf-spectacular-sidecar`` ships it. It runs no script but that and ours, and what it
asks of other servers (its maker's logo) the browser refuses.
"""

from functools import cache
from importlib.metadata import version
from pathlib import Path

import drf_spectacular_sidecar
from django.http import HttpRequest, HttpResponse

from common.errors import HoneError
from common.http import error_response

_REDOC = Path(drf_spectacular_sidecar.__file__).parent.joinpath(
    "static", "drf_spectacular_sidecar", "redoc", "bundles", "redoc.standalone.js"
)
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hone: API reference</title>
</head>
<body>
<main id="reference"><a href="/v1/openapi.json">The schema</a></main>
<script src="/docs/redoc.js?{version("drf-spectacular-sidecar")}"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """const options = {
  expandResponses: "200",
  nativeScrollbars: true,
  theme: {
    rightPanel: { width: "32%" },
    sidebar: { width: "230px" },
    spacing: { sectionVertical: 16 },
    typography: { code: { fontSize: "12px" } },
  },
};
Redoc.init("/v1/openapi.json", options, document.getElementById("reference"));
"""
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'unsafe-inline'",  # Redoc writes its styles into the page
        "img-src data:",
        "connect-src 'self'",
        "worker-src blob:",  # its search
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
    if name == "redoc.js":
        kept = {"Cache-Control": "public, max-age=31536000, immutable"}
        return HttpResponse(_redoc(), content_type="text/javascript", headers=kept)
    return error_response(HoneError("unknown_url", f"Unknown request URL: {request.method} {request.path}"))


@cache
def _redoc() -> bytes:
    return _REDOC.read_bytes()
