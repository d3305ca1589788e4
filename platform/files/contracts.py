"""Files and uploads in the published schema: what requests may hold, and the objects that answer them."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from common.contract import Content, Contract, Form, Query, listing, page_query
from common.http import StrictSerializer
from common.shapes import (
    Shape,
    anything,
    constant,
    count,
    deleted,
    integer,
    moment,
    nullable,
    number,
    one_of,
    text,
    wire_id,
)
from files.models import FileReport, StoredFile, Upload, UploadPart
from files.services import UPLOAD_PURPOSES
from files.uploads import MAX_PARTS

MAX_LIST = 10_000
EXPIRY_SECONDS = range(3_600, 2_592_001)


class ExpiresAfterSerializer(StrictSerializer):
    """When a file expires."""

    anchor = serializers.ChoiceField(choices=["created_at"])
    seconds = serializers.IntegerField(min_value=EXPIRY_SECONDS[0], max_value=EXPIRY_SECONDS[-1])


@extend_schema_field({"type": "string", "enum": sorted(UPLOAD_PURPOSES)})
class PurposeField(serializers.CharField):
    """What a file is for; another one is ``invalid_purpose``."""


class CreateUploadSerializer(StrictSerializer):
    """Body of ``POST /v1/uploads``. OpenAI wants ``mime_type``; here a file's purpose says what it is."""

    filename = serializers.CharField(max_length=4_096, trim_whitespace=False)
    purpose = PurposeField(max_length=64)
    bytes = serializers.IntegerField(min_value=0)
    mime_type = serializers.CharField(max_length=255)
    expires_after = ExpiresAfterSerializer(required=False, allow_null=True)


class CompleteUploadSerializer(StrictSerializer):
    """Body of ``POST /v1/uploads/{id}/complete``."""

    part_ids = serializers.ListField(
        child=serializers.CharField(max_length=64), allow_empty=False, max_length=MAX_PARTS
    )
    md5 = serializers.RegexField(r"\A[0-9a-fA-F]{32}\Z", required=False, allow_null=True)


FILE = Shape(
    name="File",
    about="A stored file. `sha256` and `duplicate_of` are Hone's.",
    fields={
        "id": wire_id(StoredFile.ID_PREFIX),
        "object": constant("file"),
        "bytes": count("How large it is."),
        "created_at": moment(),
        "expires_at": nullable(moment("When it is deleted; null is never.")),
        "filename": text(most=255),
        "purpose": one_of(StoredFile.Purpose.values),
        "status": one_of(["processed"], "Files can be used at once."),
        "status_details": nullable(text("Deprecated by OpenAI; always null.")),
        "sha256": text("Of its bytes, in hexadecimal.", pattern="^[0-9a-f]{64}$"),
        "duplicate_of": nullable(
            wire_id(StoredFile.ID_PREFIX, "The project's oldest file with the same bytes, where there is one.")
        ),
    },
)
UPLOAD = Shape(
    name="Upload",
    about="A file that arrives in parts.",
    fields={
        "id": wire_id(Upload.ID_PREFIX),
        "object": constant("upload"),
        "bytes": count("How large the file is to be."),
        "created_at": moment(),
        "expires_at": moment("Until when it must be complete."),
        "filename": text(most=255),
        "purpose": one_of(sorted(UPLOAD_PURPOSES)),
        "status": one_of(Upload.Status.values),
        "file": nullable(FILE),
    },
)
PART = Shape(
    name="UploadPart",
    about="Some of the bytes of an upload.",
    fields={
        "id": wire_id(UploadPart.ID_PREFIX),
        "object": constant("upload.part"),
        "created_at": moment(),
        "upload_id": wire_id(Upload.ID_PREFIX),
    },
)
_STORED = ("empty_file", "file_too_large", "storage_quota_exceeded", "storage_full")
_BYTES_HEADERS = {
    "Content-Disposition": "The file's name.",
    "Accept-Ranges": "`bytes`.",
    "ETag": "The SHA-256 of the whole file.",
}

CREATE_FILE = Contract(
    summary="Upload a file",
    description="Large ones go in parts: `POST /v1/uploads`.",
    body=Form(
        name="CreateFile",
        about="The file and what it is for.",
        file_field="file",
        fields={"purpose": one_of(sorted(UPLOAD_PURPOSES), "What it is for.")},
        optional={
            "expires_after[anchor]": one_of(["created_at"], "From when on its time counts."),
            "expires_after[seconds]": integer(
                "For how long it is kept. Files for batches are kept for 30 days unless it is given.",
                least=EXPIRY_SECONDS[0],
                most=EXPIRY_SECONDS[-1],
            ),
        },
    ),
    creates=True,
    answer=FILE,
    errors=(*_STORED, "invalid_purpose"),
)
LIST_FILES = Contract(
    summary="List the project's files",
    query=(
        *page_query(StoredFile.ID_PREFIX, max_limit=MAX_LIST, default_limit=MAX_LIST),
        Query(name="purpose", schema=one_of(StoredFile.Purpose.values), about="Those with this purpose alone."),
    ),
    answer=listing(FILE),
    errors=("invalid_purpose",),
)
RETRIEVE_FILE = Contract(summary="Show a file", answer=FILE)
DELETE_FILE = Contract(
    summary="Delete a file",
    description="Refused while a job that runs needs it.",
    answer=deleted("file", StoredFile.ID_PREFIX, name="DeletedFile"),
    errors=("file_in_use",),
)
FILE_CONTENT = Contract(
    summary="Read a file's bytes",
    description="Whole, or the one range that the header `Range` asks for.",
    contents=(
        Content(about="All of them.", headers=_BYTES_HEADERS),
        Content(
            status=206, about="The range.", headers={**_BYTES_HEADERS, "Content-Range": "Which bytes of how many."}
        ),
    ),
    errors=("range_not_satisfiable",),
)
REPORT = Shape(
    name="FileReport",
    about="What the rows of a file are like. Once it is completed it holds statistics, bad rows, duplicates, and more.",
    fields={
        "object": constant("file.report"),
        "file_id": wire_id(StoredFile.ID_PREFIX),
        "status": one_of(FileReport.State.values),
        "progress": number("From 0 to 1."),
        "created_at": moment(),
        "finished_at": nullable(moment()),
        "error": nullable(anything("`code` and `message` of a report that could not be made.")),
        "rejects_bytes": nullable(count("How large the file of bad rows is.")),
    },
    others={},
)
_REPORTED = ("invalid_purpose", "model_not_found", "unknown_parameter", "invalid_json", "invalid_type", "conflict")
FILE_REPORT = Contract(
    summary="Show what the rows of a file are like",
    description="Of files with the purpose `fine-tune` or `batch`. A report that nobody has asked for before is begun.",
    query=(
        Query(name="model", schema=text(), about="Hold the rows against this model: tokens, what is cut, the cost."),
        Query(name="recipe", schema=text(), about="Read the rows as this recipe does."),
        Query(name="column_mapping", schema=text(), about="Read a table's columns so: a JSON object."),
        Query(name="validation_file", schema=text(), about="Say which rows stand in this file, too."),
        Query(name="endpoint", schema=text(), about="Of a file for batches: what its rows call."),
        Query(name="completion_window", schema=text(), about="Of a file for batches: whose prices hold."),
    ),
    answer=REPORT,
    errors=_REPORTED,
)
FILE_REJECTS = Contract(
    summary="Download the bad rows of a file",
    description="With what is wrong with each; once the report is completed.",
    query=FILE_REPORT.query,
    contents=(Content(media_type="application/x-ndjson", about="One object a line."),),
    errors=_REPORTED,
)
CREATE_UPLOAD = Contract(
    summary="Announce a file that comes in parts",
    description="Its room is reserved for an hour.",
    body=CreateUploadSerializer,
    creates=True,
    answer=UPLOAD,
    errors=(*_STORED, "invalid_purpose"),
)
ADD_PART = Contract(
    summary="Send a part",
    description="Parts may come at once and in any order.",
    body=Form(name="AddUploadPart", about="The bytes.", file_field="data"),
    creates=True,
    answer=PART,
    errors=(*_STORED, "conflict"),
)
COMPLETE_UPLOAD = Contract(
    summary="Make the file of its parts",
    description="`part_ids` say their order, `md5` what must have come of it.",
    body=CompleteUploadSerializer,
    creates=True,
    answer=UPLOAD,
    errors=(*_STORED, "conflict", "checksum_mismatch"),
)
CANCEL_UPLOAD = Contract(summary="Give an upload up", answer=UPLOAD, errors=("conflict",))
