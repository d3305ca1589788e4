"""The words in which answers are described: JSON Schema (2020-12, the dialect of OpenAPI 3.1), and named objects.

``about`` is what the reference says of a value. A :class:`Shape` may stand wherever a schema does and becomes a
reference to its component.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An object of the API. It holds all of ``fields``, perhaps some of ``optional``, and nothing else."""

    name: str
    about: str
    fields: Mapping[str, "Schema"]
    optional: Mapping[str, "Schema"] = field(default_factory=dict)
    others: "Schema | None" = None
    """What further members are, of an object whose members are not all known by name."""

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema, in which other shapes stand as they are."""
        return {
            "type": "object",
            "description": self.about,
            "properties": {**self.fields, **self.optional},
            "required": sorted(self.fields),
            "additionalProperties": False if self.others is None else self.others,
        }


Schema: TypeAlias = dict[str, Any] | Shape


def text(about: str = "", *, most: int | None = None, pattern: str | None = None) -> dict[str, Any]:
    """A string of at most ``most`` characters."""
    return _rules({"type": "string"}, description=about or None, maxLength=most, pattern=pattern)


def wire_id(prefix: str, about: str = "") -> dict[str, Any]:
    """An id as :func:`common.ids.to_wire` makes it."""
    return text(about, pattern=f"^{prefix}[0-9a-f]{{32}}$")


def integer(about: str = "", *, least: int | None = None, most: int | None = None) -> dict[str, Any]:
    """A whole number."""
    return _rules({"type": "integer"}, description=about or None, minimum=least, maximum=most)


def count(about: str = "") -> dict[str, Any]:
    """A whole number that is not negative."""
    return integer(about, least=0)


def number(about: str = "") -> dict[str, Any]:
    """Any number."""
    return _rules({"type": "number"}, description=about or None)


def dollars(about: str = "In dollars, exact.") -> dict[str, Any]:
    """An amount as :func:`common.money.format_usd` writes it."""
    return text(about, pattern=r"^-?[0-9]+(\.[0-9]{1,9})?$")


def moment(about: str = "") -> dict[str, Any]:
    """A moment in whole seconds since 1970 (UTC)."""
    return _rules({"type": "integer", "format": "unixtime", "minimum": 0}, description=about or None)


def boolean(about: str = "") -> dict[str, Any]:
    """True or false."""
    return _rules({"type": "boolean"}, description=about or None)


def constant(value: str | bool) -> dict[str, Any]:  # the value itself, no switch
    """This value and no other."""
    return {"type": "boolean" if isinstance(value, bool) else "string", "const": value}


def one_of(values: Iterable[str], about: str = "") -> dict[str, Any]:
    """One of these texts."""
    return _rules({"type": "string", "enum": [str(value) for value in values]}, description=about or None)


def array(items: Schema, about: str = "", *, most: int | None = None) -> dict[str, Any]:
    """A list."""
    return _rules({"type": "array", "items": items}, description=about or None, maxItems=most)


def mapping(values: Schema, about: str = "") -> dict[str, Any]:
    """An object whose members have names of somebody else's."""
    return _rules({"type": "object", "additionalProperties": values}, description=about or None)


def anything(about: str) -> dict[str, Any]:
    """Any JSON object."""
    return {"type": "object", "additionalProperties": True, "description": about}


def nullable(schema: Schema) -> dict[str, Any]:
    """The same, or null."""
    if isinstance(schema, Shape) or "const" in schema or not isinstance(schema.get("type"), str):
        return {"anyOf": [schema, {"type": "null"}]}
    widened = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        widened["enum"] = [*schema["enum"], None]
    return widened


def deleted(kind: str, prefix: str, *, name: str) -> Shape:
    """What answers a deletion."""
    fields = {"id": wire_id(prefix), "object": constant(kind), "deleted": constant(value=True)}
    return Shape(name=name, about="That it is gone.", fields=fields)


def resolve(schema: Schema, components: dict[str, Shape]) -> dict[str, Any]:
    """The schema with references in the place of shapes, which are noted in ``components``, each name once."""
    if isinstance(schema, Shape):
        if components.setdefault(schema.name, schema) != schema:
            raise ValueError(f"two shapes are called {schema.name}")
        return {"$ref": f"#/components/schemas/{schema.name}"}
    return {name: _resolve_value(value, components) for name, value in schema.items()}


def _resolve_value(value: Any, components: dict[str, Shape]) -> Any:
    if isinstance(value, (dict, Shape)):
        return resolve(value, components)
    return [_resolve_value(entry, components) for entry in value] if isinstance(value, list) else value


def _rules(schema: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return schema | {name: value for name, value in rules.items() if value is not None}
