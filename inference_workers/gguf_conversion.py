"""Turn a GGUF file into a folder of safetensors: ``python -m inference_workers.gguf_conversion FILE FOLDER``

A program of its own: its memory goes back to the machine, and the agent never imports torch. The engine reads GGUF
only with extra packages and slowly on a CPU; dequantised once to half precision it is an ordinary model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

PROBE = "The capital of France is"
PROBE_TOKENS = 8


def main() -> None:
    """Convert, then prove that the folder answers as the file did."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    metadata = GGUFReader(source)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _require_same_start(metadata, tokenizer)
    original = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    settings = original.config.to_dict()
    settings.pop("quantization_config", None)  # it would send a loader back to the GGUF file
    settings.pop("_model_name_or_path", None)
    model = type(original)(type(original.config)(**settings))
    model.load_state_dict(original.state_dict())
    half = all(bool(torch.isfinite(tensor.half()).all()) for tensor in model.state_dict().values())
    model.to(torch.float16 if half else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    expected = _continue(original, tokenizer)
    answer = _continue(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer)
    if answer != expected:
        sys.exit(f"the converted model continues {PROBE!r} with {answer!r}, the original with {expected!r}")
    licence = _field(metadata, "general.license")
    (folder / "README.md").write_text(f"---\nlicense: {licence or 'unknown'}\n---\nConverted from {source.name}.\n")
    sys.stdout.write(json.dumps({"probe": PROBE, "answer": answer}) + "\n")


def _require_same_start(metadata: GGUFReader, tokenizer: Any) -> None:
    """Some conversions silently drop the start token (Gemma), which ruins every answer: refuse them."""
    wanted = _field(metadata, "tokenizer.ggml.add_bos_token")
    if wanted is not None and bool(wanted) != (tokenizer(PROBE)["input_ids"][0] == tokenizer.bos_token_id):
        sys.exit("the tokenizer made from this GGUF file does not treat the start token as the file demands")


def _field(metadata: GGUFReader, key: str) -> Any:
    field = metadata.get_field(key)
    return field.contents() if field else None


def _continue(model: Any, tokenizer: Any) -> str:
    inputs = tokenizer(PROBE, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=PROBE_TOKENS, do_sample=False)
    return str(tokenizer.decode(tokens[0][inputs["input_ids"].shape[1] :]))


if __name__ == "__main__":
    main()
