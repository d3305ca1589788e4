"""Which tables hold something of an organisation, read from the models, so that a later one is covered by default."""

import re
from graphlib import TopologicalSorter

from django.apps import apps
from django.db import models

from tenants.models import ApiKey, AuditEvent, Membership, Organization, Project, ServiceAccount, TenantModel

KEPT = {
    Organization._meta.db_table: "the tombstone that the rest of this list belongs to; its name is erased",
    AuditEvent._meta.db_table: "who did what",
    "metering_usageevent": "what was charged for",
    "metering_usagehour": "what was charged for",
    "billing_account": "the ledger",
    "billing_posting": "the ledger",
    "billing_hold": "the ledger",
}
"""Tables that outlive their organisation, and why: the law and the books need them. Everything else is removed."""

EMPTIED: tuple[type[TenantModel], ...] = (ApiKey, ServiceAccount, Project)
"""Models whose rows stay where a row of :data:`KEPT` refers to them, without anything that says what they were."""

_SECRET = re.compile(r"secret|password|digest|pepper|(^|_)token$")


def tenant_models() -> list[type[TenantModel]]:
    """All of them, those that refer before those that are referred to."""
    found = [model for model in apps.get_models() if issubclass(model, TenantModel)]
    order: TopologicalSorter[type[TenantModel]] = TopologicalSorter(dict.fromkeys(found, ()))
    for model in found:
        for _, target in references(model):
            if target is not model:
                order.add(target, model)
    return list(order.static_order())


def removed_models() -> list[type[TenantModel]]:
    """What a deletion removes, in its order. Memberships apart, which go together with the people they are of."""
    return [model for model in tenant_models() if model._meta.db_table not in KEPT and model is not Membership]


def references(model: type[models.Model]) -> list[tuple[str, type[TenantModel]]]:
    """``(column, model)`` of what the rows of a model refer to among tenant models."""
    return [
        (field.column, field.related_model)
        for field in model._meta.concrete_fields
        if field.column and isinstance(field.related_model, type) and issubclass(field.related_model, TenantModel)
    ]


def secret_columns(model: type[models.Model]) -> list[str]:
    """Columns that are never handed out, by type and by name: when in doubt a column is left out."""
    return [
        field.column
        for field in model._meta.concrete_fields
        if field.column and (isinstance(field, models.BinaryField) or _SECRET.search(field.column))
    ]
