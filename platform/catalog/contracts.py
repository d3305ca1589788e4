"""Models, and what projects restrict for themselves, in the published schema."""

from rest_framework import serializers

from catalog.models import BaseModel, FineTunedModel, ModelPolicy
from catalog.restrictions import LIMIT_PREFIX
from common.contract import Contract, listing, two_way_query, whole_list
from common.http import StrictSerializer
from common.shapes import Shape, array, constant, count, integer, moment, nullable, one_of, text

MAX_LIMIT = 2**31 - 1


class ModelPolicySerializer(StrictSerializer):
    """Body of ``POST .../model_permissions``."""

    mode = serializers.ChoiceField(choices=ModelPolicy.Mode.values)
    model_ids = serializers.ListField(child=serializers.CharField(max_length=200), max_length=1_000)


class RateLimitSerializer(StrictSerializer):
    """Body of ``POST .../rate_limits/{id}``; null, which is ours, goes back to the installation's limit."""

    max_requests_per_1_minute = serializers.IntegerField(
        min_value=0, max_value=MAX_LIMIT, required=False, allow_null=True
    )
    max_tokens_per_1_minute = serializers.IntegerField(min_value=0, required=False, allow_null=True)
    max_requests_per_1_day = serializers.IntegerField(min_value=0, max_value=MAX_LIMIT, required=False, allow_null=True)
    batch_1_day_max_input_tokens = serializers.IntegerField(min_value=0, required=False, allow_null=True)


MODEL = Shape(
    name="Model",
    about="A model that the key may use. `context_length`, `capabilities` and `revision` are Hone's.",
    fields={
        "id": text("Its name.", most=200),
        "object": constant("model"),
        "created": moment(),
        "owned_by": text(),
        "context_length": integer("In tokens, prompt and answer together.", least=1),
        "capabilities": array(one_of(BaseModel.Capability.values)),
        "revision": text("Digest of the weights and the tokenizer."),
    },
    optional={
        "base": text("Of a fine-tuned model: what it was tuned from. It and what follows are Hone's."),
        "alias_of": nullable(text("Of an alias: the model that it stands for.")),
        "job": text("The fine-tuning job that it comes from."),
        "step": nullable(count("Of a checkpoint.")),
        "status": one_of([*FineTunedModel.State.values, "outdated"], "It can be called while it is `ready`."),
        "refusal": nullable(text("Why it cannot be called.")),
    },
)
_LIMIT_ID = text(f"`{LIMIT_PREFIX}` and the model's name.", pattern=f"^{LIMIT_PREFIX}.+$")
RATE_LIMIT = Shape(
    name="ProjectRateLimit",
    about="What a project may ask of one model: its own limits, or the installation's where those are lower.",
    fields={
        "id": _LIMIT_ID,
        "object": constant("project.rate_limit"),
        "model": text(),
        "max_requests_per_1_minute": count(),
        "max_tokens_per_1_minute": count(),
        "max_requests_per_1_day": nullable(count("null is without a limit.")),
        "batch_1_day_max_input_tokens": count(
            "Estimated input tokens of all the project's batch requests that wait or run."
        ),
    },
)
POLICY = Shape(
    name="ProjectModelPermissions",
    about="Which models a project may use: those named alone, or all but those.",
    fields={
        "object": constant("project.model_permissions"),
        "mode": one_of(ModelPolicy.Mode.values),
        "model_ids": array(text()),
    },
)

LIST_MODELS = Contract(
    summary="List the models that the key may use", answer=whole_list(MODEL, name="ModelList")
)  # fmt: skip
RETRIEVE_MODEL = Contract(summary="Show a model", answer=MODEL, errors=("model_not_found",))
DELETE_MODEL = Contract(
    summary="Delete a fine-tuned model",
    description="Nobody can call it from now on; its weights go.",
    answer=Shape(
        name="DeletedModel",
        about="That it is gone.",
        fields={"id": text(), "object": constant("model"), "deleted": constant(value=True)},
    ),
    errors=("model_not_found", "model_in_use", "conflict"),
)
LIST_RATE_LIMITS = Contract(
    summary="List a project's limits, model by model",
    query=two_way_query(text(), max_limit=1_000, default_limit=100),
    answer=listing(RATE_LIMIT),
)
UPDATE_RATE_LIMIT = Contract(
    summary="Lower a project's limits for a model",
    description="null goes back to the installation's limit.",
    body=RateLimitSerializer,
    answer=RATE_LIMIT,
    errors=("conflict",),
)
RETRIEVE_POLICY = Contract(
    summary="Show which models a project may use",
    description="A project without a policy denies nothing.",
    answer=POLICY,
)
UPDATE_POLICY = Contract(
    summary="Say which models a project may use",
    body=ModelPolicySerializer,
    answer=POLICY,
    errors=("model_not_found", "conflict"),
)
DELETE_POLICY = Contract(
    summary="Let a project use all models again",
    answer=Shape(
        name="DeletedProjectModelPermissions",
        about="That they are gone.",
        fields={"object": constant("project.model_permissions.deleted"), "deleted": constant(value=True)},
    ),
    errors=("conflict",),
)
