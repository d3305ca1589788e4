"""An adapter's files are read as data, in full, and held against the base before a node ever sees them."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from catalog.adapters import check_adapter
from catalog.models import BaseModel
from common.errors import HoneError
from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tests.services import storage_root
from tests.support.adapter_files import CONFIG, MODULES, RANK, adapter_contents, safetensors, shapes_of
from tests.support.adapters import stored
from tests.support.cast import Cast
from tests.support.model import add_model

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
INFINITE = {"F32": b"\0\0\x80\x7f", "BF16": b"\x80\x7f", "F16": b"\0\x7c"}
NOT_A_NUMBER = {"F32": b"\1\0\x80\xff", "BF16": b"\x81\xff", "F16": b"\1\xfe"}
GREAT = {"F32": b"\xff\xff\x7f\x7e", "BF16": b"\xff\x7e", "F16": b"\xff\x7b"}


@pytest.fixture
def base(cast: Cast, tmp_path: Path) -> BaseModel:
    return add_model(tmp_path / "model")


def check(cast: Cast, base: BaseModel, **changes: bytes) -> Any:
    return check_adapter(files=stored(cast.alice, adapter_contents(**changes)), base=base)


def config(**changes: Any) -> bytes:
    return json.dumps(CONFIG | changes).encode()


def header(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The weights with another header over the same bytes."""
    good = safetensors(shapes_of())
    (length,) = struct.unpack("<Q", good[:8])
    value = json.loads(good[8 : 8 + length])
    changed = change(value)
    text = json.dumps(value if changed is None else changed).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + length :]


def test_a_good_adapter(cast: Cast, base: BaseModel) -> None:
    facts = check(cast, base)
    assert (facts.rank, facts.modules) == (RANK, len(MODULES))
    assert facts.parameters == sum(RANK * (out + into) for out, into in MODULES.values())


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_every_kind_of_numbers_up_to_the_greatest(cast: Cast, base: BaseModel, dtype: str) -> None:
    weights = safetensors(shapes_of(), dtype=dtype, item=GREAT[dtype])
    assert check(cast, base, weights=weights).modules == len(MODULES)


def test_some_of_the_modules_and_harmless_settings_are_enough(cast: Cast, base: BaseModel) -> None:
    (name, shape), *_ = MODULES.items()
    weights = safetensors(shapes_of({name: shape}))
    settings = config(peft_version="0.19.1", use_dora=False, rank_pattern={}, modules_to_save=None, use_rslora=True)
    assert check(cast, base, weights=weights, config=settings).modules == 1


@pytest.mark.parametrize(
    "pickle", [b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94.", b"PK\x03\x04" + bytes(60), b"", b"\x93NUMPY"]
)
def test_a_pickle_under_the_right_name_is_refused(cast: Cast, base: BaseModel, pickle: bytes) -> None:
    with pytest.raises(HoneError, match="is not a safetensors file") as caught:
        check(cast, base, weights=pickle)
    assert caught.value.code == "adapter_refused"


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "../evil.py", "README.md", "adapter_model.safetensors.index.json"]
)
def test_a_file_that_has_no_business_there_is_refused(cast: Cast, base: BaseModel, name: str) -> None:
    with pytest.raises(HoneError, match="is no file of an adapter"):
        check_adapter(files=stored(cast.alice, adapter_contents() | {name: b"x"}), base=base)


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
def test_a_file_that_is_missing(cast: Cast, base: BaseModel, name: str) -> None:
    files = stored(cast.alice, adapter_contents())
    del files[name]
    with pytest.raises(HoneError, match=f"'{name}' is missing"):
        check_adapter(files=files, base=base)


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + b"\x3e", lambda content: content + b"x"])
def test_bytes_that_are_not_those_of_the_checksum(
    cast: Cast, base: BaseModel, damage: Callable[[bytes], bytes]
) -> None:
    files = stored(cast.alice, adapter_contents())
    path = storage_root() / files[ADAPTER_WEIGHTS].storage_key
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HoneError, match="is damaged"):
        check_adapter(files=files, base=base)


def test_a_base_that_was_registered_without_its_modules(cast: Cast, base: BaseModel) -> None:
    base.modules_key = ""
    with pytest.raises(HoneError, match="prepare and register it again"):
        check(cast, base)


def test_what_is_too_large_is_not_read(cast: Cast, base: BaseModel, settings: Settings) -> None:
    settings.ADAPTER_MAX_BYTES = 100
    with pytest.raises(HoneError, match="at most 100 are taken"):
        check(cast, base)


CONFIGURATIONS: dict[str, bytes] = {
    "no JSON": b"{",
    "twice": b'{"r": 4, "r": 8}',
    "deep": b"[" * 100_000,
    "no object": b"[]",
    "not UTF-8": b'{"a": "\xff"}',
    "another kind": config(peft_type="IA3"),
    "no kind": config(peft_type=None),
    "no rank": config(r=None),
    "rank as text": config(r="4"),
    "rank 0": config(r=0),
    "rank above the limit": config(r=1_000),
    "true": config(r=True),
    "no alpha": config(lora_alpha=None),
    "alpha 0": config(lora_alpha=0),
    "alpha infinite": config(lora_alpha=float("inf")),
    "DoRA": config(use_dora=True),
    "bias": config(bias="all"),
    "bias of LoRA": config(lora_bias=True),
    "whole modules": config(modules_to_save=["lm_head"]),
    "ranks of modules": config(rank_pattern={"q_proj": 2}),
    "scales of modules": config(alpha_pattern={"q_proj": 2}),
    "layers twice": config(layer_replication=[[0, 1]]),
    "changed base": config(init_lora_weights="pissa"),
    "transposed": config(fan_in_fan_out=True),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_that_cannot_be_served(cast: Cast, base: BaseModel, name: str) -> None:
    with pytest.raises(HoneError) as caught:
        check(cast, base, config=CONFIGURATIONS[name])
    assert caught.value.code == "adapter_refused"


def _rename(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda entries: {name.replace(old, new): entry for name, entry in entries.items()}


def _set(member: str, value: object, name: str = f"{Q_PROJ}.lora_A.weight") -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries[name].update({member: value})


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "names of another model": (_rename("self_attn.q_proj", "attn.c_attn"), "no linear module"),
    "without the prefix": (_rename("base_model.model.", ""), "tensors are called"),
    "with another prefix": (_rename("base_model.model.", "base_model.model.base_model.model."), "no linear module"),
    "an embedding": (_rename("lora_A.weight", "lora_embedding_A"), "tensors are called"),
    "half a module": (_rename("0.self_attn.q_proj.lora_B", "7.self_attn.q_proj.lora_B"), "lora_B is missing"),
    "float64": (_set("dtype", "F64"), "its numbers are"),
    "whole numbers": (_set("dtype", "I32"), "its numbers are"),
    "no dtype": (_set("dtype", None), "its numbers are"),
    "dtype as list": (_set("dtype", ["F32"]), "its numbers are"),
    "turned": (_set("shape", [8, 4]), "has the shape"),
    "three dimensions": (_set("shape", [1, 4, 8]), "two whole numbers"),
    "negative": (_set("shape", [-4, -8]), "two whole numbers"),
    "fractions": (_set("shape", [4.0, 8.0]), "two whole numbers"),
    "enormous": (_set("shape", [2**62, 2**62]), "two whole numbers"),
    "smaller than its bytes": (_set("shape", [4, 4]), "not where its shape says"),
    "over another": (_set("data_offsets", [64, 192]), "not where its shape says"),
    "beyond the end": (_set("data_offsets", [0, 2**40]), "not where its shape says"),
    "backwards": (_set("data_offsets", [128, 0]), "not where its shape says"),
    "one place": (_set("data_offsets", [0]), "two whole numbers"),
    "no entry": (lambda entries: dict.fromkeys(entries, 7), "its numbers are"),
    "no tensors": (lambda entries: {"__metadata__": {}}, "holds no tensor"),
    "an array": (lambda entries: [], "does not hold a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_not_that_of_an_adapter(cast: Cast, base: BaseModel, name: str) -> None:
    change, reason = HEADERS[name]
    with pytest.raises(HoneError, match=reason) as caught:
        check(cast, base, weights=header(change))
    assert caught.value.code == "adapter_refused"


def test_a_header_longer_than_the_file(cast: Cast, base: BaseModel) -> None:
    with pytest.raises(HoneError, match="is not a safetensors file"):
        check(cast, base, weights=struct.pack("<Q", 2**63) + safetensors(shapes_of())[8:])


def test_a_name_that_is_given_twice(cast: Cast, base: BaseModel) -> None:
    good = safetensors(shapes_of())
    (length,) = struct.unpack("<Q", good[:8])
    text = good[8 : 8 + length]
    twice = text[:-1] + b", " + text[1:]
    with pytest.raises(HoneError, match="a member is given twice"):
        check(cast, base, weights=struct.pack("<Q", len(twice)) + twice + good[8 + length :])


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("numbers", [INFINITE, NOT_A_NUMBER], ids=["infinite", "not a number"])
def test_numbers_that_are_not_finite(cast: Cast, base: BaseModel, dtype: str, numbers: dict[str, bytes]) -> None:
    weights = safetensors(shapes_of(), dtype=dtype, item=GREAT[dtype])
    item = numbers[dtype]
    with pytest.raises(HoneError, match="not finite"):
        check(cast, base, weights=weights[: -len(item)] + item)


def test_another_rank_than_the_configuration_says(cast: Cast, base: BaseModel) -> None:
    with pytest.raises(HoneError, match=r"lora_A has the shape \[2, 8\], not \[4, 8\]"):
        check(cast, base, weights=safetensors(shapes_of(rank=2)))
