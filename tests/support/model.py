"""A catalogue entry whose tokenizer takes every byte for one token, so that tests can count by eye."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from catalog.models import COMPLETION_WINDOWS, BaseModel
from catalog.services import TokenPrice, TunedPrices, register_model
from tests.support.adapter_files import MODULES
from tests.support.cast import MODEL

ONLINE = TokenPrice(input_nanos=100, cached_input_nanos=50, output_nanos=200)
BATCH = TokenPrice(input_nanos=50, cached_input_nanos=25, output_nanos=100)
TRAINING = TokenPrice(input_nanos=400, cached_input_nanos=400, output_nanos=0)
CHAT_TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}<assistant>"

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As the models of the SmolLM family have it, with tokens of its own around each turn."""
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")


def byte_tokenizer(*specials: str) -> Tokenizer:
    """One token per byte, and one for each special."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    return tokenizer


def make_source(folder: Path, *, context_length: int = 4_096) -> Path:
    """A folder that ``prepare`` takes for a model; of its weights only the format is right."""
    folder.mkdir(parents=True)
    write_tokenizer(folder)
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
    training: TokenPrice | None = None,
    chat_template: str = CHAT_TEMPLATE,
    specials: Sequence[str] = (),
    tuned: TunedPrices | None = None,
) -> BaseModel:
    """Write a prepared model's folder (without weights, which the control plane never reads) and register it.

    The last of the ``specials`` ends a text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, chat_template, specials)
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
    return register_model(
        directory=folder, online=ONLINE, batch=dict.fromkeys(windows, batch), training=training, tuned=tuned
    )


def add_chat_model(folder: Path, *, name: str = MODEL, context_length: int = 4_096) -> BaseModel:
    """A model that can be fine-tuned: :data:`CHATML`, tokens of its own around turns, a price of training."""
    return add_model(
        folder,
        name=name,
        context_length=context_length,
        training=TRAINING,
        chat_template=CHATML,
        specials=TURN_TOKENS,
    )


def write_tokenizer(folder: Path, chat_template: str = CHAT_TEMPLATE, specials: Sequence[str] = ()) -> None:
    """A token for each byte, and for each of the specials, of which the last ends a text."""
    byte_tokenizer(*specials).save(str(folder / "tokenizer.json"))
    config = {"chat_template": chat_template, "eos_token": specials[-1] if specials else "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
