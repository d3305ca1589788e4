"""What a model would see of the first rows of training data, token by token, and which of them it would learn."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import IO, Any

import orjson

from catalog.models import BaseModel
from catalog.selectors import get_served_model
from common.errors import HoneError
from common.storage import open_blob
from files.inspection import RowProblem
from files.lines import FileError
from files.models import StoredFile
from files.selectors import get_file
from finetuning.datasets import fits_method, render_row
from finetuning.examples import Example
from finetuning.problems import RowError
from finetuning.rendering import PreferenceTokens, Renderer, Tokens
from finetuning.shaping import ShapedRow, shape_of
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope

MAX_ROWS = 50
MAX_TOKENS = 20_000
"""With the row that has so many no more are shown."""


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """What is to be shown; either a file or rows."""

    model: str
    training_file: str | None
    rows: list[dict[str, Any]] | None
    method: str
    recipe: str | None
    column_mapping: Mapping[str, Any] | None
    max_seq_length: int | None
    train_on: str
    limit: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Neighbouring tokens with the same fate."""

    text: str
    token_ids: list[int]
    token_texts: list[str]
    """Of each token; a character of several tokens shows as U+FFFD in each."""
    is_trained: bool
    weight: float
    """0 where nothing is learnt."""


@dataclass(frozen=True, kw_only=True)
class PreviewRow:
    """A row; a preference has two sequences of pieces, the wanted one first."""

    line: int
    sequences: list[list[Piece]]
    tokens: int
    trained_tokens: int
    is_truncated: bool
    problems: list[RowProblem]


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The first rows; ``problem`` is one of the file as a whole."""

    base: BaseModel
    rows: list[PreviewRow]
    problem: RowProblem | None


def preview_rows(*, project: Project, key: ApiKey, request: PreviewRequest) -> Preview:
    """Render as :func:`finetuning.datasets.prepare_dataset` does, without keeping anything."""
    with tenant_scope(project.organization_id):
        base = get_served_model(key=key, name=request.model).base
        file = None
        if request.training_file is not None:
            file = get_file(project=project, wire_id=request.training_file, param="training_file")
            if file.purpose != StoredFile.Purpose.FINE_TUNE:
                raise HoneError("invalid_purpose", f"The file has the purpose '{file.purpose}'", param="training_file")
    shape = shape_of(recipe=request.recipe, column_mapping=request.column_mapping)
    length = request.max_seq_length or base.context_length
    renderer = Renderer(base=base, max_seq_length=length, train_on=request.train_on)
    rows: list[PreviewRow] = []
    problem = None
    try:
        with _source(file, request.rows) as source:
            for row in islice(shape.read(source, filename=file.filename if file else "rows.jsonl"), request.limit):
                rows.append(_show(renderer, row, request.method))
                if sum(row.tokens for row in rows) > MAX_TOKENS:
                    break
    except FileError as error:
        problem = RowProblem(line=None, pointer="", code=error.code, message=error.message, fix=error.fix)
    return Preview(base=base, rows=rows, problem=problem)


@contextmanager
def _source(file: StoredFile | None, rows: list[dict[str, Any]] | None) -> Iterator[IO[bytes]]:
    if file is None:
        yield BytesIO(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows or ()))
        return
    with open_blob(file.storage_key) as stored:
        yield stored


def _show(renderer: Renderer, row: ShapedRow, method: str) -> PreviewRow:
    errors = list(row.errors)
    if row.example is not None:
        try:
            return _rendered(renderer, row.line, row.example, method)
        except RowError as error:
            errors = [error]
    problems = [error.at(row.line) for error in errors]
    return PreviewRow(line=row.line, sequences=[], tokens=0, trained_tokens=0, is_truncated=False, problems=problems)


def _rendered(renderer: Renderer, line: int, example: Example, method: str) -> PreviewRow:
    mismatch = fits_method(example, method)
    if mismatch is not None:
        raise mismatch
    tokens = render_row(renderer, example)
    return PreviewRow(
        line=line,
        sequences=[list(_pieces(renderer, sequence)) for sequence in _sequences(tokens)],
        tokens=tokens.tokens,
        trained_tokens=tokens.trained_tokens,
        is_truncated=tokens.is_truncated,
        problems=[],
    )


def _sequences(tokens: Tokens | PreferenceTokens) -> list[Tokens]:
    if isinstance(tokens, Tokens):
        return [tokens]
    start = len(tokens.prompt)
    return [
        Tokens(ids=tokens.prompt + answer, trained=[(start, start + len(answer))], weights=[1.0], length=tokens.length)
        for answer in (tokens.chosen, tokens.rejected)
    ]


def _pieces(renderer: Renderer, tokens: Tokens) -> Iterator[Piece]:
    at = 0
    for (start, stop), weight in zip(tokens.trained, tokens.weights, strict=True):
        yield from _piece(renderer, tokens.ids[at:start], 0.0)
        yield from _piece(renderer, tokens.ids[start:stop], weight)
        at = stop
    yield from _piece(renderer, tokens.ids[at:], 0.0)


def _piece(renderer: Renderer, ids: list[int], weight: float) -> Iterator[Piece]:
    if ids:
        texts = [renderer.decode([token]) for token in ids]
        yield Piece(text=renderer.decode(ids), token_ids=ids, token_texts=texts, is_trained=weight > 0, weight=weight)
