"""One family of errors for the whole control plane, in OpenAI's shape, with a published registry of codes."""

from dataclasses import dataclass
from typing import Any

from common.masking import masked

SERVER = "server_error"
INVALID = "invalid_request_error"


@dataclass(frozen=True)
class ErrorKind:
    """What a code means: HTTP status, OpenAI ``type``, whether waiting may cure it, and a line for the docs."""

    status: int
    type: str
    meaning: str
    retry: bool = False


REQUEST_CODES: dict[str, ErrorKind] = {
    "invalid_request": ErrorKind(400, INVALID, "The request is malformed in a way no other code names."),
    "invalid_json": ErrorKind(400, INVALID, "The body is not valid JSON in UTF-8."),
    "invalid_multipart": ErrorKind(400, INVALID, "The multipart body is malformed or was cut off."),
    "missing_required_parameter": ErrorKind(400, INVALID, "A required parameter is missing; `param` names it."),
    "unknown_parameter": ErrorKind(400, INVALID, "A parameter that this route does not take; `param` names it."),
    "invalid_type": ErrorKind(400, INVALID, "A parameter has the wrong JSON type."),
    "invalid_value": ErrorKind(400, INVALID, "A parameter has a value that is not allowed."),
    "invalid_purpose": ErrorKind(400, INVALID, "The file's purpose does not fit this use."),
    "idempotency_key_reused": ErrorKind(
        400, INVALID, "The Idempotency-Key stands for a request with other parameters."
    ),
    "empty_file": ErrorKind(400, INVALID, "The file is empty, or holds no request."),
    "adapter_refused": ErrorKind(400, INVALID, "The adapter cannot be served; the message says what is wrong with it."),
    "checksum_mismatch": ErrorKind(400, INVALID, "The bytes received are not those of the checksum sent with them."),
    "invalid_api_key": ErrorKind(401, INVALID, "No key was sent, or it is unknown, expired or revoked."),
    "invalid_session": ErrorKind(401, INVALID, "No session token was sent, or nobody is signed in with it (any more)."),
    "organization_inactive": ErrorKind(403, INVALID, "The organisation is suspended or the project archived."),
    "insufficient_scope": ErrorKind(
        403, INVALID, "The key, or the member's role, lacks a scope; the message names it."
    ),
    "ip_not_allowed": ErrorKind(403, INVALID, "The key may not be used from this address."),
    "wrong_key_type": ErrorKind(403, INVALID, "A project key on an admin route, or the other way round."),
    "organization_mismatch": ErrorKind(
        401, INVALID, "OpenAI-Organization or OpenAI-Project does not agree with the key."
    ),
    "storage_quota_exceeded": ErrorKind(
        403, "insufficient_quota", "The project stores as much as it may; the message says what to delete."
    ),
    "not_found": ErrorKind(404, INVALID, "No such object, or it is not yours."),
    "model_not_found": ErrorKind(404, INVALID, "No such model, or this key may not use it."),
    "unknown_url": ErrorKind(404, INVALID, "No route at this URL."),
    "method_not_allowed": ErrorKind(405, INVALID, "The route exists, not with this method."),
    "conflict": ErrorKind(409, INVALID, "The object's state does not allow this."),
    "file_in_use": ErrorKind(409, INVALID, "A running job uses the file; cancel the job or wait for it."),
    "model_in_use": ErrorKind(409, INVALID, "Something needs the fine-tuned model; the message names it."),
    "file_too_large": ErrorKind(413, INVALID, "The file exceeds the limit for its purpose."),
    "request_too_large": ErrorKind(413, INVALID, "The body exceeds the limit of this route."),
    "webhook_unreachable": ErrorKind(400, INVALID, "The endpoint gave no answer to a test; the message says why."),
    "unsupported_media_type": ErrorKind(415, INVALID, "The Content-Type is not one this route reads."),
    "range_not_satisfiable": ErrorKind(416, INVALID, "The Range lies outside the file."),
    "insufficient_quota": ErrorKind(
        429, "insufficient_quota", "Less credit is available than this needs; add credit, waiting does not help."
    ),
    "internal_error": ErrorKind(500, SERVER, "Our fault; quote the request id.", retry=True),
    "service_unavailable": ErrorKind(503, SERVER, "A part of the service is away for a moment.", retry=True),
    "storage_full": ErrorKind(507, SERVER, "The file store has no room; nothing was kept. The operator must act."),
}
ROW_CODES: dict[str, ErrorKind] = {
    "invalid_encoding": ErrorKind(400, INVALID, "The input file is not UTF-8."),
    "invalid_jsonl": ErrorKind(400, INVALID, "The input file is not JSON Lines (one object a line)."),
    "too_many_rows": ErrorKind(400, INVALID, "The input file holds more requests than allowed."),
    "invalid_json_line": ErrorKind(400, INVALID, "The line is not valid JSON."),
    "invalid_line": ErrorKind(400, INVALID, "The line is JSON, but not a batch request."),
    "line_too_large": ErrorKind(400, INVALID, "The line exceeds the limit for one request."),
    "duplicate_custom_id": ErrorKind(400, INVALID, "An earlier line has this custom_id already."),
    "invalid_method": ErrorKind(400, INVALID, "Only POST can be batched."),
    "invalid_url": ErrorKind(400, INVALID, "The line's url is not the batch's endpoint."),
    "stream_not_allowed": ErrorKind(400, INVALID, "A batched request cannot stream."),
    "context_length_exceeded": ErrorKind(400, INVALID, "Prompt and requested output exceed the model's context."),
    "endpoint_not_supported": ErrorKind(400, INVALID, "The model does not serve this endpoint."),
    "token_limit_exceeded": ErrorKind(
        429, INVALID, "The project has too many input tokens queued for the model; wait for its other batches."
    ),
    "batch_expired": ErrorKind(400, INVALID, "The row had not run when the completion window closed."),
    "batch_cancelled": ErrorKind(400, INVALID, "The row had not run when the batch was cancelled."),
    "request_timeout": ErrorKind(408, SERVER, "The engine took longer over the row than allowed."),
    "worker_failure": ErrorKind(500, SERVER, "The row could not be run, in several tries."),
    "batch_failed": ErrorKind(500, SERVER, "Validation, or writing the files, failed several times."),
}
JOB_CODES: dict[str, ErrorKind] = {
    "invalid_training_data": ErrorKind(400, INVALID, "The training file holds rows that cannot be trained on."),
    "training_failed": ErrorKind(500, SERVER, "The training could not be brought to its end; the message says why."),
    "job_failed": ErrorKind(500, SERVER, "Preparing the data or publishing the model failed several times."),
}
DATA_CODES: dict[str, ErrorKind] = {
    "invalid_header": ErrorKind(400, INVALID, "The table's first line does not name its columns."),
    "mapping_required": ErrorKind(400, INVALID, "Nothing says what the table's columns are."),
    "missing_column": ErrorKind(400, INVALID, "A column that the recipe or mapping names is not there."),
    "nothing_to_train": ErrorKind(400, INVALID, "No row is left to train on."),
    "invalid_row": ErrorKind(400, INVALID, "The line is JSON, but no object that can be read."),
    "invalid_csv_row": ErrorKind(400, INVALID, "The row is not valid CSV, mostly for a quote that is not closed."),
    "wrong_column_count": ErrorKind(400, INVALID, "The row has more or fewer cells than there are columns."),
    "unknown_row_format": ErrorKind(400, INVALID, "The row is neither chat, nor completion, nor preference."),
    "mixed_formats": ErrorKind(400, INVALID, "The row has another format than those before it."),
    "method_mismatch": ErrorKind(400, INVALID, "The method cannot learn from rows of this format."),
    "unknown_field": ErrorKind(400, INVALID, "The row or message has a member that is not known."),
    "empty_messages": ErrorKind(400, INVALID, "The conversation has no message."),
    "invalid_message": ErrorKind(400, INVALID, "The message is no object."),
    "invalid_role": ErrorKind(400, INVALID, "The message has no role, or one that is not known."),
    "system_not_first": ErrorKind(400, INVALID, "Instructions stand in the middle of the conversation."),
    "missing_content": ErrorKind(400, INVALID, "The message has no content."),
    "empty_content": ErrorKind(400, INVALID, "A text that is learnt, or asked, is empty."),
    "unsupported_content": ErrorKind(400, INVALID, "A part of the content is not text."),
    "invalid_characters": ErrorKind(400, INVALID, "A text holds a NUL character."),
    "no_assistant_message": ErrorKind(400, INVALID, "The conversation has no answer to learn."),
    "last_not_assistant": ErrorKind(400, INVALID, "The last message is not the assistant's."),
    "last_not_user": ErrorKind(400, INVALID, "A preference's input does not end with a question."),
    "invalid_weight": ErrorKind(400, INVALID, "The weight is not from 0 to 1, or not an answer's."),
    "nothing_trained": ErrorKind(400, INVALID, "All answers of the row have the weight 0."),
    "invalid_output": ErrorKind(400, INVALID, "A preference's output is not one message."),
    "identical_outputs": ErrorKind(400, INVALID, "Both outputs of a preference are the same."),
    "invalid_tools": ErrorKind(400, INVALID, "The tools of the row are not functions with names."),
    "invalid_tool_call": ErrorKind(400, INVALID, "A tool call has no id, or no function with a name."),
    "invalid_tool_arguments": ErrorKind(400, INVALID, "A tool call's arguments are not a JSON object as text."),
    "unknown_tool": ErrorKind(400, INVALID, "A tool call names a tool that the row does not list."),
    "unmatched_tool_call": ErrorKind(400, INVALID, "A tool's answer belongs to no call before it."),
    "deprecated_functions": ErrorKind(400, INVALID, "Functions are written as tools."),
    "unknown_label": ErrorKind(400, INVALID, "The answer is none of the recipe's or mapping's labels."),
    "too_many_labels": ErrorKind(400, INVALID, "There are too many different answers for a classification."),
    "invalid_json_answer": ErrorKind(400, INVALID, "The answer should be a JSON object, and is not."),
    "schema_mismatch": ErrorKind(400, INVALID, "The answer does not fit the JSON schema."),
    "template_refused": ErrorKind(400, INVALID, "The model's chat template refuses the conversation."),
    "template_unsupported": ErrorKind(
        400, INVALID, "The model's chat template writes the answer otherwise than it is asked for."
    ),
    "tools_not_supported": ErrorKind(400, INVALID, "The model's chat template has no place for tools."),
}
WORKER_CODES: dict[str, ErrorKind] = {
    "invalid_worker_token": ErrorKind(401, INVALID, "Unknown or revoked worker token."),
    "protocol_unsupported": ErrorKind(426, INVALID, "The node speaks a protocol version that is no longer served."),
    "node_replaced": ErrorKind(409, INVALID, "Another process has registered under this node's name."),
    "lease_lost": ErrorKind(409, INVALID, "The lease has ended or moved on; nothing was changed."),
    "segment_conflict": ErrorKind(409, INVALID, "This segment number holds other bytes, or a row already finished."),
    "rows_missing": ErrorKind(409, INVALID, "The lease cannot complete: rows have no result yet."),
    "events_out_of_order": ErrorKind(409, INVALID, "Events of the trainer are missing before these."),
    "artifacts_missing": ErrorKind(409, INVALID, "What the trainer has reported has not been put yet."),
    "artifact_conflict": ErrorKind(409, INVALID, "Other bytes stand there, of a checkpoint that has been reported."),
}
CODES = REQUEST_CODES | ROW_CODES | DATA_CODES | JOB_CODES | WORKER_CODES


class HoneError(Exception):
    """A failure that its caller can be told about. ``code`` decides status and type, see :data:`CODES`."""

    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        # Messages quote what the caller sent, and a key in the place of an id must not come back or be logged.
        message = masked(message)
        super().__init__(message)
        self.code = code
        self.kind = CODES[code]
        self.message = message
        self.param = masked(param) if param else None
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The response body: all four members, always."""
        return {
            "error": {"message": self.message, "type": self.kind.type, "param": self.param, "code": self.code},
        }

    def headers(self) -> dict[str, str]:
        """What the SDK's retry logic needs: it repeats 408, 409, 429 and 5xx unless told not to."""
        headers = {}
        if self.kind.status in (408, 409, 429) or self.kind.status >= 500:
            headers["x-should-retry"] = "true" if self.kind.retry else "false"
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.kind.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def not_found(thing: str, wire_id: str, *, param: str = "id") -> HoneError:
    """The one answer for an object that is missing and for one that is somebody else's."""
    return HoneError("not_found", f"No such {thing}: {wire_id}", param=param)
