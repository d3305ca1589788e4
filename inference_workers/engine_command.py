"""The command line and the environment of an engine: what the configuration says, over the defaults of its device."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .config import EngineArgument, ModelConfig

VLLM = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
"""Also there in builds that have no ``vllm`` command."""

COMMON_ARGS: dict[str, EngineArgument] = {
    "disable-uvicorn-access-log": True,  # a line per row would drown every other
    "scheduling-policy": "priority",  # requests of batches come after those of people who wait
}
COMMON_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # everything was brought by `prepare`
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",  # seconds; longer than the agent keeps an idle connection
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
}
BATCH_PRIORITY = 10
"""Of a request that nobody waits for: vLLM takes lower numbers first, and 0 where a request says nothing."""
DEVICE_ARGS: dict[str, dict[str, EngineArgument]] = {
    "cpu": {
        "dtype": "float32",  # without bf16 units in the CPU half precision is emulated, at half the speed
        "enforce-eager": True,  # compiling costs over a minute and gains nothing clear
        # A request with a seed whose prompt is prefilled in chunks kills the CPU engine for everybody.
        "enable-chunked-prefill": False,
    },
}
DEVICE_ENVIRONMENT = {
    "cpu": {
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; without it the engine does not start
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    },
}


def engine_command(
    model: ModelConfig, folder: Path, *, context_length: int, port: int, modules: Iterable[str] = ()
) -> list[str]:
    """The argument vector. A command of the operator's own gets the four flags every engine needs, no defaults.

    ``modules`` are the names of the linear modules that adapters may change (``hone-model.json``).
    """
    owned: dict[str, EngineArgument] = {
        "host": "127.0.0.1",
        "port": port,
        "served-model-name": model.name,
        "model": str(folder),
    }
    if model.command:
        return [*model.command, *_flags(owned | model.engine_args)]
    arguments = _arguments(model, modules)
    if arguments.get("enable-chunked-prefill") is False and "max-num-batched-tokens" not in arguments:
        arguments["max-num-batched-tokens"] = context_length  # a whole prompt must fit one step
    return [*VLLM, *_flags(owned | arguments)]


def engine_environment(model: ModelConfig, *, api_key: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Of the agent's own environment everything but its secrets, then defaults, then the configuration.

    The key travels here and not in the arguments, which every user of the machine can list.
    """
    inherited = {key: value for key, value in environ.items() if not key.startswith("HONE_")}
    defaults = COMMON_ENVIRONMENT | DEVICE_ENVIRONMENT.get(model.device, {})
    owned = {"VLLM_API_KEY": api_key} | ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if model.lora else {})
    return defaults | inherited | model.environment | owned


def batch_members(model: ModelConfig) -> dict[str, int]:
    """What is added to the body of a batch's request.

    A priority, where the engine is our own vLLM under the priority policy: it refuses one under any other, and what
    a server of the operator's own makes of it we cannot know.
    """
    by_priority = not model.command and _arguments(model)["scheduling-policy"] == "priority"
    return {"priority": BATCH_PRIORITY} if by_priority else {}


def _arguments(model: ModelConfig, modules: Iterable[str] = ()) -> dict[str, EngineArgument]:
    return COMMON_ARGS | DEVICE_ARGS.get(model.device, {}) | _named(model) | _lora(model, modules) | model.engine_args


def _lora(model: ModelConfig, modules: Iterable[str]) -> dict[str, EngineArgument]:
    if model.lora is None:
        return {}
    arguments: dict[str, EngineArgument] = {
        "enable-lora": True,
        "max-loras": model.lora.max_loras,
        "max-lora-rank": model.lora.max_rank,
    }
    if suffixes := sorted({name.rpartition(".")[2] for name in modules}):
        # Otherwise the last layer is made ready for adapters, too, though none may change it: that costs time with
        # every token, and on the CPU backend a request for prompt_logprobs then kills the engine.
        arguments["lora-target-modules"] = list(suffixes)
    return arguments


def _named(model: ModelConfig) -> dict[str, EngineArgument]:
    options: dict[str, EngineArgument | None] = {
        "tensor-parallel-size": model.tensor_parallel_size,
        "pipeline-parallel-size": model.pipeline_parallel_size,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "max-model-len": model.max_model_len,
    }
    return {name: value for name, value in options.items() if value is not None}


def _flags(arguments: Mapping[str, EngineArgument]) -> list[str]:
    flags: list[str] = []
    for name, value in arguments.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is False:
            flags.append(f"--no-{name}")
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags
