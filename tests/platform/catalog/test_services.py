"""Models and prices come into the catalogue, and leave it."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from catalog.models import COMPLETION_WINDOWS, BaseModel, Price
from catalog.selectors import current_prices
from catalog.services import TokenPrice, register_model, retire_model
from catalog.tokens import token_counter
from common.errors import HoneError
from tests.support.blobs import blobs
from tests.support.model import BATCH, ONLINE, add_model
from tests.support.threads import at_once

Change = Callable[[Path], Any]


@pytest.fixture
def folder(database: None, tmp_path: Path) -> Path:
    add_model(tmp_path / "model")
    return tmp_path / "model"


def prices() -> list[tuple[str, str, int, int]]:
    rows = Price.objects.order_by("kind", "version")
    return [(row.kind, row.completion_window, row.version, row.input_nanos) for row in rows]


def batch(price: TokenPrice) -> dict[str, TokenPrice]:
    return {"24h": price}


def current(kind: Price.Kind, window: str = "") -> Price:
    return current_prices(kind=kind, completion_window=window)[BaseModel.objects.get().id]


def edit(**changes: Any) -> Change:
    """Change members of the manifest; None takes one out."""

    def change(folder: Path) -> None:
        path = folder / "hone-model.json"
        manifest = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))

    return change


def write(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def test_registering_again_changes_nothing(folder: Path) -> None:
    before = list(BaseModel.objects.values()), list(Price.objects.values()), blobs()
    register_model(directory=folder, online=ONLINE, batch=batch(BATCH))
    assert (list(BaseModel.objects.values()), list(Price.objects.values()), blobs()) == before
    assert prices() == [*(("batch", window, 1, 50) for window in COMPLETION_WINDOWS), ("online", "", 1, 100)]


def test_a_new_price_is_a_new_version_and_the_old_one_stays(folder: Path) -> None:
    old = Price.objects.get(kind=Price.Kind.BATCH, completion_window="24h")
    register_model(directory=folder, online=ONLINE, batch=batch(TokenPrice(60, 30, 120)))
    assert prices() == [
        ("batch", "1h", 1, 50), ("batch", "24h", 1, 50), ("batch", "7d", 1, 50), ("batch", "24h", 2, 60),
        ("online", "", 1, 100),
    ]  # fmt: skip
    assert Price.objects.get(id=old.id).output_nanos == 100
    new = current(Price.Kind.BATCH, "24h")
    assert (new.version, new.input_nanos, new.cached_input_nanos, new.output_nanos) == (2, 60, 30, 120)
    register_model(directory=folder, online=ONLINE, batch=batch(BATCH))
    assert current(Price.Kind.BATCH, "24h").version == 3


def test_a_window_without_a_price_is_not_sold(database: None, tmp_path: Path) -> None:
    add_model(tmp_path / "model", windows=["24h"])
    assert current_prices(kind=Price.Kind.BATCH, completion_window="1h") == {}


def test_registrations_at_the_same_time_number_prices_one_after_the_other(folder: Path) -> None:
    def register(nanos: int) -> None:
        register_model(directory=folder, online=ONLINE, batch=batch(TokenPrice(nanos, nanos, nanos)))

    at_once(*[lambda nanos=nanos: register(nanos) for nanos in (61, 62, 63)])
    assert [version for _, window, version, _ in prices() if window == "24h"] == [1, 2, 3, 4]


def test_a_new_revision_replaces_the_old_one_with_its_tokenizer(folder: Path) -> None:
    before = BaseModel.objects.get()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [
        {"id": 256, "content": "</s>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
    ]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit(revision="1" * 64, context_length=2_048)(folder)
    after = register_model(directory=folder, online=ONLINE, batch=batch(BATCH))
    assert (after.id, after.revision, after.context_length) == (before.id, "1" * 64, 2_048)
    assert (token_counter(before).count_text("a</s>"), token_counter(after).count_text("a</s>")) == (5, 2)


def test_a_retired_model_comes_back_when_it_is_registered(folder: Path) -> None:
    retire_model(name="little")
    retire_model(name="little")
    assert not BaseModel.objects.get().is_active
    register_model(directory=folder, online=ONLINE, batch=batch(BATCH))
    assert BaseModel.objects.get().is_active


def test_an_unknown_model_cannot_be_retired(folder: Path) -> None:
    with pytest.raises(HoneError, match="'other' does not exist"):
        retire_model(name="other")
    assert BaseModel.objects.get().is_active


@pytest.mark.parametrize(
    "change",
    [
        edit(name="a/b"), edit(name="../../x"), edit(name=""), edit(name="a b"), edit(name="x" * 201), edit(name=7),
        edit(name=None), edit(revision=None), edit(context_length=0), edit(context_length="many"),
        edit(capabilities=["fly"]), edit(capabilities=3),
        write("hone-model.json", "{"), write("hone-model.json", "[]"), write("tokenizer.json", "{}"),
        write("tokenizer_config.json", "[]"), write("chat_template.jinja", "{% for %}"),
        lambda folder: (folder / "hone-model.json").unlink(), lambda folder: (folder / "tokenizer.json").unlink(),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_prepared_model(folder: Path, change: Change) -> None:
    before = list(BaseModel.objects.values()), list(Price.objects.values()), blobs()
    change(folder)
    with pytest.raises(HoneError, match="is not a prepared model") as caught:
        register_model(directory=folder, online=ONLINE, batch=batch(TokenPrice(1, 1, 1)))
    assert caught.value.code == "invalid_value"
    assert (list(BaseModel.objects.values()), list(Price.objects.values()), blobs()) == before


def run(folder: Path, **options: str | list[str]) -> str:
    out = StringIO()
    call_command("register_model", str(folder), stdout=out, **options)
    return out.getvalue()


def test_the_command_registers_at_dollars_per_million_tokens(folder: Path) -> None:
    assert run(folder) == "little is registered (revision 000000000000, 4096 tokens)\n"
    online = current(Price.Kind.ONLINE)
    assert (online.input_nanos, online.cached_input_nanos, online.output_nanos) == (50, 50, 100)
    found = [current(Price.Kind.BATCH, window) for window in ("1h", "24h", "7d")]
    assert [(price.input_nanos, price.output_nanos) for price in found] == [(40, 80), (25, 50), (20, 40)]


def test_the_command_takes_prices(folder: Path) -> None:
    run(folder, input_usd="0.2", output_usd="8", batch_factor=["24h=0.25", "7d=0.1"])
    assert current(Price.Kind.ONLINE).output_nanos == 8_000
    found = [current(Price.Kind.BATCH, window) for window in ("1h", "24h", "7d")]
    assert [(price.input_nanos, price.output_nanos) for price in found] == [(160, 6_400), (50, 2_000), (20, 800)]


@pytest.mark.parametrize(
    "options",
    [{"input_usd": "0.0001"}, {"input_usd": "-1"}, {"output_usd": "abc"}, {"output_usd": "NaN"}, {"output_usd": "1e3"},
     {"batch_factor": ["24h=x"]}, {"batch_factor": ["24h=-1"]}, {"input_usd": "0.001"}],
)  # fmt: skip
def test_a_price_that_cannot_be_charged_exactly_is_refused(folder: Path, options: dict[str, Any]) -> None:
    before = prices()
    with pytest.raises(CommandError, match="dollars"):
        run(folder, **options)
    assert prices() == before


@pytest.mark.parametrize("text", ["0.5", "2h=0.5", "=0.5"])
def test_a_window_that_is_not_offered_has_no_price(folder: Path, text: str) -> None:
    before = prices()
    with pytest.raises(CommandError, match="WINDOW=FACTOR"):
        run(folder, batch_factor=[text])
    assert prices() == before


def test_the_command_explains_a_folder_that_is_no_model(database: None, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a prepared model"):
        run(tmp_path)
    assert not BaseModel.objects.exists()
