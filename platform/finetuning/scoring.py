"""From the rows and results of an evaluation to its figures: one pass, in memory that does not grow with rows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from common.storage import IncomingBlob
from finetuning.figures import Summary
from finetuning.metrics import Evaluation
from finetuning.predictions import Prediction, read_predictions
from finetuning.samples import Example, Samples, example_as_json


@dataclass(kw_only=True)
class Scored:
    """What came of it."""

    summary: Summary
    samples: dict[str, list[dict[str, Any]]]
    input_tokens: int
    output_tokens: int
    """Of everything that both models were asked."""


def score_results(
    *,
    rows: Iterable[bytes],
    results: Iterable[bytes],
    examples: IncomingBlob,
    seed: int,
    headline: str | None,
    keep_alive: Callable[[], None],
) -> Scored:
    """Score every row, and write it as an NDJSON line of ``examples``; raises :class:`PredictionsError`.

    ``headline`` is the metric that decides, by the recipe; None is by what the rows ask for.
    """
    evaluation, samples = Evaluation(seed=seed, headline=headline), Samples(seed=seed)
    input_tokens = output_tokens = 0
    for prediction in read_predictions(rows=rows, results=results):
        keep_alive()
        example = _scored(evaluation, prediction)
        samples.add(example)
        examples.write(orjson.dumps(example_as_json(example), option=orjson.OPT_APPEND_NEWLINE))
        for answer in (prediction.base, prediction.tuned):
            input_tokens += answer.input_tokens
            output_tokens += answer.output_tokens
    return Scored(
        summary=evaluation.summary(),
        samples=samples.as_json(),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _scored(evaluation: Evaluation, prediction: Prediction) -> Example:
    scores = evaluation.add(prediction)
    base, tuned = scores or (None, None)
    return Example(prediction=prediction, base=base, tuned=tuned)
