"""Writes about models and prices: an operator's work, done in the system role."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from django.db import transaction
from jinja2 import TemplateError

from catalog.models import BaseModel, Price
from catalog.tokens import build_counter
from common.database import SYSTEM
from common.errors import HoneError
from common.storage import save_addressed

MANIFEST = "hone-model.json"
"""Written beside the weights by ``python -m inference_workers prepare``."""


@dataclass(frozen=True)
class TokenPrice:
    """Nano-USD per token."""

    input_nanos: int
    cached_input_nanos: int
    output_nanos: int


@dataclass(frozen=True)
class _PreparedModel:
    """What the catalogue takes from a prepared model's folder."""

    name: str
    revision: str
    source: str
    context_length: int
    capabilities: list[str]
    tokenizer: bytes
    chat_template: str
    special_tokens: dict[str, str]
    modules: dict[str, tuple[int, int]]
    """Empty where the folder was prepared before they were noted."""


@dataclass(frozen=True, kw_only=True)
class TunedPrices:
    """What models that are fine-tuned from a base cost, where that is not what the base costs itself."""

    online: TokenPrice
    batch: Mapping[str, TokenPrice]


def register_model(
    *,
    directory: Path,
    online: TokenPrice,
    batch: Mapping[str, TokenPrice],
    training: TokenPrice | None = None,
    tuned: TunedPrices | None = None,
) -> BaseModel:
    """Put a prepared model into the catalogue, or bring its entry and prices up to date. Safe to repeat.

    ``batch`` has a price for each completion window that is offered. A model without a price of training cannot be
    fine-tuned.
    """
    prepared = _read(directory)
    tokenizer_key = save_addressed("catalog/tokenizers", prepared.tokenizer)
    modules_key = save_addressed("catalog/modules", orjson.dumps(prepared.modules)) if prepared.modules else ""
    with transaction.atomic(using=SYSTEM):
        # Locks the model's row, so that two registrations number their prices one after the other.
        model, _ = BaseModel.objects.using(SYSTEM).update_or_create(
            name=prepared.name,
            defaults={
                "revision": prepared.revision,
                "source": prepared.source,
                "context_length": prepared.context_length,
                "capabilities": prepared.capabilities,
                "tokenizer_key": tokenizer_key,
                "chat_template": prepared.chat_template,
                "special_tokens": prepared.special_tokens,
                "modules_key": modules_key,
                "is_active": True,
            },
        )
        _set_price(model, Price.Kind.ONLINE, "", online)
        for window, price in batch.items():
            _set_price(model, Price.Kind.BATCH, window, price)
        if training:
            _set_price(model, Price.Kind.TRAINING, "", training)
        if tuned:
            _set_price(model, Price.Kind.TUNED_ONLINE, "", tuned.online)
            for window, price in tuned.batch.items():
                _set_price(model, Price.Kind.TUNED_BATCH, window, price)
    return model


def retire_model(*, name: str) -> None:
    """Take a model out of the catalogue: nothing new may name it, and what waits for it fails clearly."""
    if not BaseModel.objects.using(SYSTEM).filter(name=name).update(is_active=False):
        raise HoneError("model_not_found", f"The model '{name}' does not exist", param="model")


def _read(directory: Path) -> _PreparedModel:
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        config: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_text())
        template_file = directory / "chat_template.jinja"
        prepared = _PreparedModel(
            name=manifest["name"],
            revision=manifest["revision"],
            source=manifest["source"],
            context_length=manifest["context_length"],
            capabilities=sorted(BaseModel.Capability(capability) for capability in manifest["capabilities"]),
            tokenizer=(directory / "tokenizer.json").read_bytes(),
            chat_template=template_file.read_text() if template_file.exists() else config.get("chat_template") or "",
            special_tokens={
                name: value["content"] if isinstance(value, dict) else value
                for name, value in config.items()
                if name.endswith("_token") and isinstance(value, (str, dict))
            },
            modules={name: (int(out), int(into)) for name, (out, into) in manifest.get("modules", {}).items()},
        )
        if not re.fullmatch(r"[\w.:-]{1,200}", prepared.name, re.ASCII):
            raise ValueError(f"the name {prepared.name!r} is not made of letters, digits and . _ : -")
        if prepared.context_length < 1:
            raise ValueError(f"a context of {prepared.context_length} tokens")
        # What the control plane cannot count with it must not sell.
        build_counter(prepared.tokenizer, prepared.chat_template, prepared.special_tokens).count_text("a")
    except KeyError as error:
        raise HoneError("invalid_value", f"{directory} is not a prepared model: {error} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError, TemplateError) as error:
        raise HoneError("invalid_value", f"{directory} is not a prepared model: {error}") from error
    return prepared


def _set_price(model: BaseModel, kind: Price.Kind, window: str, price: TokenPrice) -> None:
    prices = Price.objects.using(SYSTEM).filter(model=model, kind=kind, completion_window=window)
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
