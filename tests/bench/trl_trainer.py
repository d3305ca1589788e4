"""The plain recipe: TRL's ``SFTTrainer`` with PEFT on the rows and settings of a run folder; the worker's environment.

Prints one JSON object: tokens (padding not counted), seconds (between the first step's beginning and the last one's
end), and the loss on the validation rows, computed row by row without any of TRL.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.began or time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


def main(folder: Path) -> None:
    """Train, measure, print."""
    spec = json.loads((folder / "spec.json").read_text())
    train, validation = (_rows(folder / name) for name in ("train.ndjson", "validation.ndjson"))
    model = AutoModelForCausalLM.from_pretrained(spec["base_folder"], dtype=torch.float32)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as work:
        arguments = SFTConfig(
            output_dir=work,
            per_device_train_batch_size=spec["batch_size"],
            num_train_epochs=spec["n_epochs"],
            learning_rate=spec["learning_rate"],
            lr_scheduler_type=spec["scheduler"],
            max_grad_norm=spec["max_grad_norm"],
            max_length=spec["max_seq_length"],
            seed=spec["seed"],
            optim="adamw_torch",
            weight_decay=0.0,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,  # TRL's default would be slower: the trainer beside it does without, too
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        lora = spec["lora"]
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(train),
            processing_class=AutoTokenizer.from_pretrained(spec["base_folder"]),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=lora["r"], lora_alpha=lora["alpha"], target_modules="all-linear"
            ),
            callbacks=[clock],
        )
        trainer.train()
    figures = {
        "tokens": spec["n_epochs"] * sum(len(row["input_ids"]) for row in train),
        "seconds": clock.ended - clock.began,
        "validation_loss": _loss(trainer.model, validation),
    }
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


def _rows(path: Path) -> list[dict[str, list[int]]]:
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        labels = [-100] * len(row["ids"])
        for start, end in row["trained"]:
            labels[start:end] = row["ids"][start:end]
        rows.append({"input_ids": row["ids"], "labels": labels})
    return rows


def _loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Nats a label."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            log_probs = model.base_model.model(input_ids=ids).logits[0].log_softmax(dim=-1)
            places = [place for place, label in enumerate(row["labels"]) if label != -100]
            total -= sum(log_probs[place - 1, row["labels"][place]].item() for place in places)
            count += len(places)
    return total / count


if __name__ == "__main__":
    main(Path(sys.argv[1]))
