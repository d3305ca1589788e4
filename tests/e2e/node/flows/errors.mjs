import assert from "node:assert/strict";
import {
  AuthenticationError, BadRequestError, ConflictError, NotFoundError, PermissionDeniedError,
} from "openai";
import { client, connect, defaultProject, HONE_ADMIN_KEY, organization, refused } from "../support.mjs";

await refused(client.files.content(`file-${"0".repeat(32)}`), NotFoundError, {
  status: 404, code: "not_found", param: "id",
});
await refused(client.files.create({ file: new File(["x"], "x"), purpose: "nonsense" }), BadRequestError, {
  status: 400, code: "invalid_purpose", param: "purpose",
});
await refused(client.files.create({ file: new File([""], "x"), purpose: "batch" }), BadRequestError, {
  status: 400, code: "empty_file", param: "file",
});
await refused(connect({ apiKey: "hone_sk_no_key" }).models.list(), AuthenticationError, {
  status: 401, code: "invalid_api_key",
});
await refused(connect({ apiKey: HONE_ADMIN_KEY }).models.list(), PermissionDeniedError, {
  status: 403, code: "wrong_key_type",
});
const elsewhere = connect({ organization: `org_${"0".repeat(32)}` });
await refused(elsewhere.models.list(), AuthenticationError, { status: 401, code: "organization_mismatch" });

const narrow = await organization.adminAPIKeys.create({ name: "Narrow", scopes: ["audit.read"] });
const reader = connect({ adminAPIKey: narrow.value }).admin.organization;
await refused(reader.users.list(), PermissionDeniedError, { status: 403, code: "insufficient_scope" });
await assert.rejects(async () => reader.users.list(), /'members\.read'/);
assert.ok((await reader.auditLogs.list()).data.length > 0);

// What waiting cannot cure is not tried again, though the SDK repeats conflicts by itself.
const archived = await organization.projects.create({ name: "Past" });
await organization.projects.archive(archived.id);
let calls = 0;
const counting = connect({ maxRetries: 2, fetch: (...request) => ((calls += 1), fetch(...request)) });
await refused(counting.admin.organization.projects.update(archived.id, { name: "Again" }), ConflictError, {
  status: 409, code: "conflict", param: "project_id",
});
assert.equal(calls, 1);

const { response, request_id } = await client.models.list().withResponse();
assert.match(request_id, /^req_/);
assert.equal(response.headers.get("openai-version"), "2020-10-01");
assert.match(await defaultProject(), /^proj_/);
