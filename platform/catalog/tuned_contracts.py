"""What belongs to fine-tuned models beside calling them, in the published schema."""

from rest_framework import serializers

from catalog.manifests import ALGORITHM
from catalog.models import AliasMove, CheckpointPermission, ModelAlias
from common.contract import Content, Contract, Query, cursor_query, limit_query, listing, page_query
from common.http import NoParametersSerializer, StrictSerializer
from common.shapes import Shape, anything, constant, deleted, moment, nullable, one_of, text, wire_id
from tenants.models import Project

MAX_LIMIT = 100


class CreateAliasSerializer(StrictSerializer):
    """Body of ``POST /v1/models/aliases``."""

    alias = serializers.CharField(max_length=64)
    model = serializers.CharField(max_length=200)


class PromoteSerializer(StrictSerializer):
    """Body of ``POST /v1/models/aliases/{alias}``."""

    model = serializers.CharField(max_length=200)


class PermissionSerializer(StrictSerializer):
    """Body of ``POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions``."""

    project_ids = serializers.ListField(
        child=serializers.CharField(max_length=100), min_length=1, max_length=100, allow_empty=False
    )


ALIAS = Shape(
    name="ModelAlias",
    about="A name of the project's own that stands for a fine-tuned model and can be moved to another.",
    fields={
        "id": wire_id(ModelAlias.ID_PREFIX),
        "object": constant("model_alias"),
        "alias": text(most=64),
        "model": text("What it stands for."),
        "previous_model": nullable(text("What a rollback lets it stand for again.")),
        "created_at": moment(),
        "updated_at": moment(),
    },
)
MOVE = Shape(
    name="ModelAliasMove",
    about="That an alias began to stand for a model.",
    fields={
        "id": wire_id(AliasMove.ID_PREFIX),
        "object": constant("model_alias.move"),
        "model": text(),
        "reason": text(),
        "actor": text("Who moved it."),
        "created_at": moment(),
    },
)
PERMISSION = Shape(
    name="CheckpointPermission",
    about="That a project may call a fine-tuned model of another.",
    fields={
        "id": wire_id(CheckpointPermission.ID_PREFIX),
        "object": constant("checkpoint.permission"),
        "created_at": moment(),
        "project_id": wire_id(Project.ID_PREFIX),
    },
)
MANIFEST = Shape(
    name="SignedManifest",
    about="Where a fine-tuned model comes from.",
    fields={
        "object": constant("model.manifest"),
        "model": text(),
        "manifest": anything("Names, digests, data, configuration, evidence."),
        "text": text("The manifest as `manifest.json` has it: what is signed, to the byte."),
        "signature": Shape(
            name="ManifestSignature",
            about="By the installation.",
            fields={"algorithm": constant(ALGORITHM), "key_id": text(), "value": text("In base64.")},
        ),
    },
)
SIGNING_KEY = Shape(
    name="SigningKey",
    about="With what manifests of this installation are verified.",
    fields={
        "id": text(),
        "object": constant("signing_key"),
        "algorithm": constant(ALGORITHM),
        "public_key": text("In PEM."),
    },
)

DOWNLOAD_MODEL = Contract(
    summary="Download a fine-tuned model",
    description="The adapter in PEFT's format (safetensors), and the signed manifest.",
    contents=(Content(media_type="application/x-tar", about="A tar archive."),),
    errors=("model_not_found",),
)
RETRIEVE_MANIFEST = Contract(
    summary="Show where a fine-tuned model comes from", answer=MANIFEST, errors=("model_not_found",)
)
RETRIEVE_SIGNING_KEY = Contract(summary="Show the key that manifests are verified with", answer=SIGNING_KEY)
CREATE_ALIAS = Contract(
    summary="Create an alias",
    body=CreateAliasSerializer,
    creates=True,
    answer=ALIAS,
    errors=("model_not_found", "conflict"),
)
LIST_ALIASES = Contract(summary="List aliases", query=page_query(ModelAlias.ID_PREFIX), answer=listing(ALIAS))
RETRIEVE_ALIAS = Contract(summary="Show an alias", answer=ALIAS)
PROMOTE_ALIAS = Contract(
    summary="Let an alias stand for another model",
    body=PromoteSerializer,
    answer=ALIAS,
    errors=("model_not_found",),
)
DELETE_ALIAS = Contract(
    summary="Delete an alias",
    description="What it stands for stays.",
    answer=Shape(
        name="DeletedModelAlias",
        about="That it is gone.",
        fields={"id": text(), "object": constant("model_alias"), "deleted": constant(value=True)},
    ),
)
ROLL_BACK_ALIAS = Contract(
    summary="Let an alias stand for what it stood for before",
    body=NoParametersSerializer,
    answer=ALIAS,
    errors=("conflict", "model_not_found"),
)
LIST_MOVES = Contract(
    summary="List what an alias has stood for", query=page_query(AliasMove.ID_PREFIX), answer=listing(MOVE)
)
CREATE_PERMISSIONS = Contract(
    summary="Let projects call a fine-tuned model",
    body=PermissionSerializer,
    answer=listing(PERMISSION),
    errors=("model_not_found",),
)
LIST_PERMISSIONS = Contract(
    summary="List which projects may call a fine-tuned model",
    query=(
        limit_query(max_limit=MAX_LIMIT, default_limit=20),
        cursor_query("after", wire_id(CheckpointPermission.ID_PREFIX)),
        Query(
            name="order", schema=one_of(["ascending", "descending"]), about="By creation; `descending` if not given."
        ),
        Query(name="project_id", schema=text(), about="Of this project alone."),
    ),
    answer=listing(PERMISSION),
    errors=("model_not_found",),
)
DELETE_PERMISSION = Contract(
    summary="Withdraw a permission",
    answer=deleted("checkpoint.permission", CheckpointPermission.ID_PREFIX, name="DeletedCheckpointPermission"),
    errors=("model_not_found",),
)
