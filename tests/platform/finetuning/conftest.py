"""Fine-tuning needs a model in the catalogue that may be trained."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from common.storage import open_blob, save_new
from finetuning import preparation
from finetuning.datasets import DatasetPart, DatasetRequest, PreparedDataset
from tests.support.cast import Cast
from tests.support.model import add_model


@pytest.fixture(autouse=True)
def model(cast: Cast, tmp_path: Path) -> None:
    """A model of one token per byte and a context of 4,096."""
    add_model(tmp_path / "model")


@pytest.fixture(autouse=True)
def datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*, request: DatasetRequest, keep_alive: Callable[[], None]) -> PreparedDataset:
        with open_blob(request.training_file.storage_key) as file:
            lines = [{"line": number, "ids": [1] * 10, "trained": [[5, 10]]} for number, _ in enumerate(file, start=1)]
        keep_alive()
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        key = save_new(request.training_file.organization_id, "training", data)
        train = DatasetPart(
            storage_key=key, sha256=sha256(data).hexdigest(), bytes=len(data), rows=len(lines),
            tokens=10 * len(lines), trained_tokens=5 * len(lines),
        )  # fmt: skip
        return PreparedDataset(
            train=train, validation=None, evaluation=None, skipped_rows=0, truncated_rows=0, labels=None, problems=[]
        )

    monkeypatch.setattr(preparation, "prepare_dataset", prepare)
