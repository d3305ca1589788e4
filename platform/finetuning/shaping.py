"""From a row of a file to an example: by its own format, by a recipe, or by the customer's column mapping."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import jsonschema_rs
import orjson

from common.errors import HoneError
from files.lines import FileError
from finetuning.examples import Chat, Completion, Example, check_row, content_text
from finetuning.formats import SourceRow, read_columns, read_rows
from finetuning.problems import RowError, pointer
from finetuning.recipes import Answer, AnswerKind, Recipe, get_recipe
from finetuning.templates import Template, TemplateSyntaxError, cell_text

_MAPPING_FIELDS = {
    "columns", "messages", "rejected", "prompt", "completion", "choices", "json_schema", "slice", "delimiter",
}  # fmt: skip
MAX_SLICE = 200
"""Characters of a value by which results are shown."""
_COMPLETION = Template(prompt="{{prompt}}", completion="{{completion}}")
_DIALOGUE = Template(
    messages=(("system", "{{system}}"), ("user", "{{user}}"), ("assistant", "{{assistant}}")),
)
_BY_COLUMNS = (({"user", "assistant"}, _DIALOGUE), ({"prompt", "completion"}, _COMPLETION))
"""What a table becomes of which nothing is said but the names of its columns."""


@dataclass(frozen=True, kw_only=True)
class ShapedRow:
    """A row that can be learnt, or everything that is wrong with it."""

    line: int
    raw: bytes
    example: Example | None = None
    label: str | None = None
    """The answer, where answers are choices."""
    slice: str | None = None
    """What the row belongs to, when results are shown by a column."""
    errors: tuple[RowError, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How rows become examples."""

    recipe: Recipe | None
    template: Template | None
    """None where rows are examples already."""
    answer: Answer
    renamed: Mapping[str, str]
    """Column of the template -> column of the file."""
    slice: str | None
    delimiter: str | None
    validator: jsonschema_rs.Draft202012Validator | None

    def read(self, file: IO[bytes], *, filename: str) -> Iterator[ShapedRow]:
        """Every row of a file; raises :class:`files.lines.FileError` for what has no rows to speak of."""
        shape = self._for_columns(read_columns(file, filename=filename, delimiter=self.delimiter))
        file.seek(0)
        known: type[Example] | None = None
        for row in read_rows(file, filename=filename, delimiter=self.delimiter):
            shaped = shape.apply(row)
            if shaped.example is not None:
                known = known or type(shaped.example)
                if type(shaped.example) is not known:
                    shaped = _failed(row, _mixed(shaped.example, known))
            yield shaped

    def apply(self, row: SourceRow) -> ShapedRow:
        """One row."""
        if row.value is None:
            return _failed(row, *filter(None, [row.error]))
        try:
            value = self._fill(row.value)
        except RowError as error:
            return _failed(row, error)
        example, errors = check_row(value)
        label = None
        if example is not None:
            try:
                label = self._check_answer(example)
            except RowError as error:
                errors = [error]
        if errors or example is None:
            return _failed(row, *(self._in_column(error, value, row.value) for error in errors))
        return ShapedRow(line=row.line, raw=row.raw, example=example, label=label, slice=self._slice(row.value))

    def _for_columns(self, columns: list[str] | None) -> "Shape":
        """This shape, made sure that a table of these columns has what it needs."""
        if columns is None:
            return self
        if self.template is None:
            template = next((template for needed, template in _BY_COLUMNS if needed <= set(columns)), None)
            if template is None:
                raise FileError(
                    "mapping_required",
                    f"Nothing says what the columns are ({', '.join(columns)[:200]})",
                    'Choose a recipe, give a column mapping, or call them "prompt" and "completion"',
                )
            return replace(self, template=template)
        missing = self.template.columns - set(columns) - self.renamed.keys() - self._optional()
        missing |= {theirs for theirs in self.renamed.values() if theirs not in columns}
        if missing:
            raise FileError(
                "missing_column",
                f"The table has no column {', '.join(map(repr, sorted(missing)))} (it has {', '.join(columns)[:200]})",
                'Rename the column, or say which one it is: "column_mapping": {"columns": {"<name>": "<yours>"}}',
            )
        return self

    def _optional(self) -> set[str]:
        if self.template is _DIALOGUE:
            return {"system"}
        return {column.name for column in self.recipe.columns if not column.required} if self.recipe else set()

    def _fill(self, value: dict[str, Any]) -> dict[str, Any]:
        if self.template is None:
            return value
        if _is_shaped(value, self.template):
            return self._instruct(value)
        named = {ours: value[theirs] for ours, theirs in self.renamed.items() if theirs in value}
        columns = dict.fromkeys(self._optional(), "") | value | named
        answer = self.template.answer_column
        if answer is None or answer not in columns:
            return self.template.fill(columns)
        if self.answer.kind == AnswerKind.JSON:
            columns[answer] = _compact_json(columns[answer], pointer(self.renamed.get(answer, answer)))
        elif self.answer.kind == AnswerKind.CHOICES:
            columns[answer] = cell_text(columns[answer]).strip()
        return self.template.fill(columns)

    def _instruct(self, value: dict[str, Any]) -> dict[str, Any]:
        """A row that is a conversation already, with the recipe's instructions where it has none of its own."""
        messages = value["messages"]
        instructions = self.template.instructions if self.template else None
        if not instructions or not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
            return value
        if messages[0].get("role") in ("system", "developer"):
            return value
        return {**value, "messages": [{"role": "system", "content": instructions}, *messages]}

    def _check_answer(self, example: Example) -> str | None:
        """The label, where answers are choices; :class:`RowError` when the answer is not what the task wants."""
        if self.answer.kind == AnswerKind.TEXT or not isinstance(example, (Chat, Completion)):
            return None
        text, where = _answer_of(example)
        if self.answer.kind == AnswerKind.CHOICES:
            if self.answer.choices and text not in self.answer.choices:
                raise RowError(
                    "unknown_label",
                    where,
                    f"The answer is none of {', '.join(self.answer.choices)[:200]}",
                    "Correct the label (case and spaces count), or list it in the mapping's 'choices'",
                )
            return text
        value = orjson.loads(_compact_json(text, where))
        error = next(self.validator.iter_errors(value), None) if self.validator else None
        if error is not None:
            raise RowError(
                "schema_mismatch",
                where,
                f"The answer does not fit the schema, at '{pointer(*error.instance_path)}': {error.message[:200]}",
                "Correct the answer, or the schema",
            )
        return None

    def _in_column(self, error: RowError, filled: dict[str, Any], row: dict[str, Any]) -> RowError:
        """A problem of the filled row, as one of the column that it comes from."""
        if self.template is None:
            return error
        if _is_shaped(row, self.template):
            added = len(filled["messages"]) - len(row["messages"]) if isinstance(row["messages"], list) else 0
            return replace(error, pointer=_shift(error.pointer, added))
        column = self.template.column_at(error.pointer, filled) if error.pointer else None
        return replace(error, pointer=pointer(self.renamed.get(column, column))) if column else error

    def _slice(self, value: dict[str, Any]) -> str | None:
        if self.slice is None:
            return None
        metadata = value.get("metadata")
        found = value.get(self.slice, metadata.get(self.slice) if isinstance(metadata, dict) else None)
        return cell_text(found)[:MAX_SLICE] if found is not None else None


def shape_of(*, recipe: str | None = None, column_mapping: Mapping[str, Any] | None = None) -> Shape:
    """How rows become examples by a recipe, by a column mapping that goes before it, or by themselves.

    A mapping may hold ``columns`` (the recipe's column -> the file's), ``messages`` with ``{{column}}`` places (and
    ``rejected``, the answer that is not wanted), or ``prompt`` and ``completion``; ``choices`` or ``json_schema`` of
    the answers; ``slice``, a column by which results are shown; and ``delimiter`` of a table.
    """
    known = get_recipe(recipe) if recipe is not None else None
    mapping = _Mapping(column_mapping or {})
    template = mapping.template() or (known.template if known else None)
    answer = mapping.answer() or (known.answer if known else Answer(kind=AnswerKind.TEXT))
    return Shape(
        recipe=known,
        template=template,
        answer=answer,
        renamed=mapping.columns(template),
        slice=mapping.text("slice"),
        delimiter=mapping.delimiter(),
        validator=_validator(answer.json_schema) if answer.json_schema is not None else None,
    )


class _Mapping:
    """The customer's column mapping; what it gets wrong is named by its path in the request."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value
        for name in value:
            if name not in _MAPPING_FIELDS:
                raise _refused(name, f"'{name[:60]}' is not known here; there are {', '.join(sorted(_MAPPING_FIELDS))}")

    def template(self) -> Template | None:
        """The one that it holds, if it does."""
        if not self._value.keys() & {"messages", "prompt", "completion", "rejected"}:
            return None
        try:
            return Template.parse(self._value)
        except TemplateSyntaxError as error:
            raise _refused(error.param, str(error)) from error

    def columns(self, template: Template | None) -> dict[str, str]:
        """Column of the template -> column of the file."""
        columns = self._value.get("columns", {})
        if not isinstance(columns, dict) or not all(isinstance(name, str) and name for name in columns.values()):
            raise _refused("columns", "'columns' must give a column of the file for each column of the recipe")
        unknown = columns.keys() - (template.columns if template else set())
        if unknown:
            known = ", ".join(sorted(template.columns)) if template else "none without a recipe"
            raise _refused("columns", f"{sorted(unknown)} are no columns of the recipe; it has {known}")
        return columns

    def answer(self) -> Answer | None:
        """What answers are held to, if it says so."""
        choices, schema = self._value.get("choices"), self._value.get("json_schema")
        if choices is not None:
            if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
                raise _refused("choices", "'choices' must be a list of labels")
            return Answer(kind=AnswerKind.CHOICES, choices=tuple(dict.fromkeys(choices)))
        if schema is not None:
            if not isinstance(schema, dict):
                raise _refused("json_schema", "'json_schema' must be an object")
            return Answer(kind=AnswerKind.JSON, json_schema=schema)
        return None

    def delimiter(self) -> str | None:
        """Of a table."""
        delimiter = self.text("delimiter")
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii()):
            raise _refused("delimiter", "'delimiter' must be one character, such as ;")
        return delimiter

    def text(self, name: str) -> str | None:
        """A member that is a text."""
        value = self._value.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise _refused(name, f"'{name}' must be a text")
        return value


def _refused(name: str, message: str) -> HoneError:
    return HoneError("invalid_value", message, param=f"column_mapping.{name}")


def _validator(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    # Customers write schemas: no address is fetched, and no pattern takes longer than its text is long.
    options = jsonschema_rs.RegexOptions(size_limit=1_000_000)
    try:
        return jsonschema_rs.Draft202012Validator(dict(schema), offline=True, mask="it", pattern_options=options)
    except ValueError as error:
        raise _refused("json_schema", f"'json_schema' is not a schema: {str(error)[:200]}") from error


def _is_shaped(value: dict[str, Any], template: Template) -> bool:
    """Whether a row is a conversation already, although there is a template."""
    return "messages" in value and "messages" not in template.columns


def _answer_of(example: Chat | Completion) -> tuple[str, str]:
    if isinstance(example, Completion):
        return example.completion, "/completion"
    last = len(example.messages) - 1
    return content_text(example.messages[last].get("content")), pointer("messages", last, "content")


def _compact_json(value: Any, where: str) -> str:
    """A JSON object as the one text that is learnt for it, members in their order."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise RowError(
                "invalid_json_answer",
                where,
                f"The answer is not valid JSON: {error.msg} (column {error.colno})",
                'Write a JSON object, for example {"name": "..."}',
            ) from error
    if not isinstance(value, dict):
        raise RowError(
            "invalid_json_answer", where, "The answer is JSON, but no object", 'Write an object: {"name": "..."}'
        )
    return orjson.dumps(value).decode()


def _shift(where: str, added: int) -> str:
    """A pointer into messages of which ``added`` were put before the customer's."""
    _, member, *rest = where.split("/") if where else ("", "")
    if member != "messages" or not rest or not added:
        return where
    return pointer(member, max(0, int(rest[0]) - added), *rest[1:])


def _mixed(example: Example, known: type[Example]) -> RowError:
    return RowError(
        "mixed_formats",
        "",
        f"This is a {type(example).__name__.lower()} row; those before it are {known.__name__.lower()} rows",
        "Keep to one format in a file",
    )


def _failed(row: SourceRow, *errors: RowError) -> ShapedRow:
    return ShapedRow(line=row.line, raw=row.raw, errors=errors)
