"""What the good rows of a training file are like, together."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from files.inspection import Notes
from files.sensitive import SECRETS, kinds_in
from files.similarity import SIMILAR, RowIndex
from files.statistics import Distribution, LikeLines, Lines, Longest
from finetuning.datasets import MAX_LABELS, render_row, teaches
from finetuning.examples import Chat, Completion, Example, Preference, content_text, texts_of
from finetuning.rendering import Renderer
from finetuning.shaping import ShapedRow

MAX_LABEL_CHARACTERS = 80
FEW_ROWS = 10
RARE_LABEL_ROWS = 10
DOMINANT_SHARE = 0.9


WARNINGS = {
    "secrets": (
        "Rows hold keys or passwords, which a model can give away word by word",
        "Remove them, and replace the secrets where they are in use",
    ),
    "personal_data": (
        "Rows hold personal data, which a model can give away word by word",
        "Remove or replace it, unless you may use it for this",
    ),
    "leakage": (
        "Rows stand in the validation file, too, or nearly: scores will look better than they are",
        "Remove them from one of the two files",
    ),
    "few_rows": ("There are few rows to learn from", "Add some dozens more"),
    "skipped": (
        "Rows teach nothing: the model's limit is reached before the first answer begins",
        "Shorten the questions, or remove the rows",
    ),
    "truncated": (
        "Rows are longer than the model's limit; their ends are cut off",
        "Shorten them, or split them into several rows",
    ),
    "same_question": (
        "Rows ask what an earlier row asks and answer otherwise",
        "Keep one answer, unless several are right",
    ),
    "duplicates": ("Rows stand in the file more than once, and count for more", "Remove them"),
    "near_duplicates": ("Rows are nearly the same as others", "Keep a few of each kind"),
    "label_spelling": ("Labels differ in case, spaces or a full stop alone", "Write each label alike"),
    "rare_labels": (f"Labels stand in fewer than {RARE_LABEL_ROWS} rows", "Add rows, or join labels"),
    "dominant_label": (
        "One label has almost all rows: whoever always says that is nearly always right",
        "Add rows of the other labels, or take some of these out",
    ),
    "special_tokens": (
        "Texts hold special tokens of the model's, which end turns where they stand",
        "Remove them: the model's template puts them where they belong",
    ),
    "garbled_text": (
        "Texts hold the sign for characters that could not be read",
        "Write the file anew as UTF-8 from where it came",
    ),
}
"""What does not keep a file from being trained on, by what it costs: code -> message and fix."""


class Survey:
    """Takes one row after the other. Without a renderer nothing is said about tokens."""

    def __init__(self, index: RowIndex, renderer: Renderer | None) -> None:
        self._index = index
        self._renderer = renderer
        self._formats: Counter[str] = Counter()
        self._turns = Distribution()
        self._tokens = Distribution()
        self._trained = Distribution()
        self._longest = Longest()
        self._tokens_per_epoch = 0
        self._truncated = Lines()
        self._skipped = Lines()
        self._garbled = Lines()
        self._special = Lines()
        self._exact = LikeLines()
        self._conflicting = LikeLines()
        self._leaked = LikeLines()
        self._asked = LikeLines()
        self._held_out_rows = 0
        self._labels: Counter[str] | None = Counter()

    def add_held_out(self, example: Example, *, line: int) -> None:
        """A row of the validation file. All of them come before the file's own."""
        self._held_out_rows += 1
        question, content = _question(example), orjson.dumps(example)
        self._index.first_line("validation asks", question, line=line)
        if self._index.first_line("validation", content, line=line) is None:
            self._index.add_text(_text(example), line=-line)

    def add(self, row: ShapedRow, example: Example) -> None:
        """A row of the file; :class:`finetuning.problems.RowError` when the model cannot learn it."""
        if self._renderer is not None:
            self._count_tokens(self._renderer, row.line, example)
        self._formats[type(example).__name__.lower()] += 1
        self._turns.add(sum(1 for _ in texts_of(example)))
        if any("\N{REPLACEMENT CHARACTER}" in text for _, text in texts_of(example)):
            self._garbled.add(row.line)
        if self._renderer is not None and any(self._renderer.has_special_token(text) for _, text in texts_of(example)):
            self._special.add(row.line)
        self._compare(row.line, example)
        self._note_label(row, example)

    def describe(self, notes: Notes, beat: Callable[[], None]) -> dict[str, Any]:
        """As JSON, ``warnings`` in the order of what they cost. ``beat`` is called while rows are compared."""
        near, near_leaked = LikeLines(), LikeLines()
        for pair in self._index.pairs(beat):
            if pair.line > 0:
                found = near if pair.like > 0 else near_leaked
                found.add(pair.line, abs(pair.like), similarity=round(pair.similarity, 2))
        labels = self._describe_labels()
        leakage = None
        if self._held_out_rows:
            leakage = {
                "validation_rows": self._held_out_rows,
                "exact": self._leaked.describe(),
                "same_question": self._asked.describe(),
                "near": near_leaked.describe(),
            }
        return {
            "format": next(iter(self._formats), None),
            "statistics": self._describe_statistics(),
            "duplicates": {
                "exact": self._exact.describe(),
                "same_question": self._conflicting.describe(),
                "near": {"threshold": SIMILAR, "is_complete": not self._index.is_full, **near.describe()},
            },
            "leakage": leakage,
            "labels": labels,
            "warnings": list(self._warnings(notes, near, near_leaked)),
        }

    def _count_tokens(self, renderer: Renderer, line: int, example: Example) -> None:
        tokens = render_row(renderer, example)
        self._tokens.add(tokens.length)
        self._longest.add(tokens.length, line=line)
        if tokens.is_truncated:
            self._truncated.add(line)
        if not teaches(tokens):
            self._skipped.add(line)
            return
        self._trained.add(tokens.trained_tokens)
        self._tokens_per_epoch += tokens.tokens

    def _compare(self, line: int, example: Example) -> None:
        question, content = _question(example), orjson.dumps(example)
        asked = self._index.first_line("question", question, line=line)
        first = self._index.first_line("row", content, line=line)
        is_leaked = self._held_out_rows > 0 and self._is_held_out(line, question, content)
        if first is not None:
            self._exact.add(line, first)
        elif asked is not None and not isinstance(example, Preference):
            self._conflicting.add(line, asked)
        elif not is_leaked:  # each row is named once: near is what has no better reason
            self._index.add_text(_text(example), line=line)

    def _is_held_out(self, line: int, question: bytes, content: bytes) -> bool:
        held_out = self._index.find("validation", content)
        if held_out is not None:
            self._leaked.add(line, held_out)
            return True
        held_out = self._index.find("validation asks", question)
        if held_out is not None:
            self._asked.add(line, held_out)
        return held_out is not None

    def _note_label(self, row: ShapedRow, example: Example) -> None:
        if self._labels is None:
            return
        label = row.label if row.label is not None else _answer(example)
        if label is None or len(label) > MAX_LABEL_CHARACTERS:
            self._labels = None
            return
        self._labels[label] += 1
        if len(self._labels) > MAX_LABELS:
            self._labels = None

    def _describe_statistics(self) -> dict[str, Any]:
        limit = self._renderer.max_length if self._renderer is not None else None
        return {
            "turns": self._turns.describe(),
            "tokens": self._tokens.describe(),
            "trained_tokens": self._trained.describe(),
            "tokens_per_epoch": self._tokens_per_epoch if self._renderer is not None else None,
            "longest": self._longest.describe("tokens"),
            "truncated": {"limit": limit, **self._truncated.describe()},
            "skipped": self._skipped.describe(),
        }

    def _describe_labels(self) -> list[dict[str, Any]] | None:
        """The answers, where they are few: the most frequent first. One that is a secret or personal is not shown."""
        if not self._labels or 2 * len(self._labels) > self._labels.total():
            self._labels = None
            return None
        return [
            {"label": "(not shown)" if kinds_in(label) else label, "rows": count}
            for label, count in self._labels.most_common()
        ]

    def _warnings(self, notes: Notes, near: LikeLines, near_leaked: LikeLines) -> Iterator[dict[str, Any]]:
        good = self._formats.total()
        counts = {
            "secrets": sum(lines.count for kind, lines in notes.sensitive.items() if kind in SECRETS),
            "personal_data": sum(lines.count for kind, lines in notes.sensitive.items() if kind not in SECRETS),
            "leakage": self._leaked.count + self._asked.count + near_leaked.count,
            "few_rows": good if good < FEW_ROWS else 0,
            "skipped": self._skipped.count,
            "truncated": self._truncated.count,
            "same_question": self._conflicting.count,
            "duplicates": self._exact.count,
            "near_duplicates": near.count,
            "garbled_text": self._garbled.count,
            "special_tokens": self._special.count,
            **self._count_label_warnings(),
        }
        for code, (message, fix) in WARNINGS.items():
            if counts.get(code):
                yield {"code": code, "rows": counts[code], "message": message, "fix": fix}

    def _count_label_warnings(self) -> dict[str, int]:
        if not self._labels:
            return {}
        spellings: dict[str, list[int]] = {}
        for label, count in self._labels.items():
            spellings.setdefault(" ".join(label.casefold().split()).strip(".!"), []).append(count)
        most = self._labels.most_common(1)[0][1]
        is_dominant = len(self._labels) > 1 and most > DOMINANT_SHARE * self._labels.total()
        return {
            "label_spelling": sum(sum(counts) - max(counts) for counts in spellings.values()),
            "rare_labels": sum(count for count in self._labels.values() if count < RARE_LABEL_ROWS),
            "dominant_label": most if is_dominant else 0,
        }


def _question(example: Example) -> bytes:
    """What comes before the last answer."""
    match example:
        case Chat():
            return orjson.dumps([example.tools, example.messages[:-1]])
        case Completion():
            return orjson.dumps(example.prompt)
        case Preference():
            return orjson.dumps([example.tools, example.messages])


def _answer(example: Example) -> str | None:
    match example:
        case Chat():
            last = example.messages[-1]
            return None if last.get("tool_calls") else content_text(last.get("content"))
        case Completion():
            return example.completion
        case Preference():
            return None


def _text(example: Example) -> str:
    """What is compared: all that is said, instructions apart, which often are the same in every row."""
    return "\n".join(text for role, text in texts_of(example) if role not in ("system", "developer"))
