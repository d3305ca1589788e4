"""A catalogue entry whose tokenizer takes every byte for one token, so that tests can count by eye."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from catalog.models import COMPLETION_WINDOWS, BaseModel
from catalog.services import TokenPrice, TunedPrices, register_model
from tests.support.cast import MODEL

ONLINE = TokenPrice(input_nanos=100, cached_input_nanos=50, output_nanos=200)
BATCH = TokenPrice(input_nanos=50, cached_input_nanos=25, output_nanos=100)
MODULES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"self_attn.q_proj": [8, 8], "mlp.up_proj": [16, 8]}.items()
}
"""Linear modules, with output and input size."""
CHAT_TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}<assistant>"


def byte_tokenizer() -> Tokenizer:
    """One token per byte."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_source(folder: Path, *, context_length: int = 4_096) -> Path:
    """A folder that ``prepare`` takes for a model; of its weights only the format is right."""
    folder.mkdir(parents=True)
    _write_tokenizer(folder)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": context_length, "vocab_size": 256}))
    return folder


def add_model(
    folder: Path,
    *,
    name: str = MODEL,
    context_length: int = 4_096,
    batch: TokenPrice = BATCH,
    windows: Sequence[str] = COMPLETION_WINDOWS,
    tuned: TunedPrices | None = None,
) -> BaseModel:
    """Write a prepared model's folder (without weights, which the control plane never reads) and register it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    manifest = {
        "name": name,
        "source": "package:made-for-tests==1",
        "revision": "0" * 64,
        "context_length": context_length,
        "vocab_size": 256,
        "capabilities": ["chat", "completions"],
        "modules": MODULES,
        "files": {},
    }
    (folder / "hone-model.json").write_text(json.dumps(manifest))
    return register_model(directory=folder, online=ONLINE, batch=dict.fromkeys(windows, batch), tuned=tuned)


def _write_tokenizer(folder: Path) -> None:
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE, "eos_token": "</s>"}))
