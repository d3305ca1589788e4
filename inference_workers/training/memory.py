"""How many tokens a device computes at once: enough to keep it busy, not so many that activations fill its memory."""

from __future__ import annotations

from typing import Any

import torch

_CPU_TOKENS = 1024
_LEAST, _MOST = 1024, 16384
_USABLE = 0.7
"""Of a device's memory; the rest is for the adapter, its optimiser, logits and what the allocator wastes."""
_HIDDEN_SIZES, _INTERMEDIATE_SIZES, _BYTES = 14, 5, 4
"""What one layer keeps of one token for its gradient: so many vectors of each size, counted as float32. Measured."""


def tokens_at_once(config: Any, device: torch.device, *, weights_bytes: int, checkpointing: bool) -> int:
    """Most tokens of one pass of this model; a longer example is a pass of its own."""
    if device.type != "cuda":
        return _CPU_TOKENS
    memory = torch.cuda.get_device_properties(device).total_memory
    return fitting_tokens(config, memory_bytes=memory, weights_bytes=weights_bytes, checkpointing=checkpointing)


def fitting_tokens(config: Any, *, memory_bytes: int, weights_bytes: int, checkpointing: bool) -> int:
    """The same for a memory of that size."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    layer = _HIDDEN_SIZES * hidden + _INTERMEDIATE_SIZES * getattr(config, "intermediate_size", 4 * hidden)
    kept = layers * hidden + layer if checkpointing else layers * layer
    room = _USABLE * memory_bytes - weights_bytes
    return max(_LEAST, min(_MOST, int(room / (kept * _BYTES))))
