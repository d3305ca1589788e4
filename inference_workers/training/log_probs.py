"""Log-probabilities of labels without ever holding all logits.

Logits are the largest tensor of a small model's training: tokens x vocabulary. Here they exist for some labels at a
time, and only where there is a label. The layer that makes them is frozen, so nothing but the gradient of the hidden
states is needed, and that is taken while the logits are there: (softmax - onehot) @ W, one row of the hidden size for
each label.
"""

from __future__ import annotations

from typing import Any

import torch

_LABELS_AT_ONCE = 256


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        log_probs = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        right = torch.empty(len(labels), dtype=torch.bool, device=hidden.device)
        for start in range(0, len(labels), _LABELS_AT_ONCE):
            part = slice(start, start + _LABELS_AT_ONCE)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            wanted = labels[part, None]
            right[part] = logits.argmax(dim=-1) == labels[part]
            total = logits.logsumexp(dim=-1)
            log_probs[part] = logits.gather(1, wanted)[:, 0] - total
            if slopes is not None:
                grad = logits.sub_(total[:, None]).exp_().neg_()
                grad.scatter_add_(1, wanted, torch.ones_like(grad[:, :1]))
                slopes[part] = grad.to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(right)
        return log_probs, right

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grad[:, None]).to(slopes.dtype), None, None, None


def log_probs(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each label (N,) its log-probability in nats, float32, and whether it is the likeliest token.

    ``hidden`` is (N, size), ``weight`` (vocabulary, size) and frozen; half precision makes half-precision logits, which
    are summed in float32.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _LogProbs.apply(hidden, weight, bias, labels)
    return result
