"""Every route of the control plane, read from Django's resolver."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from tenants.access import HoneAPIView, PersonAPIView, TenantAPIView

PUBLIC = "v1/"
OPEN = {"v1/openapi.json", "docs", "docs/<str:name>"}
"""For everybody, about nobody."""


@dataclass(frozen=True)
class Route:
    """A path with ``<str:name>`` converters, and what answers it."""

    path: str
    view: Any
    parameters: tuple[str, ...]

    @property
    def view_class(self) -> Any:
        """The class behind ``as_view()``; None for a plain function."""
        return getattr(self.view, "cls", None)


def all_routes() -> list[Route]:
    """Walk the resolver."""
    return list(_walk(get_resolver().url_patterns, ""))


def public_routes() -> list[Route]:
    """Those below ``/v1`` that are about somebody."""
    return [route for route in all_routes() if route.path.startswith(PUBLIC) and route.path not in OPEN]


def public_operations() -> list[tuple[str, str, str]]:
    """``(method, path, operation)`` of every public route that is about a tenant."""
    return _operations(TenantAPIView)


def person_operations() -> list[tuple[str, str, str]]:
    """Those of every public route for people, members of something or not."""
    return _operations(PersonAPIView)


def _operations(kind: type[HoneAPIView]) -> list[tuple[str, str, str]]:
    return [
        (method, f"/{route.path}", operation)
        for route in public_routes()
        if issubclass(route.view_class, kind)
        for method, operation in route.view_class.operations.items()
    ]


def _walk(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[Route]:
    for entry in patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _walk(entry.url_patterns, path)
        else:
            yield Route(path, entry.callback, tuple(entry.pattern.converters))
