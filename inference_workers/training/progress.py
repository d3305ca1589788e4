"""How far a run is: what a checkpoint must hold beside tensors.

There is no random state in it: every draw is seeded by (seed, step, process), and the rows of a step are a function of
the seed. So the step is the position of the sampler and of every generator.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class Progress:
    """Changes with every step."""

    step: int = 0
    """Steps that the adapter has made."""
    trained_tokens: int = 0
    """Tokens that the model has read to learn; what one epoch counts is the prepared file's number of tokens."""
    unreported: dict[str, Any] | None = None
    """Metrics of the last step while it is not yet evaluated and reported."""
    best_step: int | None = None
    """The checkpoint with the lowest loss on the whole validation set ..."""
    best_loss: float | None = None
    """... and that loss."""
    checkpoints_without_gain: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What ``Progress(**document)`` reads."""
        return dataclasses.asdict(self)

    def judge(self, step: int, loss: float) -> None:
        """Take note of a checkpoint's loss on the whole validation set."""
        if self.best_loss is None or loss < self.best_loss:
            self.best_step, self.best_loss, self.checkpoints_without_gain = step, loss, 0
        else:
            self.checkpoints_without_gain += 1
