"""What transformers and PEFT say of the likelihood of texts: ``python reference_losses.py MODEL ADAPTER ROWS``.

Run with the worker's Python. ``ROWS`` is an evaluation's NDJSON; prints, for each row with ``ids``, the mean negative
log-likelihood of its trained tokens by the base model and by the model with the adapter, as a JSON list of pairs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    model_folder, adapter_folder, rows_file = map(Path, sys.argv[1:])
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    rows = [row for row in rows if row.get("ids")]
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    base = [_loss(model, row) for row in rows]
    tuned_model = PeftModel.from_pretrained(model, adapter_folder).eval()
    tuned = [_loss(tuned_model, row) for row in rows]
    sys.stdout.write(json.dumps(list(zip(base, tuned, strict=True))))


def _loss(model: torch.nn.Module, row: dict[str, Any]) -> float:
    with torch.no_grad():
        scores = torch.log_softmax(model(torch.tensor([row["ids"]])).logits[0].double(), dim=-1)
    places = [place for start, end in row["trained"] for place in range(max(1, start), end)]
    return -sum(float(scores[place - 1, row["ids"][place]]) for place in places) / len(places)


if __name__ == "__main__":
    main()
