"""Lists in OpenAI's shape: newest or oldest first, the next page after the id of the last item.

Ids are time-ordered (:mod:`common.ids`), so the id alone is order and cursor: a page neither repeats nor
skips an item when others come or go.
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
    """Which page: at most ``limit`` items after the item ``after``."""

    limit: int = 20
    after: UUID | None = None
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
    after = None
    if query.get("after"):
        after = from_wire(prefix, query["after"])
        if after is None:
            raise HoneError("invalid_value", f"'after' is not an id of this list: {query['after']}", param="after")
    return PageRequest(limit=limit, after=after, descending=order == "desc")


def page_limit(query: dict[str, str], *, max_limit: int, default_limit: int) -> int:
    """Read ``limit`` from a query string."""
    text = query.get("limit", str(default_limit))
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= max_limit:
        raise HoneError("invalid_value", f"'limit' must be a number from 1 to {max_limit}", param="limit")
    return int(text)


def paginate(rows: QuerySet[Row], request: PageRequest) -> Page[Row]:
    """One page of ``rows``, whose primary key is a time-ordered UUID."""
    if request.after is not None:
        rows = rows.filter(pk__lt=request.after) if request.descending else rows.filter(pk__gt=request.after)
    items = list(rows.order_by("-pk" if request.descending else "pk")[: request.limit + 1])
    return Page(items=items[: request.limit], has_more=len(items) > request.limit)
