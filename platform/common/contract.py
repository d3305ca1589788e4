"""What a method of a view promises: its row in the published schema (:mod:`tenants.openapi` renders it).

Every method of a view below ``/v1`` has a :class:`Contract`. What all routes of a kind have in common is not repeated
there: parameters of the path, headers, who may call, and the errors of authentication and of reading a body.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.http import StrictSerializer
from common.query import MAX_SECONDS, MAX_VALUES
from common.shapes import Schema, Shape, array, boolean, constant, integer, moment, nullable, one_of, text, wire_id


@dataclass(frozen=True, kw_only=True)
class Query:
    """A parameter of the query string. A list is called ``name[]``; of an object the members are ``name[member]``."""

    name: str
    schema: Schema
    about: str
    is_required: bool = False


@dataclass(frozen=True, kw_only=True)
class Form:
    """A multipart body: one file and some short texts."""

    name: str
    about: str
    file_field: str
    fields: Mapping[str, Schema] = field(default_factory=dict)
    optional: Mapping[str, Schema] = field(default_factory=dict)

    def shape(self) -> Shape:
        """The same as an object."""
        file: Schema = {"type": "string", "format": "binary", "description": "The bytes."}
        return Shape(
            name=self.name, about=self.about, fields={self.file_field: file, **self.fields}, optional=self.optional
        )


@dataclass(frozen=True, kw_only=True)
class Content:
    """A successful answer that is not JSON."""

    status: int = 200
    media_type: str = "application/octet-stream"
    about: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name and meaning."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One method of a view."""

    summary: str
    description: str = ""
    query: tuple[Query, ...] = ()
    body: type[StrictSerializer] | Form | None = None
    creates: bool = False
    """Whether it goes through :mod:`tenants.idempotency`."""
    answer: Schema | None = None
    """The JSON of status 200."""
    contents: tuple[Content, ...] = ()
    errors: tuple[str, ...] = ()
    """Codes of :mod:`common.errors` beyond those that routes of this kind have in common."""


def page_query(prefix: str, *, max_limit: int = 100, default_limit: int = 20) -> tuple[Query, ...]:
    """What :func:`common.pagination.page_request` reads."""
    return (
        limit_query(max_limit=max_limit, default_limit=default_limit),
        cursor_query("after", wire_id(prefix)),
        Query(name="order", schema=one_of(["asc", "desc"]), about="By time of creation; `desc` unless it is given."),
    )


def two_way_query(cursor: Schema, *, max_limit: int = 100, default_limit: int = 20) -> tuple[Query, ...]:
    """What :func:`common.pagination.two_way_page_request` reads."""
    return (
        limit_query(max_limit=max_limit, default_limit=default_limit),
        cursor_query("after", cursor),
        Query(name="before", schema=cursor, about="The `first_id` of a page: the page before it. Not with `after`."),
    )


def limit_query(*, max_limit: int, default_limit: int) -> Query:
    """The greatest number of items of a page."""
    about = f"At most so many items; {default_limit} unless it is given."
    return Query(name="limit", schema=integer(least=1, most=max_limit), about=about)


def cursor_query(name: str, schema: Schema) -> Query:
    """Where the page before ended."""
    return Query(name=name, schema=schema, about="The `last_id` of a page: the page after it.")


def list_query(name: str, about: str, *, items: Schema | None = None) -> Query:
    """What :func:`common.query.texts` reads, or :func:`common.query.choices`."""
    return Query(name=f"{name}[]", schema=array(items or text(pattern=r"^[^\x00]*$"), most=MAX_VALUES), about=about)


def span_query(widths: Mapping[str, tuple[int, int]]) -> tuple[Query, ...]:
    """What :func:`metering.buckets.read_span` reads; by width of a bucket how many a page has, and at most."""
    greatest = max(most for _, most in widths.values())
    limits = ", ".join(f"{usual} and {most} of `{width}`" for width, (usual, most) in widths.items())
    return (
        Query(name="start_time", schema=_second(), about="From this moment on.", is_required=True),
        Query(name="end_time", schema=_second(), about="Until just before this moment; now unless it is given."),
        Query(name="bucket_width", schema=one_of(widths), about="How long a bucket is; `1d` unless it is given."),
        Query(
            name="limit",
            schema=integer(least=1, most=greatest),
            about=f"Buckets, usually and at most: {limits}.",
        ),
        Query(name="page", schema=text(pattern=r"^page_\d{1,12}_\d{1,12}$"), about="The `next_page` of a page."),
    )


def listing(item: Shape, cursor: Schema | None = None) -> Shape:
    """A page whose next one is asked for with ``after=<last_id>``: the first two styles of the SDK."""
    end = nullable(cursor or item.fields["id"])
    fields = {
        "object": constant("list"),
        "data": array(item),
        "first_id": end,
        "last_id": end,
        "has_more": boolean("Whether there is a page after this one, in the direction that was asked for."),
    }
    return Shape(name=f"{item.name}List", about="One page.", fields=fields)


def next_listing(item: Shape) -> Shape:
    """A page that names the cursor of the next one: the third style."""
    fields = {
        "object": constant("list"),
        "data": array(item),
        "has_more": boolean(),
        "next": nullable(text("What to send as `after` for the next page.")),
    }
    return Shape(name=f"{item.name}List", about="One page.", fields=fields)


def bucket_listing(result: Shape) -> Shape:
    """A page of buckets of time: the fourth style."""
    bucket = Shape(
        name=f"{result.name}Bucket",
        about="What was counted from `start_time` until just before `end_time`.",
        fields={
            "object": constant("bucket"),
            "start_time": moment(),
            "end_time": moment(),
            "results": array(result, "One for each group that there was something of."),
        },
    )
    fields = {
        "object": constant("page"),
        "data": array(bucket),
        "has_more": boolean(),
        "next_page": nullable(text("What to send as `page` for the next page.")),
    }
    return Shape(name=f"{result.name}Page", about="One page.", fields=fields)


def whole_list(item: Schema, *, name: str) -> Shape:
    """Everything at once: the fifth style."""
    return Shape(name=name, about="All of them.", fields={"object": constant("list"), "data": array(item)})


def _second() -> Schema:
    return integer(least=0, most=MAX_SECONDS)
