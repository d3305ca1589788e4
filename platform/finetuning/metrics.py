"""Base against tuned model on held-out rows: every metric of both, what was gained, and how sure that is.

Rows stream through once; memory grows with classes, fields, slices and resamples, never with rows. The interval of a
gain is a percentile bootstrap (B. Efron, 1979) by Poisson weights, which need not know the number of rows beforehand
(N. Chamandy et al., "Estimating Uncertainty for Massive Data Streams", 2012). Both models get the same weights, so
that only their difference varies. The same rows in the same order with the same seed give the same figures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetuning.figures import (
    CONFIDENCE,
    DIGITS,
    HEADLINES,
    METRICS,
    ClassFigures,
    Comparison,
    Confusion,
    FieldFigures,
    SliceFigures,
    Summary,
)
from finetuning.measures import (
    ClassMeasure,
    FieldMeasure,
    LossMeasure,
    MatchMeasure,
    Measure,
    Places,
    TextMeasure,
    scores_of,
)
from finetuning.predictions import Prediction, Task

RESAMPLES = 1_000
MIN_ROWS_FOR_INTERVAL = 10
MAX_SLICES = 50
"""Rows of slices that come later count in the whole alone."""

System = Literal["base", "tuned"]
SYSTEMS: tuple[System, System] = ("base", "tuned")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is known of one answer."""

    score: float
    """1 is right: the answer's own part of the headline metric."""
    loss: float | None


class _Sums:
    """The sums of one family's numbers over rows, as they are and weighted for each resample."""

    def __init__(self, resamples: int) -> None:
        self.rows = 0
        self.total: NDArray[np.float64] = np.zeros(0)
        self.drawn: NDArray[np.float64] = np.zeros((0, resamples))

    def add(self, statistics: Sequence[float], weights: NDArray[np.float64]) -> None:
        missing = len(statistics) - len(self.total)
        if missing > 0:  # a label or field that had not been seen
            self.total = np.pad(self.total, (0, missing))
            self.drawn = np.pad(self.drawn, ((0, missing), (0, 0)))
        self.rows += 1
        for place, number in enumerate(statistics):
            if number:
                self.total[place] += number
                self.drawn[place] += number * weights


class _Tally:
    """The sums of all families for both models."""

    def __init__(self, measures: Sequence[Measure], resamples: int) -> None:
        self.rows = 0
        self._measures = measures
        self._sums = {(system, measure.name): _Sums(resamples) for system in SYSTEMS for measure in measures}

    def add(self, statistics: dict[str, list[Sequence[float]]], weights: NDArray[np.float64]) -> None:
        self.rows += 1
        for name, numbers in statistics.items():
            for system, of_system in zip(SYSTEMS, numbers, strict=True):
                self._sums[system, name].add(of_system, weights)

    def of(self, system: System, measure: Measure) -> _Sums:
        return self._sums[system, measure.name]

    def compare(self, *, with_intervals: bool) -> dict[str, Comparison]:
        found: dict[str, Comparison] = {}
        for measure in self._measures:
            sums = [self.of(system, measure) for system in SYSTEMS]
            if not sums[0].rows:
                continue
            base, tuned = (measure.values(of_system.total) for of_system in sums)
            wants_intervals = with_intervals and sums[0].rows >= MIN_ROWS_FOR_INTERVAL
            intervals = _intervals(measure, *sums) if wants_intervals else {}
            for name in base.keys() & tuned.keys():
                found[name] = Comparison(
                    base=_rounded(base[name]),
                    tuned=_rounded(tuned[name]),
                    gain=_rounded(_gain(name, base[name], tuned[name])),
                    better=METRICS[name],
                    rows=sums[0].rows,
                    interval=intervals.get(name),
                )
        return {name: found[name] for name in METRICS if name in found}


class Evaluation:
    """Feed it every prediction (:meth:`add`), then ask for the :meth:`summary`."""

    def __init__(self, *, seed: int, headline: str | None = None, resamples: int = RESAMPLES) -> None:
        """``headline`` names the metric that decides; None is by what the rows ask for."""
        self._classes, self._fields = ClassMeasure(), FieldMeasure()
        self._measures: list[Measure] = [self._classes, MatchMeasure(), self._fields, TextMeasure(), LossMeasure()]
        self._random = np.random.default_rng(seed)
        self._resamples, self._headline = resamples, headline
        self._whole = _Tally(self._measures, resamples)
        self._slices: Places[str] = Places(MAX_SLICES)
        self._tallies: list[_Tally] = []
        self._confusion: dict[System, Counter[tuple[str, str | None]]] = {system: Counter() for system in SYSTEMS}
        self._tasks: Counter[Task] = Counter()
        self._skipped = 0

    def add(self, prediction: Prediction) -> tuple[Scores, Scores] | None:
        """Count a row; what base and tuned got for it, None when it cannot be compared."""
        if not prediction.is_complete:
            self._skipped += 1
            return None
        row, answers = prediction.row, (prediction.base, prediction.tuned)
        statistics: dict[str, list[Sequence[float]]] = {}
        for measure in self._measures:
            numbers = [measure.statistics(row, answer) for answer in answers]
            known = [of_system for of_system in numbers if of_system is not None]
            if len(known) == len(SYSTEMS):
                statistics[measure.name] = known
        self._whole.add(statistics, self._random.poisson(1.0, self._resamples).astype(np.float64))
        if (tally := self._slice(row.slice)) is not None:
            tally.add(statistics, np.zeros(0))
        self._tasks[row.task] += 1
        if row.task is Task.CLASSIFICATION:
            for system, answer in zip(SYSTEMS, answers, strict=True):
                self._confusion[system][self._classes.pair(row, answer)] += 1
        base, tuned = (
            Scores(score=_score(row.task, {name: both[place] for name, both in statistics.items()}), loss=answer.loss)
            for place, answer in enumerate(answers)
        )
        return base, tuned

    def summary(self) -> Summary:
        """All figures so far."""
        ((task, _),) = self._tasks.most_common(1) or ((None, 0),)
        return Summary(
            rows=self._whole.rows,
            skipped_rows=self._skipped,
            headline=self._headline or (HEADLINES[task] if task else None),
            metrics=self._whole.compare(with_intervals=True),
            classes=self._class_figures(),
            confusion=self._confusion_matrices(),
            fields=self._field_figures(),
            slices=[
                SliceFigures(value=value, rows=tally.rows, metrics=tally.compare(with_intervals=False))
                for value, tally in zip(self._slices, self._tallies, strict=True)
            ],
        )

    def _slice(self, value: str | None) -> _Tally | None:
        place = None if value is None else self._slices.of(value)
        if place is None:
            return None
        if place == len(self._tallies):
            self._tallies.append(_Tally(self._measures, 0))
        return self._tallies[place]

    def _class_figures(self) -> list[ClassFigures]:
        if self._classes.labels.is_exceeded:
            return []
        base, tuned = (self._classes.counts(self._whole.of(system, self._classes).total) for system in SYSTEMS)
        return [
            ClassFigures(label=label, rows=int(of_base[2]), base=_triple(of_base), tuned=_triple(of_tuned))
            for label, of_base, of_tuned in zip(self._classes.labels, base, tuned, strict=True)
        ]

    def _confusion_matrices(self) -> Confusion | None:
        if not len(self._classes.labels) or self._classes.labels.is_exceeded:
            return None
        labels = list(self._classes.labels)
        base, tuned = (
            [[self._confusion[system][label, answered] for answered in (*labels, None)] for label in labels]
            for system in SYSTEMS
        )
        return Confusion(labels=labels, base=base, tuned=tuned)

    def _field_figures(self) -> list[FieldFigures]:
        base, tuned = (self._fields.counts(self._whole.of(system, self._fields).total) for system in SYSTEMS)
        return [
            FieldFigures(
                field=name, rows=int(rows), base=_rounded(right_base / rows), tuned=_rounded(right_tuned / rows)
            )
            for name, (right_base, rows), (right_tuned, _) in zip(self._fields.fields, base, tuned, strict=True)
        ]


def _intervals(measure: Measure, base: _Sums, tuned: _Sums) -> dict[str, tuple[float, float]]:
    gains: dict[str, list[float]] = {}
    for of_base, of_tuned in zip(base.drawn.T, tuned.drawn.T, strict=True):
        before, after = measure.values(of_base), measure.values(of_tuned)
        for name in before.keys() & after.keys():
            gains.setdefault(name, []).append(_gain(name, before[name], after[name]))
    tails = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
    intervals = {}
    for name, drawn in gains.items():
        low, high = np.percentile(drawn, tails)
        intervals[name] = (_rounded(low), _rounded(high))
    return intervals


def _gain(metric: str, base: float, tuned: float) -> float:
    return tuned - base if METRICS[metric] == "higher" else base - tuned


def _score(task: Task, statistics: dict[str, Sequence[float]]) -> float:
    if task is Task.CLASSIFICATION:
        return statistics["classes"][0]
    if task is Task.GENERATION:
        return _rounded(statistics["text"][3])
    right, fields = statistics["fields"][2:4]
    return _rounded(right / fields) if fields else statistics["match"][0]


def _triple(counts: tuple[float, float, float]) -> tuple[float, float, float]:
    precision, recall, f1 = scores_of(*counts)
    return _rounded(precision), _rounded(recall), _rounded(f1)


def _rounded(number: float) -> float:
    return round(float(number), DIGITS)
