"""``/v1/models``."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from catalog.models import BaseModel
from catalog.selectors import get_model, usable_models
from tenants.access import TenantAPIView


def render_model(model: BaseModel) -> dict[str, Any]:
    """The wire object; the last three members are ours."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "hone",
        "context_length": model.context_length,
        "capabilities": sorted(model.capabilities),
        "revision": model.revision,
    }


class ModelListView(TenantAPIView):
    """All models the key may use, unpaged as in OpenAI's API."""

    operations: ClassVar = {"GET": "models.list"}

    def get(self, request: Request) -> Response:
        """The list."""
        models = usable_models(key=self.principal.key).order_by("name")
        return Response({"object": "list", "data": [render_model(model) for model in models]})


class ModelView(TenantAPIView):
    """One model."""

    operations: ClassVar = {"GET": "models.retrieve"}

    def get(self, request: Request, name: str) -> Response:
        """The model object."""
        return Response(render_model(get_model(key=self.principal.key, name=name)))
