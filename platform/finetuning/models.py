"""What a fine-tuned model goes through before it can be called."""

from django.db import models

from catalog.models import FineTunedModel
from common.ids import uuid7
from fleet.models import Lease
from tenants.models import TenantModel, tenant_key


class Canary(TenantModel):
    """The trial of a model on a node."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = tenant_key(FineTunedModel)
    lease = models.OneToOneField(Lease, on_delete=models.PROTECT, related_name="+", db_constraint=False)
