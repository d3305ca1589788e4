"""``promote_if``: the conditions under which a tuned model takes over an alias, and whether they hold.

One condition or a list of them, all of which must hold::

    [{"metric": "accuracy", "min": 0.8, "min_gain": 0.05, "confident": true},
     {"metric": "recall", "class": "negative", "min": 0.7},
     {"metric": "perplexity", "max": 12, "slice": "zh"}]

What is bounded is the tuned model's metric (``min`` or, where lower is better, ``max``) and what it gained on the
base (``min_gain``, positive is better for every metric). ``confident`` asks for the gain at the lower end of its
confidence interval, so that luck on few rows promotes nothing. A condition that was not measured does not hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from typing import Any, Literal

from common.errors import HoneError
from finetuning.figures import DIGITS, METRICS, Comparison, Summary

MAX_CONDITIONS = 20
MAX_NAME = 512
"""Characters of a class or of a slice."""
CLASS_METRICS = ("precision", "recall", "f1")
"""Of one class, which ``class`` names."""

Bound = Literal["min", "max", "min_gain"]
_BOUNDS: tuple[Bound, ...] = ("min", "max", "min_gain")
_KEYS = ("metric", *_BOUNDS, "confident", "slice", "class")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One that was accepted; at least one bound is set."""

    metric: str
    minimum: float | None = None
    maximum: float | None = None
    min_gain: float | None = None
    is_confident: bool = False
    slice: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        where = f" of class '{self.label}'" if self.label is not None else ""
        return f"{self.metric}{where}" + (f" in slice '{self.slice}'" if self.slice is not None else "")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One bound of a condition, and what was found."""

    condition: str
    bound: Bound
    wanted: float
    found: float | None
    """None: it was not measured."""
    holds: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether all of them hold."""

    passed: bool
    checks: list[Check] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """Of the checks that decided: those that failed or, where none did, all."""
        return [check.reason for check in self.checks if check.holds == self.passed]


def parse_gate(value: object, *, param: str = "promote_if") -> list[Condition]:
    """The conditions of a request; ``invalid_value`` or ``invalid_type`` names the place and what would be right."""
    conditions = value if isinstance(value, list) else [value]
    if not conditions:
        raise HoneError("invalid_value", f"'{param}' must hold at least one condition", param=param)
    if len(conditions) > MAX_CONDITIONS:
        raise HoneError("invalid_value", f"'{param}' may hold at most {MAX_CONDITIONS} conditions", param=param)
    return [
        _condition(entry, f"{param}[{number}]" if isinstance(value, list) else param)
        for number, entry in enumerate(conditions)
    ]


def judge(*, conditions: list[Condition], summary: Summary) -> Verdict:
    """Hold the conditions against what was measured."""
    checks = [check for condition in conditions for check in _checks(condition, summary)]
    return Verdict(passed=all(check.holds for check in checks), checks=checks)


def _condition(value: object, param: str) -> Condition:
    if not isinstance(value, dict):
        raise HoneError("invalid_type", f"'{param}' must be an object such as {_EXAMPLE}", param=param)
    for key in value:
        if key not in _KEYS:
            raise HoneError(
                "unknown_parameter", f"'{param}.{key}' is not known; a condition may hold: {', '.join(_KEYS)}",
                param=f"{param}.{key}",
            )  # fmt: skip
    label, slice_value = _text(value, "class", param), _text(value, "slice", param)
    metric = _metric(value, param, of_class=label is not None)
    if label is not None and slice_value is not None:
        raise HoneError(
            "invalid_value", f"'{param}': 'class' and 'slice' cannot be combined", param=f"{param}.slice"
        )  # fmt: skip
    is_confident = value.get("confident", False)
    if not isinstance(is_confident, bool):
        raise HoneError("invalid_type", f"'{param}.confident' must be true or false", param=f"{param}.confident")
    if is_confident and ("min_gain" not in value or label is not None or slice_value is not None):
        raise HoneError(
            "invalid_value",
            f"'{param}.confident' belongs to 'min_gain', of a metric over all rows",
            param=f"{param}.confident",
        )
    bounds = {name: _bound(value, name, metric, param) for name in _BOUNDS}
    if all(bound is None for bound in bounds.values()):
        wanted = "max" if METRICS.get(metric) == "lower" else "min"
        raise HoneError(
            "missing_required_parameter", f"'{param}' needs '{wanted}', 'min_gain' or both", param=f"{param}.{wanted}"
        )
    return Condition(
        metric=metric,
        minimum=bounds["min"],
        maximum=bounds["max"],
        min_gain=bounds["min_gain"],
        is_confident=is_confident,
        slice=slice_value,
        label=label,
    )


_EXAMPLE = '{"metric": "accuracy", "min": 0.8}'


def _metric(value: Mapping[str, object], param: str, *, of_class: bool) -> str:
    metric = value.get("metric")
    if metric is None:
        raise HoneError("missing_required_parameter", f"'{param}.metric' is missing", param=f"{param}.metric")
    known = list(CLASS_METRICS if of_class else METRICS)
    if isinstance(metric, str) and metric in known:
        return metric
    if metric in CLASS_METRICS:
        hint = f"name its 'class', or use '{metric}_macro' or '{metric}_weighted'"
    elif isinstance(metric, str) and not of_class and (close := get_close_matches(metric, known, n=1)):
        hint = f"did you mean '{close[0]}'? There are: {', '.join(known)}"
    else:
        hint = f"{'of a class there are' if of_class else 'there are'}: {', '.join(known)}"
    raise HoneError("invalid_value", f"'{param}.metric' is no metric: {metric!r}; {hint}", param=f"{param}.metric")


def _text(value: Mapping[str, object], name: str, param: str) -> str | None:
    text = value.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not 0 < len(text) <= MAX_NAME or "\0" in text:
        message = f"'{param}.{name}' must be text of 1 to {MAX_NAME} characters"
        raise HoneError("invalid_type", message, param=f"{param}.{name}")
    return text


def _bound(value: Mapping[str, object], name: Bound, metric: str, param: str) -> float | None:
    bound, where = value.get(name), f"{param}.{name}"
    if bound is None:
        return None
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not isfinite(bound):
        raise HoneError("invalid_type", f"'{where}' must be a number", param=where)
    is_lower_better = METRICS.get(metric) == "lower"
    if name == ("min" if is_lower_better else "max"):
        better, right = ("lower", "max") if is_lower_better else ("higher", "min")
        raise HoneError(
            "invalid_value", f"'{where}': {metric} is better the {better} it is; say '{right}'", param=where
        )
    low, high = (-1.0 if name == "min_gain" else 0.0), 1.0
    if not is_lower_better and not low <= bound <= high:
        raise HoneError(
            "invalid_value", f"'{where}' must lie between {low:g} and 1, as a part of 1 and not of 100", param=where
        )
    if is_lower_better and name == "max" and bound < 0:
        raise HoneError("invalid_value", f"'{where}' must not be negative", param=where)
    return float(bound)


def _checks(condition: Condition, summary: Summary) -> list[Check]:
    comparison = _measured(condition, summary)
    tuned = gain = None
    if comparison is not None:
        tuned = comparison.tuned
        gain = comparison.gain
        if condition.is_confident:
            gain = comparison.interval[0] if comparison.interval else None
    bounds: tuple[tuple[Bound, float | None, float | None], ...] = (
        ("min", condition.minimum, tuned),
        ("max", condition.maximum, tuned),
        ("min_gain", condition.min_gain, gain),
    )
    return [_check(condition, bound, wanted, found) for bound, wanted, found in bounds if wanted is not None]


def _check(condition: Condition, bound: Bound, wanted: float, found: float | None) -> Check:
    what = str(condition)
    if bound == "min_gain":
        what = f"the lower end of the gain in {what}" if condition.is_confident else f"the gain in {what}"
    if found is None:
        return Check(
            condition=str(condition), bound=bound, wanted=wanted, found=None, holds=False,
            reason=f"{what} was not measured",
        )  # fmt: skip
    holds = found <= wanted if bound == "max" else found >= wanted
    limit = "at most" if bound == "max" else "at least"
    relation = "is" if holds else "should be"
    reason = f"{what} {relation} {limit} {wanted:g}: it is {found:g}"
    return Check(condition=str(condition), bound=bound, wanted=wanted, found=found, holds=holds, reason=reason)


def _measured(condition: Condition, summary: Summary) -> Comparison | None:
    if condition.label is not None:
        return _of_class(condition, summary)
    if condition.slice is None:
        return summary.metrics.get(condition.metric)
    for part in summary.slices:
        if part.value == condition.slice:
            return part.metrics.get(condition.metric)
    return None


def _of_class(condition: Condition, summary: Summary) -> Comparison | None:
    place = CLASS_METRICS.index(condition.metric)
    for figures in summary.classes:
        if figures.label == condition.label and figures.rows:
            base, tuned = figures.base[place], figures.tuned[place]
            gain = round(tuned - base, DIGITS)
            return Comparison(base=base, tuned=tuned, gain=gain, better="higher", rows=figures.rows)
    return None


def as_request(conditions: list[Condition]) -> list[dict[str, Any]]:
    """The conditions as a request would state them: what a job stores and shows."""
    names = ("metric", "min", "max", "min_gain", "confident", "slice", "class")
    stated = [
        (c.metric, c.minimum, c.maximum, c.min_gain, c.is_confident or None, c.slice, c.label) for c in conditions
    ]
    return [
        {name: part for name, part in zip(names, parts, strict=True) if part is not None} for parts in stated
    ]  # fmt: skip
