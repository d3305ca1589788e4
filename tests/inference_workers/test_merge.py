"""A fine-tuned model that was taken home becomes an ordinary one, by a program with torch in it."""

import json
import math
import struct
import subprocess
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_workers.protocol import ADAPTER_WEIGHTS
from tests.inference_workers.test_real_vllm import PYTHON
from tests.support.adapter_files import CONFIG, MODULES, adapter_contents, safetensors, write

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PYTHON.exists(), reason="the worker's environment is not installed"),
]

REVISION = "a" * 64


def make_base(folder: Path) -> Path:
    """A prepared model whose matrices hold ones, and an embedding."""
    shapes = {f"{name}.weight": tuple(shape) for name, shape in MODULES.items()} | {"model.embed_tokens.weight": (4, 8)}
    card = {"name": "little", "revision": REVISION}
    return write(
        folder,
        {
            "model.safetensors": safetensors(shapes),
            "config.json": b"{}",
            "tokenizer.json": b"{}",
            "hone-model.json": json.dumps(card).encode(),
        },
    )


def make_adapter(folder: Path, key: Ed25519PrivateKey, **changes: bytes) -> Path:
    """An unpacked archive: weights of ones, a manifest and its signature."""
    contents = adapter_contents(**changes)
    files = {path: {"sha256": sha256(content).hexdigest()} for path, content in contents.items()}
    manifest = json.dumps({"base": "little", "base_revision": REVISION, "files": files}).encode()
    signed = {"manifest.json": manifest, "manifest.json.sig": b64encode(key.sign(manifest))}
    return write(folder, contents | signed)


def pem(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def merge(adapter: Path, base: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folders = ["--adapter", str(adapter), "--base", str(base), "--out", str(out)]
    command = [str(PYTHON), "-m", "inference_workers", "merge", *folders, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def read(path: Path) -> dict[str, set[float]]:
    """The values that each tensor (of float32) holds."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    values = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + place for place in entry["data_offsets"])
            assert end - begin == 4 * math.prod(entry["shape"])
            values[name] = set(struct.unpack(f"<{(end - begin) // 4}f", content[begin:end]))
    return values


def test_the_adapter_is_added_to_its_modules_and_to_nothing_else(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    base, adapter = make_base(tmp_path / "base"), make_adapter(tmp_path / "adapter", key)
    public = pem(tmp_path / "key.pem", key)
    done = merge(adapter, base, tmp_path / "out", "--public-key", str(public))
    assert done.returncode == 0, done.stderr
    # Each product of ones is summed over the rank of 4, and scaled by alpha over the rank, 8 over 4.
    expected = {f"{name}.weight": {1.0 + 4 * 8 / 4} for name in MODULES} | {"model.embed_tokens.weight": {1.0}}
    assert read(tmp_path / "out" / "model.safetensors") == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter-manifest.json", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_rank_stabilised_adapters_are_scaled_as_they_were_trained(tmp_path: Path) -> None:
    config = json.dumps(CONFIG | {"use_rslora": True}).encode()
    adapter = make_adapter(tmp_path / "adapter", Ed25519PrivateKey.generate(), config=config)
    assert merge(adapter, make_base(tmp_path / "base"), tmp_path / "out").returncode == 0
    (value,) = read(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert value == 1.0 + 4 * 8 / math.sqrt(4)


def test_what_does_not_belong_together_is_not_merged(tmp_path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    base, adapter = make_base(tmp_path / "base"), make_adapter(tmp_path / "adapter", key)
    stranger = pem(tmp_path / "other.pem", other)
    damaged = make_adapter(tmp_path / "damaged", key)
    (damaged / ADAPTER_WEIGHTS).write_bytes(safetensors({"x": (1, 1)}))
    foreign = make_base(tmp_path / "foreign")
    (foreign / "hone-model.json").write_text(json.dumps({"name": "little", "revision": "b" * 64}))
    bare = write(tmp_path / "bare", adapter_contents(weights=safetensors({"base_model.model.x.lora_A.weight": (4, 8)})))
    refused = {
        "was not signed with this key": merge(adapter, base, tmp_path / "out", "--public-key", str(stranger)),
        "is not the file that the manifest describes": merge(damaged, base, tmp_path / "out"),
        "trained on revision aaaaaaaaaaaa": merge(adapter, foreign, tmp_path / "out"),
        "it is another model": merge(bare, base, tmp_path / "out"),
        "is not a prepared model": merge(adapter, tmp_path, tmp_path / "out"),
        "exists already": merge(adapter, base, base),
    }
    for reason, done in refused.items():
        assert done.returncode == 1
        assert "merge failed: " in done.stderr
        assert reason in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
