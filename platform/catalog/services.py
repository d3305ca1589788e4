"""Writes about models and prices: an operator's work, done in the system role."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import transaction

from catalog.models import BaseModel, Price
from common.database import SYSTEM
from common.errors import HoneError
from common.storage import save_bytes

MANIFEST = "hone-model.json"
"""Written beside the weights by ``python -m inference_workers prepare``."""


@dataclass(frozen=True)
class TokenPrice:
    """Nano-USD per token."""

    input_nanos: int
    cached_input_nanos: int
    output_nanos: int


def register_model(*, directory: Path, online: TokenPrice, batch: TokenPrice) -> BaseModel:
    """Put a prepared model into the catalogue, or bring its entry and prices up to date. Safe to repeat."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        tokenizer = (directory / "tokenizer.json").read_bytes()
        tokenizer_config: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_text())
    except (OSError, ValueError) as error:
        raise HoneError("invalid_value", f"{directory} is not a prepared model: {error}") from error
    template_file = directory / "chat_template.jinja"
    template = template_file.read_text() if template_file.exists() else tokenizer_config.get("chat_template", "")
    key = f"catalog/{manifest['name']}/{manifest['revision']}/tokenizer.json"
    model = BaseModel.objects.using(SYSTEM).filter(name=manifest["name"]).first()
    if model is None or model.revision != manifest["revision"] or not model.tokenizer_key:
        key = _store_tokenizer(key, tokenizer)
    else:
        key = model.tokenizer_key
    with transaction.atomic(using=SYSTEM):
        model, _ = BaseModel.objects.using(SYSTEM).update_or_create(
            name=manifest["name"],
            defaults={
                "revision": manifest["revision"],
                "source": manifest["source"],
                "context_length": manifest["context_length"],
                "capabilities": manifest["capabilities"],
                "tokenizer_key": key,
                "chat_template": template,
                "special_tokens": {
                    name: value["content"] if isinstance(value, dict) else value
                    for name, value in tokenizer_config.items()
                    if name.endswith("_token") and isinstance(value, (str, dict))
                },
                "is_active": True,
            },
        )
        _set_price(model, Price.Kind.ONLINE, "", online)
        _set_price(model, Price.Kind.BATCH, "24h", batch)
    return model


def retire_model(*, name: str) -> None:
    """Take a model out of the catalogue: nothing new may name it, and what waits for it fails clearly."""
    if not BaseModel.objects.using(SYSTEM).filter(name=name).update(is_active=False):
        raise HoneError("model_not_found", f"The model '{name}' does not exist", param="model")


def _store_tokenizer(key: str, tokenizer: bytes) -> str:
    save_bytes(key, tokenizer)
    return key


def _set_price(model: BaseModel, kind: Price.Kind, window: str, price: TokenPrice) -> None:
    prices = Price.objects.using(SYSTEM).select_for_update().filter(model=model, kind=kind, completion_window=window)
    newest = prices.order_by("-version").first()
    if newest and (newest.input_nanos, newest.cached_input_nanos, newest.output_nanos) == (
        price.input_nanos,
        price.cached_input_nanos,
        price.output_nanos,
    ):
        return
    Price.objects.using(SYSTEM).create(
        model=model,
        kind=kind,
        completion_window=window,
        version=newest.version + 1 if newest else 1,
        input_nanos=price.input_nanos,
        cached_input_nanos=price.cached_input_nanos,
        output_nanos=price.output_nanos,
    )
