"""Fine-tuned models as they come into the catalogue."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from catalog.adapters import AdapterFile
from catalog.models import BaseModel, FineTunedModel
from catalog.publishing import mark_ready, register_adapter
from common.ids import to_wire, uuid7
from common.storage import save_new
from tests.support.adapter_files import distinct_contents
from tests.support.cast import MODEL, Member


def stored(member: Member, contents: Mapping[str, bytes]) -> dict[str, AdapterFile]:
    """The files as a job keeps them: in the storage, under a kind of its own."""
    return {
        path: AdapterFile(
            sha256=sha256(content).hexdigest(),
            bytes=len(content),
            storage_key=save_new(member.organization.id, "training", content),
        )
        for path, content in contents.items()
    }


def register(
    member: Member, *, step: int | None = None, suffix: str = "bot", job: str = "", base: str = MODEL
) -> FineTunedModel:
    """A model that has been trained and not been tried; each has weights of its own."""
    job = job or to_wire("ftjob-", uuid7())
    return register_adapter(
        project=member.project,
        base=BaseModel.objects.get(name=base),
        job_id=job,
        step=step,
        suffix=suffix,
        files=stored(member, distinct_contents(f"{job}{step}")),
        manifest={"dataset": {"sha256": "d" * 64}},
    )


def publish(member: Member, **options: Any) -> FineTunedModel:
    """A model that can be called."""
    return mark_ready(model=register(member, **options))
