"""What needs torch to be checked; runs in the worker's environment, see :mod:`.workshop`."""

import random
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from inference_workers.training.dataset import Sequence
from inference_workers.training.log_probs import log_probs
from inference_workers.training.model import TrainedModel
from inference_workers.training.spec import TrainingSpec

VOCABULARY = 256
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
}


def make_model(folder: str, **shape: int) -> None:
    """A random Llama, a few hundred kilobytes; ``shape`` changes its configuration."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**_SHAPE | shape)).save_pretrained(folder)


def make_windowed_model(folder: str) -> None:
    """A random Mistral whose tokens see the last eight only."""
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(**_SHAPE, sliding_window=8)).save_pretrained(folder)


def packing(base: str) -> dict[str, Any]:
    """Log-probabilities, gradients and tokens of the same samples in one packed pass, one padded and one by one."""
    model = _model(base)
    samples = _samples()
    weights = torch.linspace(0.5, 1.5, sum(len(sample.labels) for sample in samples))

    def measure(groups: list[list[Sequence]]) -> tuple[list[float], list[float], int]:
        model.peft.zero_grad()
        answers = [model.answers(group) for group in groups]
        values = torch.cat([answer.log_probs for answer in answers])
        (values * weights).sum().backward()
        gradients = torch.cat([value.grad.flatten() for value in model.parameters.values()])
        return values.tolist(), gradients.tolist(), sum(answer.of.inputs["input_ids"].numel() for answer in answers)

    padded = measure([samples])
    alone = measure([[sample] for sample in samples])
    chosen = model.try_packing(samples)
    packed = measure([samples])
    return {"chosen": chosen, "padded": padded, "alone": alone, "packed": packed}


def model_log_probs(base: str, adapter: str | None, rows: list[list[int]]) -> list[list[float]]:
    """Of each row's tokens but the first, by the libraries alone: the base's logits with the adapter merged by hand."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        weights = load_file(Path(adapter) / "adapter_model.safetensors")
        scale = 2.0  # alpha / r of every test
        for name in [name for name in weights if name.endswith("lora_A.weight")]:
            change = scale * weights[name.replace("lora_A", "lora_B")] @ weights[name]
            module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight.data += change
    found = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            values = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            found.append(values.gather(1, ids[0, 1:, None])[:, 0].tolist())
    return found


def log_probs_of_labels(count: int) -> dict[str, Any]:
    """(log-probabilities, gradients, right) as computed in parts, and by full logits and autograd."""
    torch.manual_seed(1)
    weight, bias = torch.randn(1000, 32), torch.randn(1000)
    labels, weights = torch.randint(1000, (count,)), torch.rand(count)
    start = torch.randn(count, 32)
    hidden = start.clone().requires_grad_()
    values, right = log_probs(hidden, weight, bias, labels)
    (values * weights).sum().backward()
    whole = start.clone().requires_grad_()
    logits = whole @ weight.T + bias
    expected = logits.log_softmax(-1)[torch.arange(count), labels]
    (expected * weights).sum().backward()
    return {
        "found": [values.tolist(), _list(hidden.grad), right.tolist()],
        "expected": [expected.tolist(), _list(whole.grad), (logits.argmax(-1) == labels).tolist()],
    }


def tensorboard_scalars(folder: str) -> dict[str, list[list[float]]]:
    """(step, value) of each tag, read as the format says: length, its checksum, bytes, their checksum."""
    found: dict[str, list[list[float]]] = {}
    for path in sorted(Path(folder).iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append([event.step, value.simple_value])
    return found


def _list(tensor: torch.Tensor | None) -> list[float]:
    assert tensor is not None
    numbers: list[float] = tensor.flatten().tolist()
    return numbers


def _model(base: str) -> TrainedModel:
    spec = TrainingSpec(
        base_folder=base, method="supervised", seed=1, n_epochs=1, batch_size=1, learning_rate=1e-3, max_seq_length=64
    )
    model = TrainedModel(spec, torch.device("cpu"), continue_from=None)
    for value in model.parameters.values():  # a fresh adapter changes nothing and hides mistakes
        torch.nn.init.normal_(value, std=0.1)
    return model


def _samples() -> list[Sequence]:
    """Of different lengths; some begin alike, one is the beginning of another, one is there twice."""
    source = random.Random(2)
    beginning = [source.randrange(VOCABULARY) for _ in range(9)]
    rows = [beginning + [source.randrange(VOCABULARY) for _ in range(length)] for length in (5, 17, 2)]
    rows += [[source.randrange(VOCABULARY) for _ in range(12)], beginning[:6], rows[1]]
    return [
        Sequence(ids=row, labels=list(range(len(row) // 2, len(row))), weights=[1.0] * (len(row) - len(row) // 2))
        for row in rows
    ]
