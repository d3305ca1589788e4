"""A dataset as it is trained on: written once, in one pass at constant memory, the same bytes for the same request.

What the preview shows, the quote counts, the bill charges and the trainer reads is this. Rows are known by their
1-based line in the customer's file.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heapify, heappushpop
from typing import IO, Any
from uuid import UUID

import orjson

from catalog.models import BaseModel
from common.storage import IncomingBlob, open_blob, open_spool
from files.inspection import RowProblem
from files.lines import FileError
from files.models import StoredFile
from finetuning.examples import Chat, Completion, Example, Preference, content_text
from finetuning.problems import RowError
from finetuning.recipes import AnswerKind
from finetuning.rendering import PreferenceTokens, Renderer, Tokens
from finetuning.shaping import Shape, ShapedRow, shape_of

MAX_PROBLEMS = 100
"""After so many bad rows reading stops; the file's report names them all."""
MAX_LABELS = 200
EXTRA_TOKENS = 16
"""An answer in the evaluation may be twice as long as the expected one, and so much longer."""
BLOB_KIND = "datasets"
"""Kind of the blobs of prepared datasets. Each preparation has its own, so that the job that it is for can delete them
without asking who else needs the same bytes."""


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """Everything that decides the bytes."""

    training_file: StoredFile
    validation_file: StoredFile | None
    base: BaseModel
    method: str
    """``supervised`` or ``dpo``."""
    recipe: str | None
    column_mapping: Mapping[str, Any] | None
    max_seq_length: int
    train_on: str
    """``assistant`` or ``all``."""
    validation_fraction: float
    """Of the training file's rows, held out where there is no validation file; 0 is none."""
    seed: int
    max_evaluation_rows: int


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """A stored NDJSON, one example a line in the file's order."""

    storage_key: str
    sha256: str
    bytes: int
    rows: int
    tokens: int
    """That pass through the model in one epoch."""
    trained_tokens: int
    """Of these, the ones that are learnt."""


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """The parts, and what happened to rows on the way. With ``problems`` nothing can be trained."""

    train: DatasetPart
    """Its storage key is empty where there are problems: nothing was kept."""
    validation: DatasetPart | None
    evaluation: DatasetPart | None
    skipped_rows: int
    """Rows of which nothing that is learnt was left at the greatest length."""
    truncated_rows: int
    """Rows that were cut at the greatest length; those that were skipped among them."""
    labels: list[str] | None
    """The answers in use, where answers are choices."""
    problems: list[RowProblem]
    """Bad rows, the first :data:`MAX_PROBLEMS`; ``param`` names the file."""


def prepare_dataset(*, request: DatasetRequest, keep_alive: Callable[[], None]) -> PreparedDataset:
    """Read the files, render every row and store the parts; ``keep_alive`` is called for each row.

    Call it outside of transactions. Raises :class:`common.errors.HoneError` for a recipe or a mapping that is none.
    """
    return _prepare(request, keep_alive, is_kept=True)


def measure_dataset(*, request: DatasetRequest, keep_alive: Callable[[], None]) -> PreparedDataset:
    """What :func:`prepare_dataset` would make, without keeping any of it: storage keys are empty."""
    return _prepare(request, keep_alive, is_kept=False)


def render_row(renderer: Renderer, example: Example) -> Tokens | PreferenceTokens:
    """An example of any format."""
    match example:
        case Chat():
            return renderer.chat(example)
        case Completion():
            return renderer.completion(example)
        case Preference():
            return renderer.preference(example)


def teaches(tokens: Tokens | PreferenceTokens) -> bool:
    """Whether there is something to learn at the greatest length."""
    if isinstance(tokens, PreferenceTokens):
        return tokens.chosen != tokens.rejected
    return bool(tokens.trained)


def token_record(line: int, tokens: Tokens | PreferenceTokens) -> dict[str, Any]:
    """What the trainer reads of a row."""
    if isinstance(tokens, PreferenceTokens):
        return {"line": line, "prompt": tokens.prompt, "chosen": tokens.chosen, "rejected": tokens.rejected}
    record: dict[str, Any] = {"line": line, "ids": tokens.ids, "trained": tokens.trained}
    if any(weight != 1 for weight in tokens.weights):
        record["weights"] = tokens.weights
    return record


def fits_method(example: Example, method: str) -> RowError | None:
    """Why this method cannot learn from the example, or None."""
    if isinstance(example, Preference) == (method == "dpo"):
        return None
    if method == "dpo":
        return RowError(
            "method_mismatch",
            "",
            "The method 'dpo' learns from preferences, and the row holds none",
            'Write {"input": ..., "preferred_output": [...], "non_preferred_output": [...]}, or choose "supervised"',
        )
    return RowError(
        "method_mismatch",
        "",
        f"The method '{method}' learns from conversations, and the row is a preference",
        'Choose the method "dpo", or write {"messages": [...]}',
    )


@dataclass
class _Part:
    """An NDJSON that is being written."""

    blob: IncomingBlob
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def add(self, record: Mapping[str, Any], *, tokens: int, trained_tokens: int) -> None:
        self.blob.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self.rows += 1
        self.tokens += tokens
        self.trained_tokens += trained_tokens

    def keep(self, organization_id: UUID, *, is_wanted: bool) -> DatasetPart:
        return DatasetPart(
            storage_key=self.blob.keep_new(organization_id, BLOB_KIND) if is_wanted else "",
            sha256=self.blob.sha256,
            bytes=self.blob.size,
            rows=self.rows,
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
        )


@dataclass
class _Sample:
    """Records of which the ``size`` with the smallest keys are wanted, in the order in which they came."""

    size: int
    spool: IO[bytes]
    _chosen: list[tuple[int, int, int]] = field(default_factory=list)
    """A heap: key, the greatest first; offset, length."""

    def add(self, key: int, record: Mapping[str, Any]) -> None:
        data = orjson.dumps(record)
        entry = (-key, self.spool.tell(), len(data))
        if len(self._chosen) < self.size:
            self._chosen.append(entry)
            if len(self._chosen) == self.size:
                heapify(self._chosen)
        elif heappushpop(self._chosen, entry) == entry:
            return
        self.spool.write(data)

    def records(self) -> Iterator[dict[str, Any]]:
        for _, offset, length in sorted(self._chosen, key=lambda entry: entry[1]):
            self.spool.seek(offset)
            yield orjson.loads(self.spool.read(length))


class _Preparation:
    """One pass."""

    def __init__(self, request: DatasetRequest, shape: Shape, stack: ExitStack, keep_alive: Callable[[], None]) -> None:
        self._request = request
        self._shape = shape
        self._keep_alive = keep_alive
        self._renderer = Renderer(base=request.base, max_seq_length=request.max_seq_length, train_on=request.train_on)
        self._train = _Part(stack.enter_context(IncomingBlob()))
        self._validation = _Part(stack.enter_context(IncomingBlob()))
        self._evaluation = _Part(stack.enter_context(IncomingBlob()))
        self._sample = _Sample(request.max_evaluation_rows, stack.enter_context(open_spool()))
        self._labels: set[str] = set()
        self._skipped = 0
        self._truncated = 0
        self._problems: list[RowProblem] = []

    def read(self, file: StoredFile, *, param: str, share: float) -> None:
        """Put the rows of a file where they belong: the ``share`` that is held out, by content, into validation.

        Rows with the same content fall on the same side, so that none is both learnt and held out.
        """
        try:
            with open_blob(file.storage_key) as stored:
                for row in self._shape.read(stored, filename=file.filename):
                    self._keep_alive()
                    errors = list(row.errors) if row.example is None else self._place(row, row.example, share)
                    self._problems += [error.at(row.line, param=param) for error in errors]
                    if len(self._problems) >= MAX_PROBLEMS:
                        return
        except FileError as error:
            self._problems.append(
                RowProblem(line=None, pointer="", code=error.code, message=error.message, fix=error.fix, param=param)
            )

    def finish(self, *, is_kept: bool) -> PreparedDataset:
        """Store the parts, if they are wanted."""
        labels = None
        if self._shape.answer.kind == AnswerKind.CHOICES:
            labels = list(self._shape.answer.choices) or sorted(self._labels)
        if not self._problems and not self._train.rows:
            self._problems.append(
                RowProblem(
                    line=None,
                    pointer="",
                    code="nothing_to_train",
                    message=f"No row is left to train on; {self._skipped} are longer than max_seq_length before "
                    "their first answer begins",
                    fix="Raise max_seq_length, shorten the rows, or hold out less for validation",
                    param="training_file",
                )
            )
        for record in self._sample.records():
            trained_tokens = sum(stop - start for start, stop in record["trained"])
            choices = {"choices": labels} if labels is not None else {}
            self._evaluation.add(record | choices, tokens=len(record["ids"]), trained_tokens=trained_tokens)
        organization_id = self._request.training_file.organization_id
        is_wanted = is_kept and not self._problems
        kept = []
        for part in (self._train, self._validation, self._evaluation):
            self._keep_alive()  # the next may take as long as a disk takes over it
            kept.append(part.keep(organization_id, is_wanted=is_wanted and part.rows > 0))
        train, validation, evaluation = kept
        return PreparedDataset(
            train=train,
            validation=validation if validation.rows else None,
            evaluation=evaluation if evaluation.rows else None,
            skipped_rows=self._skipped,
            truncated_rows=self._truncated,
            labels=labels,
            problems=self._problems[:MAX_PROBLEMS],
        )

    def _place(self, row: ShapedRow, example: Example, share: float) -> list[RowError]:
        mismatch = fits_method(example, self._request.method)
        if mismatch is not None:
            return [mismatch]
        try:
            tokens = render_row(self._renderer, example)
        except RowError as error:
            return [error]
        if row.label is not None:
            self._labels.add(row.label)
            if len(self._labels) > MAX_LABELS:
                return [_too_many_labels()]
        self._truncated += tokens.is_truncated
        if not teaches(tokens):
            self._skipped += 1
            return []
        digest = _digest(example)
        is_held_out = _draw(self._request.seed, b"split", digest) < share * 2**64
        part = self._validation if is_held_out else self._train
        part.add(
            token_record(row.line, tokens),
            tokens=tokens.tokens,
            trained_tokens=tokens.trained_tokens,
        )
        if is_held_out and self._sample.size and not tokens.is_truncated:
            record = self._evaluation_record(row, example, tokens)
            if record is not None:
                # The line tells rows with the same content apart.
                self._sample.add(_draw(self._request.seed, b"evaluation", digest, row.line), record)
        return []

    def _evaluation_record(
        self, row: ShapedRow, example: Example, tokens: Tokens | PreferenceTokens
    ) -> dict[str, Any] | None:
        """The question of a held-out row and the answer that is expected; None where the answer is no text."""
        record: dict[str, Any] = {"line": row.line}
        match example:
            case Chat():
                record["messages"], reference = example.messages[:-1], _text_of(example.messages[-1])
            case Completion():
                record["prompt"], reference = example.prompt, example.completion
            case Preference():
                record["messages"], reference = example.messages, _text_of(example.preferred)
        if reference is None:
            return None
        record["reference"] = reference
        if isinstance(tokens, PreferenceTokens):
            start = len(tokens.prompt)
            record["ids"] = tokens.prompt + tokens.chosen
            record["trained"] = [(start, start + len(tokens.chosen))]
        else:
            record["ids"], record["trained"] = tokens.ids, tokens.trained
        expected = self._renderer.count(reference)
        room = self._request.base.context_length - len(record["ids"]) + expected
        record["max_tokens"] = min(self._shape.answer.max_tokens or 2 * expected + EXTRA_TOKENS, room)
        if self._shape.answer.kind == AnswerKind.JSON and self._shape.answer.json_schema:
            record["json_schema"] = self._shape.answer.json_schema
        if row.slice is not None:
            record["slice"] = row.slice
        return record


def _prepare(request: DatasetRequest, keep_alive: Callable[[], None], *, is_kept: bool) -> PreparedDataset:
    shape = shape_of(recipe=request.recipe, column_mapping=request.column_mapping)
    with ExitStack() as stack:
        work = _Preparation(request, shape, stack, keep_alive)
        work.read(request.training_file, param="training_file", share=_training_share(request))
        if request.validation_file is not None:
            work.read(request.validation_file, param="validation_file", share=1.0)
        return work.finish(is_kept=is_kept)


def _training_share(request: DatasetRequest) -> float:
    return 0.0 if request.validation_file is not None else request.validation_fraction


def _text_of(message: Mapping[str, Any]) -> str | None:
    return None if message.get("tool_calls") else content_text(message.get("content"))


def _digest(example: Example) -> bytes:
    return blake2b(orjson.dumps(example), digest_size=16).digest()


def _draw(seed: int, purpose: bytes, digest: bytes, line: int = 0) -> int:
    """A number below 2 ** 64 that the seed and a row's content decide."""
    drawn = blake2b(digest + line.to_bytes(8), key=seed.to_bytes(16, signed=True), person=purpose, digest_size=8)
    return int.from_bytes(drawn.digest())


def _too_many_labels() -> RowError:
    return RowError(
        "too_many_labels",
        "",
        f"The answers have more than {MAX_LABELS} different values",
        "Choose a recipe whose answers are free text, or correct the column of the labels",
    )
