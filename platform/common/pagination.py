"""Lists in OpenAI's shape: newest or oldest first, the next page after the id of the last item.

Ids are time-ordered (:mod:`common.ids`), so the id alone is order and cursor: a page neither repeats nor
skips an item when others come or go. Some lists turn backwards as well, with the id of the first item in ``before``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet

from common.errors import HoneError
from common.ids import from_wire

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """Which page: at most ``limit`` items after the item ``after``, or those just before the item ``before``."""

    limit: int = 20
    after: UUID | None = None
    before: UUID | None = None
    descending: bool = True


@dataclass(frozen=True)
class Page(Generic[Item]):
    """One page of a list."""

    items: list[Item]
    has_more: bool

    def render(self, render_item: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
        """The wire object."""
        data = [render_item(item) for item in self.items]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": self.has_more,
        }


def page_request(query: dict[str, str], *, prefix: str, max_limit: int = 100, default_limit: int = 20) -> PageRequest:
    """Read ``limit``, ``after`` and ``order`` from a query string."""
    limit = page_limit(query, max_limit=max_limit, default_limit=default_limit)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise HoneError("invalid_value", "'order' must be 'asc' or 'desc'", param="order")
    return PageRequest(limit=limit, after=_cursor(query, "after", prefix), descending=order == "desc")


def two_way_page_request(query: dict[str, str], *, prefix: str) -> PageRequest:
    """As :func:`page_request`, newest first, for lists that take ``before`` too."""
    after, before = (_cursor(query, name, prefix) for name in ("after", "before"))
    if after and before:
        raise HoneError("invalid_value", "Send either 'after' or 'before'", param="before")
    return PageRequest(limit=page_limit(query, max_limit=100, default_limit=20), after=after, before=before)


def page_limit(query: dict[str, str], *, max_limit: int, default_limit: int) -> int:
    """Read ``limit`` from a query string."""
    text = query.get("limit", str(default_limit))
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= max_limit:
        raise HoneError("invalid_value", f"'limit' must be a number from 1 to {max_limit}", param="limit")
    return int(text)


def paginate(rows: QuerySet[Row], request: PageRequest, *, key: str = "pk") -> Page[Row]:
    """One page of ``rows``; ``key`` names the time-ordered UUID that the items have on the wire."""
    backwards = request.before is not None
    cursor = request.before if backwards else request.after
    takes_older = request.descending != backwards
    if cursor is not None:
        rows = rows.filter(**{f"{key}__{'lt' if takes_older else 'gt'}": cursor})
    items = list(rows.order_by(f"-{key}" if takes_older else key)[: request.limit + 1])
    page = items[: request.limit]
    return Page(items=page[::-1] if backwards else page, has_more=len(items) > request.limit)


def _cursor(query: dict[str, str], name: str, prefix: str) -> UUID | None:
    text = query.get(name)
    if not text:
        return None
    cursor = from_wire(prefix, text)
    if cursor is None:
        raise HoneError("invalid_value", f"'{name}' is not an id of this list: {text}", param=name)
    return cursor
