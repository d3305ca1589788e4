"""What an adapter's files must be before a node ever sees them.

They come from outside: each is read as data of one strict format (a pickle would run the code inside it), in full, and
held against the base model's shapes. Whether the adapter *does* anything is for the canary to find out.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from django.conf import settings

from catalog.models import BaseModel
from catalog.selectors import linear_modules
from common.errors import HoneError
from common.storage import open_blob
from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_FILES, ADAPTER_WEIGHTS

MAX_CONFIG_BYTES = 256 * 1024
MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Of a safetensors file: room for some two hundred thousand tensors."""
CHUNK_BYTES = 4 * 1024 * 1024
PREFIX = "base_model.model."
"""Before a module's name, in PEFT's format."""

_UNSUPPORTED = (
    "alora_invocation_tokens", "alpha_pattern", "fan_in_fan_out", "layer_replication", "layers_to_transform",
    "lora_bias", "modules_to_save", "rank_pattern", "target_parameters", "trainable_token_indices", "use_bdlora",
    "use_dora", "use_qalora",
)  # fmt: skip
"""Settings of PEFT that change what an adapter means, and that the engine refuses or ignores."""
_INITIAL_WEIGHTS = (None, True, False, "gaussian", "orthogonal")
"""Other ways to begin change the base model, too."""
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# The highest byte of a number says whether it is finite, or nearly: with all of F16's exponent, or all but the last
# bit of the others' (2**127 and above), it is no weight.
_NO_NUMBER = {
    "F32": frozenset({0x7F, 0xFF}),
    "BF16": frozenset({0x7F, 0xFF}),
    "F16": frozenset({*range(0x7C, 0x80), *range(0xFC, 0x100)}),
}


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """A file of an adapter, in the storage."""

    sha256: str
    bytes: int
    storage_key: str


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """What a good adapter is."""

    rank: int
    modules: int
    """How many modules of the base it changes."""
    parameters: int


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    dtype: str
    shape: tuple[int, int]
    begin: int
    end: int


def check_adapter(*, files: Mapping[str, AdapterFile], base: BaseModel) -> AdapterFacts:
    """Read an adapter in full; ``adapter_refused`` says what is wrong with it. Call outside of any scope."""
    modules = linear_modules(base=base)
    if not modules:
        _refuse(f"'{base.name}' was registered without the shapes of its modules; prepare and register it again")
    for path in sorted(files.keys() ^ set(ADAPTER_FILES)):
        _refuse(f"{path!r} is missing" if path in ADAPTER_FILES else f"{path!r} is no file of an adapter")
    _check_bytes(ADAPTER_CONFIG, files[ADAPTER_CONFIG], most=MAX_CONFIG_BYTES)
    _check_bytes(ADAPTER_WEIGHTS, files[ADAPTER_WEIGHTS], most=settings.ADAPTER_MAX_BYTES)
    with open_blob(files[ADAPTER_CONFIG].storage_key) as stream:
        rank = _read_rank(stream.read())
    with open_blob(files[ADAPTER_WEIGHTS].storage_key) as stream:
        tensors = read_header(stream, size=files[ADAPTER_WEIGHTS].bytes)
        changed = _check_shapes(tensors, modules, rank)
        _check_numbers(stream, tensors)
    return AdapterFacts(
        rank=rank, modules=changed, parameters=sum(math.prod(tensor.shape) for tensor in tensors.values())
    )


def read_header(stream: IO[bytes], *, size: int) -> dict[str, _Tensor]:
    """The tensors of a safetensors file of ``size`` bytes; leaves the stream where their bytes begin.

    Format: u64 length of a JSON object, the object, the bytes it describes; source: the safetensors format. Held to
    more than readers ask for: every byte belongs to exactly one tensor, and no name is given twice.
    """
    start = stream.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        _refuse(f"{ADAPTER_WEIGHTS} is not a safetensors file")
    header = _parse(ADAPTER_WEIGHTS, stream.read(length))
    header.pop("__metadata__", None)
    tensors = {name: _read_tensor(name, entry) for name, entry in header.items()}
    if not tensors:
        _refuse(f"{ADAPTER_WEIGHTS} holds no tensor")
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
        if tensor.begin != position or tensor.end - position != math.prod(tensor.shape) * _ITEM_BYTES[tensor.dtype]:
            _refuse(f"{name}: its bytes are not where its shape says")
        position = tensor.end
    if 8 + length + position != size:
        _refuse(f"{ADAPTER_WEIGHTS} has {size} bytes, its header describes {8 + length + position}")
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _check_bytes(path: str, file: AdapterFile, *, most: int) -> None:
    if file.bytes > most:
        _refuse(f"{path} has {file.bytes} bytes; at most {most} are taken")
    with open_blob(file.storage_key) as stream:
        digest = hashlib.sha256()
        for chunk in _chunks(stream, file.bytes + 1):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        _refuse(f"{path} is damaged: its bytes are not those of its checksum")


def _read_rank(content: bytes) -> int:
    config = _parse(ADAPTER_CONFIG, content)
    if config.get("peft_type") != "LORA":
        _refuse(f"only adapters of the kind LORA can be served, not {config.get('peft_type')!r}")
    for name in _UNSUPPORTED:
        if config.get(name):
            _refuse(f"{ADAPTER_CONFIG} sets {name!r}, which cannot be served")
    if config.get("bias", "none") != "none":
        _refuse(f"{ADAPTER_CONFIG} trains biases, which cannot be served")
    if config.get("init_lora_weights") not in _INITIAL_WEIGHTS:
        _refuse(f"{ADAPTER_CONFIG}: init_lora_weights {config['init_lora_weights']!r} changes the base model, too")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= settings.LORA_MAX_RANK:
        _refuse(f"its rank is {rank!r}; adapters of rank 1 to {settings.LORA_MAX_RANK} can be served")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        _refuse(f"lora_alpha is {alpha!r} and must be a number above 0")
    return rank


def _read_tensor(name: str, entry: object) -> _Tensor:
    values: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype = values.get("dtype")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        _refuse(f"{name}: its numbers are {dtype!r}; weights are {', '.join(_ITEM_BYTES)}")
    shape, (begin, end) = _read_pair(name, values.get("shape")), _read_pair(name, values.get("data_offsets"))
    return _Tensor(dtype=dtype, shape=shape, begin=begin, end=end)


def _read_pair(name: str, value: object) -> tuple[int, int]:
    pair = value if isinstance(value, list) else []
    if len(pair) != 2 or not all(type(number) is int and 0 <= number < 2**48 for number in pair):
        _refuse(f"{name}: shape and data_offsets must be two whole numbers each")
    return pair[0], pair[1]


def _check_shapes(tensors: Mapping[str, _Tensor], modules: Mapping[str, tuple[int, int]], rank: int) -> int:
    """Each module of the adapter is one of the base, whole and of the right size; how many there are."""
    left = dict(tensors)
    found = 0
    for name in tensors:
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")
        if name not in (f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"):
            _refuse(f"{name}: tensors are called {PREFIX}<module>.lora_A.weight or .lora_B.weight")
        if module not in modules:
            _refuse(f"{name}: the base model has no linear module '{module}', so this would change nothing")
        if name not in left:
            continue
        rows, columns = modules[module]
        for part, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            tensor = left.pop(f"{PREFIX}{module}.lora_{part}.weight", None)
            if tensor is None:
                _refuse(f"{module}: lora_{part} is missing")
            if tensor.shape != shape:
                _refuse(f"{module}: lora_{part} has the shape {list(tensor.shape)}, not {list(shape)}")
        found += 1
    return found


def _check_numbers(stream: IO[bytes], tensors: Mapping[str, _Tensor]) -> None:
    for name, tensor in tensors.items():
        step = _ITEM_BYTES[tensor.dtype]
        for chunk in _chunks(stream, tensor.end - tensor.begin):
            # The highest bytes alone, numbers being stored from the lowest byte on; a chunk holds whole numbers.
            if not _NO_NUMBER[tensor.dtype].isdisjoint(chunk[step - 1 :: step]):
                _refuse(f"{name} holds numbers that are not finite")


def _chunks(stream: IO[bytes], length: int) -> Iterator[bytes]:
    while length > 0 and (chunk := stream.read(min(length, CHUNK_BYTES))):
        length -= len(chunk)
        yield chunk


def _parse(path: str, content: bytes) -> dict[str, Any]:
    """A JSON object in which no member is given twice: which of two counts, readers disagree about."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member is given twice")
        return members

    try:
        value = json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise HoneError("adapter_refused", f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        _refuse(f"{path} does not hold a JSON object")
    return value


def _refuse(reason: str) -> NoReturn:
    raise HoneError("adapter_refused", f"The adapter cannot be served: {reason}")
